//! Validation of request bodies, and the events that they become.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{
        outbox::Kind,
        problem::{Fault, Problem},
    },
    channel::email::check_recipient,
    event::exact,
};

/// Longest name, subject, message and text, in characters.
const NAME: usize = 100;
const SUBJECT: usize = 255;
const MESSAGE: usize = 5_000;
const TEXT: usize = 20_000;
const LOCALE: usize = 35;

/// A message from the contact form.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ContactForm {
    /// Name of the sender.
    #[schema(max_length = 100, pattern = r"^[^\x00]*[^\s\x00][^\x00]*$", example = "Carlos Rivas")]
    name: String,
    /// Address for the reply.
    #[schema(format = "email", max_length = 254, example = "carlos@mail.com")]
    email: String,
    /// Text of the message.
    #[schema(max_length = 5000, pattern = r"^[^\x00]*[^\s\x00][^\x00]*$")]
    message: String,
    /// Language of the mail to the team: `en`, `es` or a tag such as `es-CO`.
    #[schema(max_length = 35, pattern = r"^[A-Za-z0-9-]+$")]
    locale: Option<String>,
    /// Id of the request, chosen by the caller. A request with the same id is the same request.
    #[schema(format = "uuid", pattern = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
    uuid: Option<String>,
}

/// A mail with the caller's own text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Notification {
    /// Address of the recipient.
    #[schema(format = "email", max_length = 254, example = "user@example.com")]
    to: String,
    /// Subject of the mail.
    #[schema(
        max_length = 255,
        pattern = r"^[^\x00]*[^\s\x00][^\x00]*$",
        example = "Nuevo post publicado"
    )]
    subject: String,
    /// Text of the mail.
    #[schema(max_length = 20000, pattern = r"^[^\x00]*[^\s\x00][^\x00]*$")]
    body: String,
    /// Further values that the mail shows by name.
    metadata: Option<BTreeMap<String, Scalar>>,
    /// Priority of the mail.
    priority: Option<Urgency>,
    /// Language of the text around it: `en`, `es` or a tag such as `es-CO`.
    #[schema(max_length = 35, pattern = r"^[A-Za-z0-9-]+$")]
    locale: Option<String>,
    /// Id of the request, chosen by the caller. A request with the same id is the same request.
    #[schema(format = "uuid", pattern = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
    uuid: Option<String>,
}

/// A text, number or boolean.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Scalar {
    Text(String),
    #[schema(value_type = f64)]
    Number(serde_json::Number),
    Flag(bool),
}

/// Priority of a mail.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Urgency {
    High,
    Medium,
    Low,
}

/// The event's fields, and the caller's own id.
pub(crate) type Checked = Result<(Map<String, Value>, Option<Uuid>), Problem>;

/// The event's fields if the body is valid.
pub fn fields_of(kind: Kind, body: &[u8]) -> Option<Map<String, Value>> {
    let body = Value::Object(serde_json::from_slice(&exact(body)).ok()?);
    let checked = match kind {
        Kind::Contact => ContactForm::deserialize(body).ok()?.checked(),
        Kind::Notify => Notification::deserialize(body).ok()?.checked(),
    };
    checked.ok().map(|(fields, _)| fields)
}

impl ContactForm {
    pub(crate) fn checked(self) -> Checked {
        let mut check = Check::default();
        check.text("name", &self.name, NAME);
        check.address("email", &self.email);
        check.text("message", &self.message, MESSAGE);
        check.locale(self.locale.as_deref());
        check.done(self.uuid.as_deref())
    }
}

impl Notification {
    pub(crate) fn checked(self) -> Checked {
        let mut check = Check::default();
        check.address("to", &self.to);
        check.text("subject", &self.subject, SUBJECT);
        check.text("body", &self.body, TEXT);
        check.metadata(&self.metadata.unwrap_or_default());
        if let Some(priority) = self.priority {
            check.also("priority", &priority);
        }
        check.locale(self.locale.as_deref());
        check.done(self.uuid.as_deref())
    }
}

/// Collects valid fields and faults.
#[derive(Default)]
struct Check {
    body: Map<String, Value>,
    faults: Vec<Fault>,
}

impl Check {
    fn text(&mut self, field: &str, text: &str, longest: usize) {
        if text.trim().is_empty() {
            self.faults.push(fault(field, "may not be blank"));
        } else if text.chars().count() > longest {
            self.faults.push(fault(field, format!("has more than {longest} characters")));
        } else if text.contains('\0') {
            self.faults.push(fault(field, "has a null character"));
        }
        self.body.insert(field.to_owned(), text.trim().into());
    }

    /// Adds a field whose type guarantees that it is valid.
    fn also(&mut self, field: &str, value: &impl Serialize) {
        // Plain values always serialize.
        let value = serde_json::to_value(value).unwrap_or_default();
        self.body.insert(field.to_owned(), value);
    }

    fn metadata(&mut self, metadata: &BTreeMap<String, Scalar>) {
        let has_null = |(name, value): (&String, &Scalar)| {
            name.contains('\0') || matches!(value, Scalar::Text(text) if text.contains('\0'))
        };
        if metadata.iter().any(has_null) {
            self.faults.push(fault("metadata", "has a null character"));
        }
        self.also("metadata", metadata);
    }

    fn address(&mut self, field: &str, address: &str) {
        let address = address.trim();
        if let Err(reason) = check_recipient(address) {
            self.faults.push(fault(field, reason));
        }
        self.body.insert(field.to_owned(), address.into());
    }

    fn locale(&mut self, locale: Option<&str>) {
        let Some(locale) = locale else { return };
        let is_tag = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if locale.is_empty() || locale.len() > LOCALE || !locale.chars().all(is_tag) {
            self.faults.push(fault("locale", "must be a language tag such as en or es-CO"));
        }
        self.body.insert("locale".to_owned(), locale.into());
    }

    fn done(mut self, uuid: Option<&str>) -> Checked {
        let uuid = uuid.map(Uuid::try_parse).transpose();
        if uuid.is_err() {
            self.faults.push(fault("uuid", "must be a UUID"));
        }
        match uuid {
            Ok(uuid) if self.faults.is_empty() => Ok((self.body, uuid)),
            _ => Err(Problem::invalid(self.faults)),
        }
    }
}

fn fault(field: &str, detail: impl Into<String>) -> Fault {
    Fault { field: field.to_owned(), detail: detail.into() }
}
