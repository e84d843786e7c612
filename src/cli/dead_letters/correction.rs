//! Events that an operator corrects, and checks like new ones before they are published.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{
    DeadLettersCli,
    field_changes::{Change, assignment, changes, set},
    selection::Publication,
};
use crate::{
    broker::{DeliveryHeaders, Message},
    channel::{email, sms},
    cli::{args::CorrectionArgs, render},
    event::{self, Event, IdSource, Properties},
    failure::{EXIT_DATA, Failure},
    routing::{ChannelKind, Delivery, Lookup, Recipients},
};

/// What an operator wants to be different.
pub(super) enum Correction {
    /// Whatever is changed in an editor.
    Edit,
    /// All of it.
    With(String),
    /// These fields, by their paths.
    Set(Vec<(String, Value)>),
}

impl Correction {
    pub(super) fn from_args(args: &CorrectionArgs) -> Result<Option<Self>, Failure> {
        Ok(match args {
            CorrectionArgs { edit: true, .. } => Some(Self::Edit),
            CorrectionArgs { with: Some(file), .. } => Some(Self::With(render::read(file)?)),
            CorrectionArgs { set, .. } if !set.is_empty() => {
                let fields = set.iter().map(|text| assignment(text)).collect::<anyhow::Result<_>>();
                Some(Self::Set(fields.map_err(|error| Failure::new(EXIT_DATA, error))?))
            }
            _ => None,
        })
    }

    /// Whether it makes no sense for more than one message.
    pub(super) fn is_for_one(&self) -> bool {
        !matches!(self, Self::Set(_))
    }

    /// The corrected body, and where it was edited.
    async fn apply(
        &self,
        message: &Message,
        delivery_headers: &DeliveryHeaders,
    ) -> anyhow::Result<Edited> {
        let text = match self {
            Self::With(text) => text.clone(),
            Self::Set(fields) => {
                let body: Value =
                    event::read_json(&message.body).context("the body is not JSON")?;
                return Ok(Edited { event: set(body, fields)?, file: None });
            }
            Self::Edit => {
                let file = std::env::temp_dir()
                    .join(format!("usher-{}.json", delivery_headers.delivery_id));
                let body = readable(&message.body);
                let at = file.clone();
                let edited = tokio::task::spawn_blocking(move || edit(&at, &body));
                let text = edited.await.context("the editor")??;
                let event = read(&text).with_context(|| kept(&file))?;
                return Ok(Edited { event, file: Some(file) });
            }
        };
        Ok(Edited { event: read(&text)?, file: None })
    }
}

struct Edited {
    event: Value,
    file: Option<PathBuf>,
}

impl DeadLettersCli {
    /// The way of a corrected event, or why it can't be taken.
    pub(super) async fn corrected(
        &self,
        message: &Message,
        delivery_headers: &DeliveryHeaders,
        correction: &Correction,
        reason: &str,
    ) -> Result<Result<(Publication, Vec<Change>, Option<PathBuf>), String>, Failure> {
        let edited = match correction.apply(message, delivery_headers).await {
            Ok(edited) => edited,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let before = event::read_json(&message.body).ok();
        let changes = changes(before.as_ref(), &edited.event);
        let checked = if changes.is_empty() {
            Err("nothing is different".to_owned())
        } else if delivery_headers.route.is_empty() {
            self.begin_anew(message, delivery_headers, &edited.event)
        } else {
            self.go_on(message, delivery_headers, &edited.event, reason)
        };
        Ok(match (checked, edited.file) {
            (Ok(publication), file) => Ok((publication, changes, file)),
            (Err(fault), Some(file)) => Err(format!("{fault}; {}", kept(&file))),
            (Err(fault), None) => Err(fault),
        })
    }

    /// One delivery of the event goes on; its others are no longer a matter of this message.
    fn go_on(
        &self,
        message: &Message,
        delivery_headers: &DeliveryHeaders,
        corrected: &Value,
        reason: &str,
    ) -> Result<Publication, String> {
        let routing = &self.loaded.routing;
        let route = routing.route(&delivery_headers.route);
        let route = route
            .ok_or_else(|| format!("there is no route {:?} any more", delivery_headers.route))?;
        let body = corrected.to_string().into_bytes();
        let mut properties = message.properties.clone();
        let mut event = read_event(&body, &properties, &delivery_headers.origin)?;
        if event.id.source == IdSource::Body {
            // A hash of another body: it stays the event that it was.
            properties.message_id = Some(delivery_headers.event_id.clone());
            event = read_event(&body, &properties, &delivery_headers.origin)?;
        }
        if event.id.value != delivery_headers.event_id {
            return Err(format!(
                "the event's id is {:?}, and that has to stay",
                delivery_headers.event_id
            ));
        }
        if event.kind != route.event && !route.aliases.contains(&event.kind) {
            return Err(format!("events of type {:?} have another route", event.kind));
        }
        routing.normalize(&mut event);
        let deliveries = routing.deliveries(std::slice::from_ref(route), &event, &self.identity);
        let delivery = deliveries.into_iter().find(|delivery| {
            !matches!(route.recipients, Recipients::Fixed(_))
                || delivery.recipient.as_str().eq_ignore_ascii_case(&delivery_headers.recipient)
        });
        let delivery = delivery.ok_or("its recipient is not in the settings any more")?;
        self.check(&delivery, &event)?;
        // Another address, or another business key, is another delivery.
        let is_same = delivery.id == delivery_headers.delivery_id;
        let delivery_headers = DeliveryHeaders {
            delivery_id: delivery.id.clone(),
            recipient: delivery.recipient.as_str().to_owned(),
            attempt: if is_same { delivery_headers.attempt + 1 } else { 1 },
            reason: format!("corrected by an operator: {reason}"),
            ..delivery_headers.clone()
        };
        let message = Message { body, properties, ..message.clone() };
        Ok(Publication::republish(delivery_headers, delivery.priority, message))
    }

    /// It never became a delivery: all that its type asks for comes of it.
    fn begin_anew(
        &self,
        message: &Message,
        delivery_headers: &DeliveryHeaders,
        corrected: &Value,
    ) -> Result<Publication, String> {
        let is_cloudevent = corrected.get("specversion").is_some();
        let content_type =
            if is_cloudevent { "application/cloudevents+json" } else { "application/json" };
        let properties = Properties {
            content_type: Some(content_type.to_owned()),
            content_encoding: None,
            ..message.properties.clone()
        };
        let body = corrected.to_string().into_bytes();
        let again = Message { body, properties, delivery_headers: None, ..message.clone() };
        let queue = self.queue_of(&again, delivery_headers)?;
        let mut event = read_event(&again.body, &again.properties, &queue)?;
        let routing = &self.loaded.routing;
        routing.normalize(&mut event);
        let Lookup::Routes(routes) = routing.lookup(&event.kind) else {
            return Err(format!("unknown event type {:?}", event.kind));
        };
        for delivery in routing.deliveries(routes, &event, &self.identity) {
            self.check(&delivery, &event)?;
        }
        Ok(Publication::Event(Message { queue, ..again }))
    }

    /// Whether a mail can be made of it.
    fn check(&self, delivery: &Delivery, event: &Event) -> Result<(), String> {
        let recipient = delivery.recipient.address()?;
        match delivery.route.channel {
            ChannelKind::Email => email::check_recipient(recipient)?,
            ChannelKind::Sms => sms::check_recipient(recipient)?,
        }
        let made = render::outgoing(&self.loaded, delivery, event);
        made.map(drop).map_err(|failure| failure.to_string())
    }
}

fn read_event(body: &[u8], properties: &Properties, queue: &str) -> Result<Event, String> {
    event::parse(body, properties, queue).map_err(|invalid| invalid.to_string())
}

fn read(text: &str) -> anyhow::Result<Value> {
    event::read_json(text.as_bytes()).context("the corrected event is not JSON")
}

pub(super) fn kept(file: &Path) -> String {
    format!("what was written is kept: --with {}", file.display())
}

/// A body as a person reads and edits it.
pub(super) fn readable(body: &[u8]) -> String {
    let pretty = event::read_json(body).and_then(|it| serde_json::to_string_pretty(&it));
    pretty.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned())
}

/// Has a person edit the text in a file that nobody else can read.
fn edit(file: &Path, text: &str) -> anyhow::Result<String> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut made = made
        .with_context(|| format!("making {0}; if it is of before, --with {0}", file.display()))?;
    made.write_all(text.as_bytes())?;
    let editor = ["VISUAL", "EDITOR"].iter().find_map(std::env::var_os);
    let editor = editor.unwrap_or_else(|| "vi".into());
    // By the shell, for the setting may hold arguments.
    let ended = Command::new("sh")
        .args(["-c", r#"eval "$USHER_EDITOR \"\$1\"""#, "sh"])
        .arg(file)
        .env("USHER_EDITOR", &editor)
        .status();
    let ended = ended.with_context(|| format!("starting {}", editor.display()))?;
    if !ended.success() {
        std::fs::remove_file(file)?;
        bail!("{} has ended with {ended}", editor.display());
    }
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}
