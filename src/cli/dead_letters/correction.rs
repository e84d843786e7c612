//! Events that an operator corrects. They are checked like new ones before they are published.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::{
    DeadLettersCli,
    editor::{edit, file_for, kept_file_hint, readable},
    field_changes::{Change, assignment, changes, rename, renaming, set},
};
use crate::{
    audit::store::actions::FieldChange,
    broker::{DeliveryHeaders, Message},
    channel::{email, sms},
    cli::{read_input, render},
    delivery::dead_letters::Publication,
    event::{self, Event, IdSource, Properties},
    failure::{EXIT_DATA, Failure},
    routing::{ChannelKind, Delivery, Lookup, Recipients, RoutingTable},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct CorrectionArgs {
    /// Correct the event in $VISUAL or $EDITOR.
    #[arg(long, conflicts_with_all = ["with", "set", "rename"])]
    edit: bool,
    /// File with the corrected event; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["set", "rename"])]
    with: Option<PathBuf>,
    /// Field to set: VALUE is JSON or text, dots lead into objects, null removes it. Repeatable.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Field to rename, before others are set; dots lead into objects. Repeatable.
    #[arg(long, value_name = "OLD=NEW")]
    rename: Vec<String>,
}

pub(super) enum Correction {
    Edit,
    /// The whole event.
    With(String),
    /// Fields by their paths.
    Fields {
        renamed: Vec<(String, String)>,
        set: Vec<(String, Value)>,
    },
}

/// A checked correction.
pub(super) struct Corrected {
    pub(super) publication: Publication,
    pub(super) changes: Vec<Change>,
    /// File in which the event was edited.
    pub(super) file: Option<PathBuf>,
}

impl Corrected {
    pub(super) fn unchanged(publication: Publication) -> Self {
        Self { publication, changes: Vec::new(), file: None }
    }

    /// The changes as the audit records them.
    pub(super) fn records(&self, routing: &RoutingTable) -> Vec<FieldChange> {
        let changes = self.changes.iter();
        changes.map(|change| change.to_record(|name| routing.is_secret(name))).collect()
    }
}

impl Correction {
    pub(super) fn from_args(args: &CorrectionArgs) -> Result<Option<Self>, Failure> {
        Ok(match args {
            CorrectionArgs { edit: true, .. } => Some(Self::Edit),
            CorrectionArgs { with: Some(file), .. } => Some(Self::With(read_input(file)?)),
            CorrectionArgs { set, rename, .. } if !set.is_empty() || !rename.is_empty() => {
                let faulty = |error| Failure::new(EXIT_DATA, error);
                let set = set.iter().map(|text| assignment(text));
                let renamed = rename.iter().map(|text| renaming(text));
                Some(Self::Fields {
                    set: set.collect::<anyhow::Result<_>>().map_err(faulty)?,
                    renamed: renamed.collect::<anyhow::Result<_>>().map_err(faulty)?,
                })
            }
            _ => None,
        })
    }

    /// Whether it can't be applied to more than one message.
    pub(super) fn is_for_one(&self) -> bool {
        !matches!(self, Self::Fields { .. })
    }

    /// Returns the corrected event, and the file in which it was edited.
    async fn apply(
        &self,
        message: &Message,
        headers: &DeliveryHeaders,
    ) -> anyhow::Result<(Value, Option<PathBuf>)> {
        match self {
            Self::With(text) => Ok((parse_json(text)?, None)),
            Self::Fields { renamed, set: fields } => {
                let body = event::read_json(&message.body).context("the body is not JSON")?;
                Ok((set(rename(body, renamed)?, fields)?, None))
            }
            Self::Edit => {
                let file = file_for(&headers.delivery_id);
                let body = readable(&message.body);
                let path = file.clone();
                let edited = tokio::task::spawn_blocking(move || edit(&path, &body));
                let text = edited.await.context("the editor")??;
                let event = parse_json(&text).with_context(|| kept_file_hint(&file))?;
                Ok((event, Some(file)))
            }
        }
    }
}

impl DeadLettersCli {
    /// Corrects and checks a message, or says why it can't be published.
    pub(super) async fn correct(
        &self,
        message: &Message,
        headers: &DeliveryHeaders,
        correction: &Correction,
        reason: &str,
    ) -> Result<Corrected, String> {
        let (event, file) =
            correction.apply(message, headers).await.map_err(|error| format!("{error:#}"))?;
        let before = event::read_json(&message.body).ok();
        let changes = changes(before.as_ref(), &event);
        let checked = if changes.is_empty() {
            Err("nothing was changed".to_owned())
        } else if headers.route.is_empty() {
            self.correct_event(message, headers, &event)
        } else {
            self.correct_delivery(message, headers, &event, reason)
        };
        match (checked, file) {
            (Ok(publication), file) => Ok(Corrected { publication, changes, file }),
            (Err(fault), Some(file)) => Err(format!("{fault}; {}", kept_file_hint(&file))),
            (Err(fault), None) => Err(fault),
        }
    }

    /// The corrected event stands for one delivery; the other deliveries of its event are not repeated.
    fn correct_delivery(
        &self,
        message: &Message,
        headers: &DeliveryHeaders,
        corrected: &Value,
        reason: &str,
    ) -> Result<Publication, String> {
        let routing = &self.loaded.routing;
        let route = routing.route(&headers.route);
        let route =
            route.ok_or_else(|| format!("there is no route {:?} any more", headers.route))?;
        let body = corrected.to_string().into_bytes();
        let mut properties = message.properties.clone();
        let mut event = parse_event(&body, &properties, &headers.origin)?;
        if event.id.source == IdSource::Body {
            // The id was a hash of the body, and has to survive the correction.
            properties.message_id = Some(headers.event_id.clone());
            event = parse_event(&body, &properties, &headers.origin)?;
        }
        if event.id.value != headers.event_id {
            return Err(format!("the event's id must stay {:?}", headers.event_id));
        }
        if event.kind != route.event && !route.aliases.contains(&event.kind) {
            return Err(format!("events of type {:?} have another route", event.kind));
        }
        routing.normalize(&mut event);
        let deliveries = routing.deliveries(std::slice::from_ref(route), &event, &self.identity);
        let delivery = deliveries.into_iter().find(|delivery| {
            !matches!(route.recipients, Recipients::Fixed(_))
                || delivery.recipient.as_str().eq_ignore_ascii_case(&headers.recipient)
        });
        let delivery = delivery.ok_or("its recipient is not in the settings any more")?;
        self.check(&delivery, &event)?;
        // Another address or business key makes another delivery.
        let is_same = delivery.id == headers.delivery_id;
        let headers = DeliveryHeaders {
            delivery_id: delivery.id.clone(),
            recipient: delivery.recipient.as_str().to_owned(),
            attempt: if is_same { headers.attempt + 1 } else { 1 },
            reason: format!("corrected by an operator: {reason}"),
            corrected: true,
            ..headers.clone()
        };
        let message = Message { body, properties, ..message.clone() };
        Ok(Publication::republish(headers, delivery.priority, message))
    }

    /// The message never became a delivery: all routes of the corrected event apply.
    fn correct_event(
        &self,
        message: &Message,
        headers: &DeliveryHeaders,
        corrected: &Value,
    ) -> Result<Publication, String> {
        let content_type = match corrected.get("specversion") {
            Some(_) => "application/cloudevents+json",
            None => "application/json",
        };
        let properties = Properties {
            content_type: Some(content_type.to_owned()),
            content_encoding: None,
            ..message.properties.clone()
        };
        let body = corrected.to_string().into_bytes();
        let message = Message { body, properties, delivery_headers: None, ..message.clone() };
        let queue = self.handling().source_queue(&message, headers)?;
        let mut message = message;
        let mut event = parse_event(&message.body, &message.properties, &queue)?;
        if event.id.source == IdSource::Body && !headers.event_id.is_empty() {
            // The id was a hash of the body, and has to survive the correction.
            message.properties.message_id = Some(headers.event_id.clone());
            event = parse_event(&message.body, &message.properties, &queue)?;
        }
        let routing = &self.loaded.routing;
        routing.normalize(&mut event);
        let Lookup::Routes(routes) = routing.lookup(&event.kind) else {
            return Err(format!("unknown event type {:?}", event.kind));
        };
        for delivery in routing.deliveries(routes, &event, &self.identity) {
            self.check(&delivery, &event)?;
        }
        Ok(Publication::Event(Message { queue, ..message }))
    }

    /// Checks the address, and that the message can be rendered.
    fn check(&self, delivery: &Delivery, event: &Event) -> Result<(), String> {
        let recipient = delivery.recipient.address()?;
        match delivery.route.channel {
            ChannelKind::Email => email::check_recipient(recipient)?,
            ChannelKind::Sms => sms::check_recipient(recipient)?,
        }
        let outgoing = render::outgoing(&self.loaded, delivery, event);
        outgoing.map(drop).map_err(|failure| failure.to_string())
    }
}

fn parse_event(body: &[u8], properties: &Properties, queue: &str) -> Result<Event, String> {
    event::parse(body, properties, queue).map_err(|invalid| invalid.to_string())
}

fn parse_json(text: &str) -> anyhow::Result<Value> {
    event::read_json(text.as_bytes()).context("the corrected event is not JSON")
}
