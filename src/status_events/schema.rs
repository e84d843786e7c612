//! JSON Schema of status events (draft 07, on which AsyncAPI builds).

use serde_json::{Value, json};

use super::event::{Action, PREFIX, SOURCE};
use crate::audit::{BounceKind, ReceiptStatus, Status};

/// Every status of an event about a delivery.
fn delivery_statuses() -> Vec<&'static str> {
    let recorded = Status::ALL.into_iter().filter(|status| *status != Status::Rejected);
    let recorded = recorded.map(Status::as_str).chain(Action::ALL.map(Action::as_str));
    recorded.chain(ReceiptStatus::ALL.map(ReceiptStatus::as_str)).collect()
}

/// Every status of an event about a message that never became a delivery.
fn event_statuses() -> Vec<&'static str> {
    [Status::Rejected.as_str()].into_iter().chain(Action::ALL.map(Action::as_str)).collect()
}

/// An event about a delivery.
pub(crate) fn delivery() -> Value {
    let mut schema = cloudevent("delivery", &delivery_statuses(), &["route"]);
    schema["properties"]["data"]["properties"]["receipt"] = receipt();
    schema
}

/// An event about a message that never became a delivery.
pub(crate) fn event() -> Value {
    cloudevent("event", &event_statuses(), &[])
}

/// A signed checkpoint of the audit.
pub(crate) fn checkpoint() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let kinds = ["open", "interval", "close"];
    let mut schema = cloudevent("checkpoint", &kinds, &[]);
    let properties = &mut schema["properties"];
    properties["id"]["description"] = json!("Log, size and kind of the checkpoint.");
    properties["time"] = moment("When it was signed.");
    if let Some(properties) = properties.as_object_mut() {
        properties.remove("subject");
    }
    properties["data"] = json!({
        "type": "object",
        "required": ["log", "size", "status", "note"],
        "properties": {
            "log": text("Name of the log."),
            "size": {"type": "integer", "minimum": 0, "description": "The log's last number."},
            "status": {"enum": kinds, "description": "Whether the log begins, goes on or has ended."},
            "note": text("The signed note (c2sp.org/signed-note), to be kept for usher audit verify."),
        },
    });
    schema
}

fn cloudevent(about: &str, statuses: &[&str], required: &[&str]) -> Value {
    let types: Vec<String> =
        statuses.iter().map(|status| format!("{PREFIX}{about}.{status}")).collect();
    json!({
        "type": "object",
        "required": [
            "specversion", "id", "source", "type", "time", "datacontenttype", "instance", "sequence",
            "data",
        ],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {
                "type": "string",
                "description": "Id of the audit record or receipt. An event that comes twice has the same id.",
            },
            "source": {"const": SOURCE},
            "type": {"enum": types},
            "subject": {
                "type": "string",
                "description": "The booking's id, else the first value of `data.correlation`.",
            },
            "time": moment("When the attempt ended, the operator acted or the report came in."),
            "datacontenttype": {"const": "application/json"},
            "instance": {"type": "string", "description": "The process that published the event."},
            "sequence": {
                "type": "string", "pattern": "^[0-9]{20}$",
                "description": "Number of the event among those of the instance, from 1.",
            },
            "data": data(statuses, required),
        },
    })
}

fn data(statuses: &[&str], required: &[&str]) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut all = vec!["delivery_id", "event", "status", "final", "attempt", "correlation"];
    all.extend(required);
    json!({
        "type": "object",
        "required": all,
        "properties": {
            "delivery_id": text("Id of the delivery in the audit."),
            "event": {
                "type": "object",
                "required": ["id", "type", "source"],
                "properties": {
                    "id": text("The id that the event was published with; the delivery's if it has none."),
                    "type": text("Type as published; empty if it could not be read."),
                    "source": text("The event's source, else its queue."),
                    "time": moment("When the event happened, as published."),
                },
            },
            "route": text("Name of the route."),
            "channel": {"enum": ["email", "sms"]},
            "status": {"enum": statuses},
            "final": {"type": "boolean", "description": "Whether no further attempt follows."},
            "attempt": {"type": "integer", "minimum": 0, "description": "Number of the attempt, from 1."},
            "error": {
                "type": "object",
                "required": ["kind"],
                "properties": {
                    "kind": text("Kind of error, such as refused."),
                    "reason": text("Only for rejected messages; addresses are masked."),
                },
            },
            "smtp": {
                "type": "object",
                "required": ["command", "code"],
                "properties": {
                    "command": text("The command that was answered."),
                    "code": {"type": "integer"},
                    "enhanced": text("Enhanced status code (RFC 3463)."),
                },
            },
            "message_id": text("The mail's Message-ID."),
            "correlation": {
                "type": "object", "additionalProperties": {"type": "string"},
                "description": "Ids of the event, as its route names them; addresses are masked.",
            },
            "next_attempt_at": moment("When the next attempt is due."),
            "trace_id": text("W3C trace id."),
        },
    })
}

/// What a later server or the recipient reported.
fn receipt() -> Value {
    json!({
        "type": "object",
        "required": ["source"],
        "description": "Only of delivered, bounced and complained.",
        "properties": {
            "source": {"type": "string", "description": "Kind of report: dsn, arf, text."},
            "bounce": {"enum": BounceKind::ALL.map(BounceKind::as_str)},
            "code": {"type": "integer", "description": "Reply code of the server that refused."},
            "enhanced": {"type": "string", "description": "Enhanced status code (RFC 3463)."},
            "feedback_type": {"type": "string", "description": "Of a complaint: abuse, fraud, opt-out."},
        },
    })
}

fn moment(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}
