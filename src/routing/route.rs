//! One route: event type → template, channel, recipients, variables and policies.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CalendarRule, Delivery, Identity, Lifecycle, Recipient, ReminderRule};
use crate::event::{Derived, Event};

/// Longest recipient that is looked at, in bytes; longer than any address of any channel.
const MAX_RECIPIENT_BYTES: usize = 1024;

/// What is sent, to whom and how, when an event of one type arrives.
#[derive(Debug)]
pub struct Route {
    /// Stable name; part of every delivery's id.
    pub name: String,
    /// The event type it is for.
    pub event: String,
    /// Other names of that event type.
    pub aliases: Vec<String>,
    /// The source queue of the event.
    pub queue: String,
    /// How the message travels.
    pub channel: ChannelKind,
    /// The template it is made from.
    pub template: String,
    /// Who gets it.
    pub recipients: Recipients,
    /// The field of the event with the address that answers go to; dots lead into objects.
    pub reply_to: Option<String>,
    /// The variable that is drawn as a QR code, where the event has it.
    pub inline_qr: Option<String>,
    /// The calendar entry that the mail brings along.
    pub calendar: Option<CalendarRule>,
    /// What its event means for the booking that it is about.
    pub lifecycle: Option<Lifecycle>,
    /// The reminder that its event plans or moves.
    pub reminder: Option<ReminderRule>,
    /// How urgent it is against other mail.
    pub priority: Priority,
    /// The field in which an event may say another priority.
    pub priority_from: Option<String>,
    /// The variables of its template.
    pub variables: BTreeMap<String, Variable>,
    /// Variables whose values are masked wherever a record or a log would show them.
    pub secrets: Vec<String>,
    /// Whether the limit per recipient counts; not for security codes.
    pub rate_limited: bool,
    /// Older events than this are not sent any more.
    pub max_age: Option<Duration>,
    /// How long its records are kept, where that is not `AUDIT_RETENTION`.
    pub retention: Option<Duration>,
    /// A pattern such as `payment:{transaction_id}:receipt`: events with the same key tell one fact.
    pub business_key: Option<String>,
    /// What happens when nobody can tell whether a mail went out.
    pub on_unknown: OnUnknown,
    /// Fields of the event that the audit record carries for searching.
    pub correlation: Vec<String>,
}

/// Where a route's recipients come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// A field of the event; dots lead into objects.
    Field(String),
    /// The same; an event without it asks for nothing.
    Optional(String),
    /// These addresses: a literal, or a setting's list, which may be empty.
    Fixed(Vec<String>),
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// Mail.
    Email,
    /// Text messages.
    Sms,
}

impl ChannelKind {
    /// Its name in ids, headers and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }
}

/// How urgent a delivery is against others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Confirmations, reminders, security codes.
    High,
    /// Cancellations and general notices.
    Medium,
    /// Newsletters and promotions; never delay the others.
    Low,
}

impl Priority {
    /// All of them, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Medium, Self::Low];

    /// Its name in queues, headers and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// What happens when the dot went out and no reply was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Put aside for an operator: never twice.
    #[default]
    Park,
    /// Send again with the same Message-ID: rather twice than not at all.
    Resend,
}

/// A variable of a template.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// What its value must look like.
    pub kind: VariableType,
    /// The value where the event has none; `None`: the event must have one.
    pub default: Option<Value>,
    /// Where the value is looked for before the default is taken.
    pub derived: Option<Derived>,
}

/// What a variable's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VariableType {
    /// A text, a number or a boolean.
    Text,
    /// A number, as a JSON number or as a text.
    Amount,
    /// A text that tells a time, ISO 8601 or not.
    Time,
    /// A list.
    List,
    /// An `http` or `https` address.
    Url,
    /// A whole number.
    Integer,
    /// A length of time in seconds.
    Duration,
    /// Names and plain values.
    Object,
}

impl VariableType {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Text,
        Self::Amount,
        Self::Time,
        Self::List,
        Self::Url,
        Self::Integer,
        Self::Duration,
        Self::Object,
    ];
}

impl Route {
    /// One delivery for each recipient. A recipient that the event should name and doesn't is a
    /// delivery too: it ends as a dead letter, and the route's others go out.
    pub(super) fn deliveries(
        self: &std::sync::Arc<Self>,
        event: &Event,
        identity: &Identity,
    ) -> Vec<Delivery> {
        let recipients = match &self.recipients {
            Recipients::Fixed(addresses) => {
                addresses.iter().map(|address| Recipient::Address(address.clone())).collect()
            }
            Recipients::Field(path) => vec![recipient(event, path)],
            Recipients::Optional(path) => match find(event, path) {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::String(text)) if text.trim().is_empty() => Vec::new(),
                Some(_) => vec![recipient(event, path)],
            },
        };
        recipients
            .into_iter()
            .map(|recipient| Delivery::first(identity, event, self.clone(), recipient))
            .collect()
    }

    /// The address that answers to this event's mails go to, not checked yet.
    pub fn reply_to<'a>(&self, event: &'a Event) -> Option<&'a str> {
        let address = find(event, self.reply_to.as_deref()?)?.as_str()?.trim();
        (!address.is_empty()).then_some(address)
    }

    /// How urgent this event's deliveries are.
    pub(super) fn priority_of(&self, event: &Event) -> Priority {
        let said = self.priority_from.as_deref().and_then(|field| event.text(field));
        let said = said.and_then(|said| {
            Priority::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(said))
        });
        said.unwrap_or(self.priority)
    }

    /// What takes the event id's place: the publisher's own key for the fact, else the route's.
    pub(super) fn key(&self, event: &Event) -> Option<String> {
        event.dedup_key().or_else(|| self.business_key(event))
    }

    /// The business key of this event, if the route has one and the event all of its parts.
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

fn recipient(event: &Event, path: &str) -> Recipient {
    match find(event, path) {
        // It becomes a header, and headers have to fit into one frame.
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
        routing::RoutingTable,
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
