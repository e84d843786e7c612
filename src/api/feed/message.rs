//! The messages of the feed. A reschedule has the customer's name; nothing else is personal.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Token;

/// The `type` of the message that announces a reschedule.
pub const RESCHEDULED: &str = "reprogramacion";

/// An audit record as a message of the feed.
#[derive(Debug)]
pub struct Message {
    /// The id of its record.
    pub record: String,
    /// The position after it.
    pub token: Token,
    /// [`RESCHEDULED`], else the event's type.
    pub kind: String,
    /// The message as JSON.
    pub text: String,
}

impl Message {
    /// What is left of it once its record was erased.
    pub(super) fn erased(&self) -> Self {
        let mut fields: Map<String, Value> = serde_json::from_str(&self.text).unwrap_or_default();
        for personal in ["cliente_nombre", "fecha_anterior", "fecha_nueva"] {
            fields.remove(personal);
        }
        Self {
            record: self.record.clone(),
            token: self.token.clone(),
            kind: self.kind.clone(),
            text: Value::Object(fields).to_string(),
        }
    }
}

/// The fields of a record that a message needs; see [`FIELDS`].
#[derive(Debug, Deserialize)]
pub(super) struct FeedRecord {
    #[serde(rename = "_id")]
    id: String,
    delivery_id: String,
    event: Event,
    route: String,
    #[serde(default)]
    channel: Option<String>,
    attempt: u32,
    status: String,
    #[serde(default)]
    error: Option<Error>,
    /// Of a receipt.
    #[serde(default)]
    bounce: Option<String>,
    #[serde(default)]
    correlation: BTreeMap<String, String>,
    #[serde(default)]
    data: Data,
    #[serde(with = "crate::clients::bson_time")]
    at: Timestamp,
}

/// The fields of a receipt that a message needs.
#[derive(Debug, Deserialize)]
pub(super) struct FeedReceipt {
    #[serde(rename = "_id")]
    id: String,
    pub(super) delivery_id: String,
    status: String,
    #[serde(default)]
    bounce: Option<String>,
    #[serde(with = "crate::clients::bson_time")]
    at: Timestamp,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Error {
    kind: String,
}

/// Variables may have any type.
#[derive(Debug, Default, Deserialize)]
struct Data {
    #[serde(default)]
    customer_name: Value,
    #[serde(default)]
    previous_date: Value,
    #[serde(default)]
    new_date: Value,
}

/// The fields of a record that are requested from the server.
pub(super) const FIELDS: [&str; 13] = [
    "_id",
    "delivery_id",
    "event.type",
    "route",
    "channel",
    "attempt",
    "status",
    "error.kind",
    "bounce",
    "correlation.booking_id",
    "data.customer_name",
    "data.previous_date",
    "data.new_date",
];

#[derive(Serialize)]
struct Json<'m> {
    r#type: &'m str,
    id: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserva_id: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cliente_nombre: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fecha_anterior: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fecha_nueva: Option<&'m str>,
    evento: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    canal: Option<&'m str>,
    estado: &'m str,
    intento: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rebote: Option<&'m str>,
    timestamp: Timestamp,
    token: &'m str,
}

impl FeedRecord {
    /// `to_customers` are the routes that tell customers of a reschedule. Only the first attempt of
    /// such a delivery is announced as a reschedule. The team's copies and later attempts have the
    /// event's type.
    pub(super) fn message(&self, token: Token, to_customers: &HashSet<String>) -> Message {
        let is_news = self.attempt == 1 && to_customers.contains(&self.route);
        let kind = if is_news { RESCHEDULED } else { &self.event.kind };
        let if_news = |value: &'_ Value| match value {
            Value::String(text) if is_news => Some(text.clone()),
            _ => None,
        };
        let [name, previous, new] =
            [&self.data.customer_name, &self.data.previous_date, &self.data.new_date].map(if_news);
        let json = Json {
            r#type: kind,
            id: &self.delivery_id,
            reserva_id: self.correlation.get("booking_id").map(String::as_str),
            cliente_nombre: name.as_deref(),
            fecha_anterior: previous.as_deref(),
            fecha_nueva: new.as_deref(),
            evento: &self.event.kind,
            canal: self.channel.as_deref(),
            estado: &self.status,
            intento: self.attempt,
            error: self.error.as_ref().map(|error| error.kind.as_str()),
            rebote: self.bounce.as_deref(),
            timestamp: self.at,
            token: token.as_str(),
        };
        // Plain values always serialize.
        let text = serde_json::to_string(&json).unwrap_or_default();
        Message { record: self.id.clone(), kind: kind.to_owned(), text, token }
    }
}

impl FeedReceipt {
    /// Tells what became of the delivery that has this record. Nothing of it is personal.
    pub(super) fn message(self, record: FeedRecord, token: Token) -> Message {
        let Self { id, status, bounce, at, .. } = self;
        let record = FeedRecord { id, status, bounce, at, error: None, ..record };
        record.message(token, &HashSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(changes: &Value) -> Value {
        let mut record = json!({
            "_id": "d1/1/sent", "delivery_id": "d1", "event": {"id": "e1", "type": "booking.rescheduled"}, "route": "booking-rescheduled",
            "channel": "email", "attempt": 1, "status": "sent", "correlation": {"booking_id": "123"},
            "data": {
                "customer_name": "Juan Pérez", "previous_date": "2024-01-15T10:00:00Z",
                "new_date": "2024-01-20T14:00:00Z", "user_email": "juan@email.com",
            },
            "recipient": "juan@email.com", "subject": "Tu reserva", "at": "2024-01-10T15:30:00Z",
        });
        for (name, value) in changes.as_object().expect("an object") {
            record[name] = value.clone();
        }
        let record: FeedRecord = serde_json::from_value(record).expect("a record");
        let routes = HashSet::from(["booking-rescheduled".to_owned()]);
        let message = record.message(Token::parse("aa").expect("a token"), &routes);
        let json: Value = serde_json::from_str(&message.text).expect("JSON");
        assert_eq!(json["type"], message.kind);
        json
    }

    #[test]
    fn a_reschedule_is_told_once_in_the_seeds_fields_and_others_without_a_name() {
        assert_eq!(
            record(&json!({})),
            json!({
                "type": "reprogramacion", "id": "d1", "reserva_id": "123", "cliente_nombre": "Juan Pérez",
                "fecha_anterior": "2024-01-15T10:00:00Z", "fecha_nueva": "2024-01-20T14:00:00Z",
                "evento": "booking.rescheduled", "canal": "email", "estado": "sent", "intento": 1,
                "timestamp": "2024-01-10T15:30:00Z", "token": "aa",
            })
        );
        for other in [
            json!({"attempt": 2}),
            json!({"route": "booking-rescheduled-admin"}),
            json!({"route": "", "status": "rejected", "error": {"kind": "unknown_type", "message": "who?"}}),
        ] {
            let record = record(&other);
            assert_eq!(record["type"], "booking.rescheduled");
            assert!(!record.to_string().contains("Juan"), "{record}");
        }
        let odd = record(&json!({"data": {"customer_name": 7}, "correlation": {}}));
        assert_eq!((&odd["cliente_nombre"], &odd["reserva_id"]), (&Value::Null, &Value::Null));
    }
}
