//! One route: event type → template, channel, recipients, variables and policies.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    BrandChoice, CalendarRule, Delivery, Identity, Lifecycle, Recipient, ReminderRule, VariableType,
};
use crate::event::{Derived, Event};

/// Longest accepted recipient, in bytes; longer than any valid address.
const MAX_RECIPIENT_BYTES: usize = 1024;

/// Most recipients in one field of an event; the schema has it.
pub(crate) const MAX_RECIPIENTS: usize = 100;

/// Defines what is sent to whom when an event arrives.
#[derive(Debug)]
pub struct Route {
    /// Stable name; part of every delivery's id.
    pub name: String,
    pub event: String,
    /// Other names of the event type.
    pub aliases: Vec<String>,
    pub queue: String,
    pub channel: ChannelKind,
    pub template: String,
    pub recipients: Recipients,
    /// The field with the address for replies; dots lead into objects.
    pub reply_to: Option<String>,
    pub brand: Option<BrandChoice>,
    /// The variable that is rendered as a QR code if the event has it.
    pub inline_qr: Option<String>,
    /// The calendar entry of the mail.
    pub calendar: Option<CalendarRule>,
    /// The effect of the event on its booking.
    pub lifecycle: Option<Lifecycle>,
    /// The reminder that the event schedules or moves.
    pub reminder: Option<ReminderRule>,
    pub priority: Priority,
    /// The field in which an event may set its own priority.
    pub priority_from: Option<String>,
    /// The variables of the template.
    pub variables: BTreeMap<String, Variable>,
    /// Variables whose values are masked in records and logs.
    pub secrets: Vec<String>,
    /// Whether the rate limit per recipient applies; off for security codes.
    pub rate_limited: bool,
    /// Whether it is sent in spite of earlier bounces.
    pub security: bool,
    /// Events older than this are not sent.
    pub max_age: Option<Duration>,
    /// How long records are kept, if not `AUDIT_RETENTION`.
    pub retention: Option<Duration>,
    /// A pattern such as `payment:{transaction_id}:receipt`: events with the same key give one
    /// delivery.
    pub business_key: Option<String>,
    pub on_unknown: OnUnknown,
    /// Fields of the event that the audit record keeps for searching.
    pub correlation: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// A field of the event; dots lead into objects.
    Field(String),
    /// The same, but an event without it causes no delivery.
    Optional(String),
    /// Fixed addresses: a literal, or the list of a setting, which may be empty.
    Fixed(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    Email,
    Sms,
}

impl ChannelKind {
    /// The name in ids, headers and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }
}

/// Priority of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Confirmations, reminders and security codes.
    High,
    /// Cancellations and general notices.
    Medium,
    /// Newsletters and promotions, which never delay other mail.
    Low,
}

impl Priority {
    /// All priorities, highest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Medium, Self::Low];

    /// The name in queues, headers and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// What happens if the body was sent and no reply was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Park it for an operator: never sent twice.
    #[default]
    Park,
    /// Send again with the same Message-ID: sent twice rather than not at all.
    Resend,
}

/// A template variable.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    pub kind: VariableType,
    /// The value if the event has none; `None` means that it is required.
    pub default: Option<Value>,
    /// Where the value comes from before the default is used.
    pub derived: Option<Derived>,
}

impl Route {
    /// One delivery for each recipient. A missing recipient gives a delivery too, which becomes a
    /// dead letter while the others are sent.
    pub(super) fn deliveries(
        self: &std::sync::Arc<Self>,
        event: &Event,
        identity: &Identity,
    ) -> Vec<Delivery> {
        let recipients = self.recipients_of(event).into_iter();
        recipients
            .map(|recipient| Delivery::first(identity, event, self.clone(), recipient))
            .collect()
    }

    /// Why an event lacks a recipient that it has to have.
    pub fn missing_recipient(&self, event: &Event) -> Option<String> {
        self.recipients_of(event).into_iter().find_map(|recipient| match recipient {
            Recipient::Missing(reason) => Some(reason),
            Recipient::Address(_) => None,
        })
    }

    fn recipients_of(&self, event: &Event) -> Vec<Recipient> {
        match &self.recipients {
            Recipients::Fixed(addresses) => {
                addresses.iter().map(|address| Recipient::Address(address.clone())).collect()
            }
            Recipients::Field(path) => in_field(event, path),
            Recipients::Optional(path) => match find(event, path) {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::String(text)) if text.trim().is_empty() => Vec::new(),
                Some(Value::Array(items)) if items.is_empty() => Vec::new(),
                Some(_) => in_field(event, path),
            },
        }
    }

    /// The unchecked address for replies to this event's mails.
    pub fn reply_to<'a>(&self, event: &'a Event) -> Option<&'a str> {
        let address = find(event, self.reply_to.as_deref()?)?.as_str()?.trim();
        (!address.is_empty()).then_some(address)
    }

    pub(super) fn priority_of(&self, event: &Event) -> Priority {
        let stated = self.priority_from.as_deref().and_then(|field| event.text(field));
        let stated = stated.and_then(|stated| {
            Priority::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(stated))
        });
        stated.unwrap_or(self.priority)
    }

    /// The key that replaces the event id: the publisher's `dedup_key`, else the route's business
    /// key.
    pub(super) fn key(&self, event: &Event) -> Option<String> {
        event.dedup_key().or_else(|| self.business_key(event))
    }

    /// The business key, if the route has one and the event has all of its fields.
    fn business_key(&self, event: &Event) -> Option<String> {
        let mut key = String::new();
        let mut rest = self.business_key.as_deref()?;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            key.push_str(before);
            key.push_str(&event.id(name)?);
            rest = after;
        }
        key.push_str(rest);
        Some(key)
    }
}

/// A field of the event; dots lead into objects.
fn find<'a>(event: &'a Event, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = event.fields.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// The recipients in a field: an address, or a list of them.
fn in_field(event: &Event, path: &str) -> Vec<Recipient> {
    match find(event, path) {
        Some(Value::Array(items)) if items.len() > MAX_RECIPIENTS => {
            vec![Recipient::Missing(format!(
                "recipient field {path:?} has {} addresses, more than {MAX_RECIPIENTS}",
                items.len()
            ))]
        }
        Some(Value::Array(items)) if !items.is_empty() => {
            let recipient = |(index, item)| recipient(Some(item), &format!("{path}[{index}]"));
            items.iter().enumerate().map(recipient).collect()
        }
        Some(Value::Array(_)) => vec![recipient(None, path)],
        value => vec![recipient(value, path)],
    }
}

fn recipient(value: Option<&Value>, path: &str) -> Recipient {
    match value {
        // The recipient becomes a header, and headers have to fit into one frame.
        Some(Value::String(text)) if text.len() > MAX_RECIPIENT_BYTES => {
            Recipient::Missing(format!(
                "recipient field {path:?} has {} bytes, more than {MAX_RECIPIENT_BYTES}",
                text.len()
            ))
        }
        Some(Value::String(text)) if !text.trim().is_empty() => {
            Recipient::Address(text.trim().to_owned())
        }
        None | Some(Value::Null | Value::String(_)) => {
            Recipient::Missing(format!("recipient field {path:?} is missing or empty"))
        }
        Some(other) => Recipient::Missing(format!(
            "recipient field {path:?} is a JSON {}, not a text",
            crate::event::json_type(other)
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        event::{Properties, parse},
        routing::{Identity, RoutingTable},
    };

    const ROUTES: &str = r#"
        [queues.q]
        name = "q"
        bind = []
        [[route]]
        name = "contact"
        event = "contact.form"
        queue = "q"
        channel = "email"
        template = "contact"
        recipient = { literal = "team@example.com" }
        reply_to = { field = "sender.email" }
        priority = "medium"
    "#;

    #[test]
    fn a_list_of_recipients_gives_one_delivery_each() {
        let routes = ROUTES.replace("{ literal = \"team@example.com\" }", "{ field = \"to\" }");
        let routing = RoutingTable::parse(&routes, &Default::default()).unwrap();
        let many = serde_json::json!(vec!["a@x.org"; 101]).to_string();
        for (to, recipients) in [
            (r#""a@x.org""#, vec!["a@x.org"]),
            (r#"["a@x.org", " b@x.org ", "A@x.org"]"#, vec!["a@x.org", "b@x.org"]),
            (
                r#"["a@x.org", null]"#,
                vec!["a@x.org", "recipient field \"to[1]\" is missing or empty"],
            ),
            ("[]", vec!["recipient field \"to\" is missing or empty"]),
            (&many, vec!["recipient field \"to\" has 101 addresses, more than 100"]),
        ] {
            let body = format!(r#"{{"event_type": "contact.form", "to": {to}}}"#);
            let event = parse(body.as_bytes(), &Properties::default(), "q").unwrap();
            let identity = Identity::new("pepper");
            let route = routing.route("contact").unwrap();
            let found = routing.deliveries(std::slice::from_ref(route), &event, &identity);
            let found = found.iter().map(|it| it.recipient.address());
            let found: Vec<_> = found.map(|it| it.map_or_else(|e| e, str::to_owned)).collect();
            assert_eq!(found, recipients);
        }
    }

    #[test]
    fn answers_go_to_a_field_of_the_event() {
        let routing = RoutingTable::parse(ROUTES, &Default::default()).unwrap();
        let route = routing.route("contact").unwrap();
        for (sender, address) in [
            (r#"{"email": " ana@example.org\r\n"}"#, Some("ana@example.org")),
            (r#"{"email": ""}"#, None),
            (r#"{"email": 7}"#, None),
            ("null", None),
        ] {
            let body = format!(r#"{{"event_type": "contact.form", "sender": {sender}}}"#);
            let event = parse(body.as_bytes(), &Properties::default(), "q").unwrap();
            assert_eq!(route.reply_to(&event), address, "{sender}");
        }
        let misspelt = ROUTES.replace("{ field = \"sender.email\" }", "{ fields = \"email\" }");
        assert!(RoutingTable::parse(&misspelt, &Default::default()).is_err());
    }
}
