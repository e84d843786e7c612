//! Sends a recorded mail again, as a new delivery that names the first one.

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Composer, RESEND_OF};
use crate::{
    audit::{Audit, AuditError, Record, Status, TemplateRef},
    broker::{DeliveryHeaders, Destination, Republish},
    event::{self, Properties},
    routing::{Delivery, Identity, Recipient, RoutingTable},
    template::Source,
};

/// A new delivery, and the subject that its mail has now.
pub(crate) struct Resend {
    pub(crate) republish: Republish,
    pub(crate) subject: String,
}

/// The template that a mail is made from when it is sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TemplateOf {
    /// The one that is in use.
    #[default]
    Now,
    /// The text that the first mail was made from.
    Then,
}

/// Why a mail is not sent again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResendError {
    /// It can't or must not be.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl From<String> for ResendError {
    fn from(reason: String) -> Self {
        Self::Refused(reason)
    }
}

/// What a new delivery is made from.
pub(crate) struct Resender<'a> {
    pub(crate) audit: &'a dyn Audit,
    pub(crate) routing: &'a RoutingTable,
    pub(crate) composer: &'a Composer,
    pub(crate) identity: &'a Identity,
}

impl Resender<'_> {
    /// The event made from the record, for one delivery. The same `request` makes the same delivery.
    ///
    /// # Errors
    /// It can't or must not be sent again, or the audit does not answer.
    pub(crate) async fn resend(
        &self,
        record: &Record,
        template: TemplateOf,
        request: &str,
        reason: &str,
    ) -> Result<Resend, ResendError> {
        let erased_at = self.audit.erased_at(&record.recipient_hash).await?;
        let of_then = match (template, record.template.clone()) {
            (TemplateOf::Now, _) => None,
            (TemplateOf::Then, Some(template)) => {
                let text = self.composer.templates.text_of_then(&template).await?;
                Some((template, text.map_err(|error| error.to_string())?))
            }
            (TemplateOf::Then, None) => {
                return Err("it was not made from a template".to_owned().into());
            }
        };
        Ok(self.made(record, erased_at, of_then, request, reason)?)
    }

    fn made(
        &self,
        record: &Record,
        erased_at: Option<Timestamp>,
        of_then: Option<(TemplateRef, Source)>,
        request: &str,
        reason: &str,
    ) -> Result<Resend, String> {
        if !matches!(record.status, Status::Sent | Status::Simulated) {
            return Err(format!(
                "it is {}, not sent; replay or resend it where it waits",
                record.status.as_str()
            ));
        }
        if record.erased_at.is_some() || erased_at.is_some_and(|at| at >= record.at) {
            return Err("its recipient or its content was erased".to_owned());
        }
        let route = self.routing.route(&record.route);
        let route =
            route.ok_or_else(|| format!("there is no route {:?} any more", record.route))?;
        if !route.secrets.is_empty() {
            return Err("its secrets are not kept; the customer has to ask for new ones".to_owned());
        }
        let age = Timestamp::now().duration_since(record.event.time.unwrap_or(record.at));
        let age = Duration::try_from(age).unwrap_or_default();
        if let Some(max_age) = route.max_age.filter(|max_age| age > *max_age) {
            return Err(format!("its route sends nothing that is older than {max_age:?}"));
        }
        let body = body(record);
        let origin = self.routing.queue_of(&record.event.kind).unwrap_or(&route.queue).to_owned();
        let properties = Properties {
            content_type: Some("application/json".to_owned()),
            ..Properties::default()
        };
        let mut event =
            event::parse(&body, &properties, &origin).map_err(|error| error.to_string())?;
        self.routing.normalize(&mut event);
        let id = self.identity.resend(&record.delivery_id, request);
        let to = Recipient::Address(record.recipient.clone());
        let delivery = Delivery::republished(id.clone(), route.clone(), &event, to, 1);
        let made = self.composer.variables(&delivery, &event).map_err(|error| error.to_string())?;
        if let Some((name, _)) = route
            .with_defaults(&record.data)
            .iter()
            .find(|(name, was)| made.get(*name) != Some(*was) && record.data.contains_key(*name))
        {
            return Err(format!("{name} was not kept as it was"));
        }
        let outgoing = self.composer.compose(&delivery, &event, &made, of_then.as_ref());
        let subject = outgoing.map_err(|error| error.to_string())?.rendered.subject;
        let delivery_headers = DeliveryHeaders {
            delivery_id: id,
            event_id: record.event.id.clone(),
            route: route.name.clone(),
            channel: route.channel.as_str().to_owned(),
            recipient: record.recipient.clone(),
            attempt: 1,
            origin,
            reason: format!("sent again on request: {reason}"),
            masked: false,
            arrived_at: Some(Timestamp::now()),
            relay: None,
            template: of_then.map(|(template, _)| template_header(&template)),
            corrected: false,
        };
        let priority = record.priority.unwrap_or(delivery.priority);
        let destination = Destination::Later(Duration::ZERO, priority);
        let republish = Republish { delivery_headers, destination, body, properties };
        Ok(Resend { republish, subject })
    }
}

/// How the headers of a copy name the template of then.
fn template_header(template: &TemplateRef) -> String {
    serde_json::to_string(template).unwrap_or_default()
}

/// The template of then that the headers of a copy name.
pub(super) fn template_of(headers: &DeliveryHeaders) -> Option<TemplateRef> {
    serde_json::from_str(headers.template.as_deref()?).ok()
}

/// Rebuilds the event from the record, without values that were too long to be recorded.
fn body(record: &Record) -> Vec<u8> {
    let is_kept = |value: &Value| {
        value
            .as_str()
            .is_none_or(|text| !(text.starts_with('(') && text.ends_with(" bytes, not kept)")))
    };
    let mut fields = record.data.clone();
    fields.retain(|_, value| is_kept(value));
    for (name, value) in &record.correlation {
        fields.entry(name).or_insert_with(|| value.as_str().into());
    }
    let template = record.template.as_ref();
    let envelope = [
        ("event_type", Some(record.event.kind.clone())),
        ("event_id", Some(record.event.id.clone())),
        ("occurred_at", record.event.time.map(|at| at.to_string())),
        ("locale", template.map(|template| template.locale.clone())),
        (RESEND_OF, Some(record.delivery_id.to_string())),
    ];
    for (name, value) in envelope.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        fields.insert(name.to_owned(), value.into());
    }
    fields.entry("email").or_insert_with(|| record.recipient.as_str().into());
    Value::Object(fields).to_string().into_bytes()
}
