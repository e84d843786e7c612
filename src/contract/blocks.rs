//! What the schemas of events are made of: one for each type of variable, and what every event may
//! say about itself.

use serde_json::{Map, Value, json};

use crate::{
    event::{MAX_ATTACHMENT_NAME_BYTES, MAX_ATTACHMENTS},
    routing::VariableType,
};

/// No control character, and something that is to be seen.
const NAME: &str = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";
/// ISO 8601 with an offset.
const MOMENT: &str =
    r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}(:?\d{2})?)$";

/// The schemas that the events' own are made of, by their names.
pub(super) fn shared() -> Map<String, Value> {
    let mut schemas = Map::new();
    for kind in VariableType::ALL {
        let schema = of_type(kind);
        schemas.insert(format!("Optional{}", name_of(kind)), optional(&link(name_of(kind))));
        schemas.insert(name_of(kind).to_owned(), schema);
    }
    let moment = json!({
        "type": ["string", "null"], "format": "date-time", "pattern": MOMENT,
        "description": "ISO 8601 with an offset.",
    });
    let fixed = [
        ("Moment", moment),
        ("Envelope", envelope()),
        ("CloudEvent", cloudevent()),
        ("Address", address()),
        ("OptionalAddress", optional(&link("Address"))),
        ("Number", number()),
        ("OptionalNumber", optional(&link("Number"))),
        ("Attachment", attachment()),
    ];
    schemas.extend(fixed.map(|(name, schema)| (name.to_owned(), schema)));
    schemas
}

/// A schema that is named elsewhere.
pub(super) fn link(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn name_of(kind: VariableType) -> &'static str {
    match kind {
        VariableType::Text => "Text",
        VariableType::Amount => "Amount",
        VariableType::Time => "Time",
        VariableType::List => "List",
        VariableType::Url => "Url",
        VariableType::Integer => "Integer",
        VariableType::Duration => "Duration",
        VariableType::Object => "Object",
    }
}

/// A value of this type, and one that says something.
fn of_type(kind: VariableType) -> Value {
    match kind {
        VariableType::Text => json!({
            "type": ["string", "number", "boolean"], "pattern": r"\S",
            "description": "A text; numbers and booleans are shown as they stand.",
        }),
        VariableType::Amount => json!({
            "type": ["number", "string"], "pattern": r"^\s*[+-]?(\d{1,28}(\.\d*)?|\.\d+)\s*$",
            "description": "A number, or one as text, such as 25.5 or \"25.50\".",
        }),
        VariableType::Time => json!({
            "type": "string", "pattern": r"\S",
            "description": "ISO 8601, or a text that is shown as it stands. Without an offset it is in the event's timezone, else in TIMEZONE.",
        }),
        VariableType::List => json!({
            "type": "array", "items": {"type": ["string", "number", "boolean"]},
        }),
        VariableType::Url => json!({
            "type": "string", "format": "uri", "pattern": r"^\s*[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#\[\]@:%<>]+(:\d{1,4})?([/?#]\S*)?\s*$",
            "description": "An http or https address.",
        }),
        VariableType::Integer => json!({
            "type": ["integer", "string"], "pattern": r"^\s*[+-]?\d{1,18}\s*$",
            "description": "A whole number.",
        }),
        VariableType::Duration => json!({
            "type": "integer", "minimum": 0, "description": "Seconds.",
        }),
        VariableType::Object => json!({
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
            "description": "Names and plain values.",
        }),
    }
}

/// What every event may say about itself.
fn envelope() -> Value {
    let text = |description: &str| json!({"type": ["string", "null"], "description": description});
    let moment = |description: &str| json!({"allOf": [link("Moment")], "description": description});
    json!({
        "type": "object",
        "description": "What every event may say about itself. null is the same as absent.",
        "properties": {
            "event_id": {
                "type": ["string", "number", "null"], "pattern": NAME, "maxLength": 255,
                "description": "The same in every copy of the event, at most 255 bytes. Without it: the AMQP message id, else a hash of the body.",
            },
            "occurred_at": moment("When it happened. Without it: the AMQP timestamp."),
            "sequence": {
                "type": ["integer", "null"],
                "description": "Its place among the events about one booking.",
            },
            "dedup_key": text("Events with the same key tell one fact and give one mail."),
            "locale": text("es, en or one of their regions, such as es-CO."),
            "timezone": text("The IANA zone of times without an offset."),
            "deliver_at": moment("Not to be sent before this."),
            "deliver_before": moment("Not to be sent after this."),
            "user_phone": {
                "allOf": [link("OptionalNumber")],
                "description": "For text messages, where a route asks for them.",
            },
            "attachments": {
                "type": ["array", "null"], "maxItems": MAX_ATTACHMENTS,
                "items": link("Attachment"),
                "description": "Files that go out with every mail of the event, together less than 3 MiB.",
            },
        },
    })
}

fn cloudevent() -> Value {
    let name = json!({"type": "string", "pattern": NAME, "maxLength": 255});
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in structured mode. source and id together are the event's id.",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": name,
            "source": name,
            "time": {
                "allOf": [link("Moment")],
                "description": "When it happened, unless data.occurred_at says so.",
            },
            "data_base64": false,
        },
    })
}

/// Where nothing is said, nothing is wrong.
fn optional(schema: &Value) -> Value {
    let blank = json!({"type": "string", "pattern": r"^\s*$"});
    json!({"anyOf": [schema, {"type": "null"}, blank]})
}

fn number() -> Value {
    json!({
        "type": "string", "pattern": r"^\s*\+[1-9]\d{6,14}\s*$",
        "description": "Who gets the text message: a number as E.164 writes it.",
    })
}

fn address() -> Value {
    json!({
        "type": "string", "format": "idn-email", "maxLength": 254,
        "pattern": r#"^ *[^\s@<>(),;:"\\\[\]\u0000-\u001f\u007f-\u009f]{1,64}@[^\s@<>(),;:"\\\[\]\u0000-\u001f\u007f-\u009f]+ *$"#,
        "description": "Who gets the mail: one address and nothing around it. It may be international.",
    })
}

fn attachment() -> Value {
    json!({
        "type": "object", "required": ["name", "type", "content"],
        "properties": {
            "name": {
                "type": "string", "pattern": r"[^\s./\\]", "maxLength": MAX_ATTACHMENT_NAME_BYTES,
                "description": "A file name; a path before it is cut off.",
            },
            "type": {
                "type": "string", "maxLength": 255,
                "pattern": r"^(?!multipart/|message/)[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*(\s*;\s*\S+)*$",
                "description": "Its media type; no multipart and no message.",
            },
            "content": {
                "type": "string", "contentEncoding": "base64",
                "pattern": r"^[A-Za-z0-9+/_\s-]*[A-Za-z0-9+/_-][A-Za-z0-9+/_\s-]*[=\s]*$",
                "description": "The file in base64, with or without padding.",
            },
        },
    })
}
