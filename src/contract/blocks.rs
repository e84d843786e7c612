//! The building blocks of event schemas: one for each variable type, and the envelope.

use serde_json::{Map, Value, json};

use crate::{
    event::{MAX_ATTACHMENT_NAME_BYTES, MAX_ATTACHMENTS, currency},
    routing::{Field, VariableType},
};

/// No control characters, and at least one visible character.
const NAME: &str = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";
/// ISO 8601 with an offset.
const MOMENT: &str =
    r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}(:?\d{2})?)$";

/// The shared schemas by name.
pub(super) fn shared() -> Map<String, Value> {
    let mut schemas = Map::new();
    for kind in VariableType::named() {
        let Some(name) = type_name(&kind) else { continue };
        schemas.insert(format!("Optional{name}"), optional(&link(name)));
        schemas.insert(name.to_owned(), type_schema(&kind));
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

/// A reference to a named schema.
pub(super) fn link(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The schema of a variable of this type.
pub(super) fn typed(kind: &VariableType, is_required: bool) -> Value {
    match (type_name(kind), is_required) {
        (Some(name), true) => link(name),
        (Some(name), false) => link(&format!("Optional{name}")),
        (None, true) => type_schema(kind),
        (None, false) => optional(&type_schema(kind)),
    }
}

fn type_name(kind: &VariableType) -> Option<&'static str> {
    Some(match kind {
        VariableType::Text => "Text",
        VariableType::Amount => "Amount",
        VariableType::Currency => "Currency",
        VariableType::Time => "Time",
        VariableType::List => "List",
        VariableType::Url => "Url",
        VariableType::Integer => "Integer",
        VariableType::Duration => "Duration",
        VariableType::Object => "Object",
        VariableType::ListOf(_) | VariableType::Record(_) | VariableType::AtMost(..) => {
            return None;
        }
    })
}

/// The schema of a non-empty value of this type.
fn type_schema(kind: &VariableType) -> Value {
    match kind {
        VariableType::Text => json!({
            "type": ["string", "number", "boolean"], "pattern": r"\S",
            "description": "A text. Numbers and booleans are printed as they are.",
        }),
        VariableType::Amount => json!({
            "type": ["number", "string"], "pattern": r"^\s*[+-]?(\d{1,28}(\.\d*)?|\.\d+)\s*$",
            "description": "A number or a number as text, such as 25.5 or \"25.50\".",
        }),
        VariableType::Time => json!({
            "type": "string", "pattern": r"\S",
            "description": "ISO 8601, or a text that is printed as it is. A time without an offset is in the event's timezone, else in TIMEZONE.",
        }),
        VariableType::List => json!({
            "type": "array", "items": {"type": ["string", "number", "boolean"]},
        }),
        VariableType::Url => json!({
            "type": "string", "format": "uri", "pattern": r"^\s*[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#\[\]@:%<>]+(:\d{1,4})?([/?#]\S*)?\s*$",
            "description": "An http or https URL.",
        }),
        VariableType::Integer => json!({
            "type": ["integer", "string"], "pattern": r"^\s*[+-]?\d{1,18}\s*$",
            "description": "A whole number.",
        }),
        VariableType::Duration => json!({
            "type": "integer", "minimum": 0, "description": "Seconds.",
        }),
        VariableType::Currency => json!({
            "enum": currency::codes().collect::<Vec<_>>(), "description": "An ISO 4217 code.",
        }),
        VariableType::Object => json!({
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
            "description": "Names with plain values.",
        }),
        VariableType::AtMost(max, kind) => {
            let limit = match **kind {
                VariableType::List | VariableType::ListOf(_) => "maxItems",
                VariableType::Object => "maxProperties",
                _ => "maxLength",
            };
            json!({"allOf": [typed(kind, true), {limit: max}]})
        }
        VariableType::ListOf(kind) => json!({"type": "array", "items": typed(kind, true)}),
        VariableType::Record(fields) => {
            let required = fields.iter().filter(|(_, field)| !field.is_optional);
            let required: Vec<_> = required.map(|(name, _)| name).collect();
            let schema = |field: &Field| {
                let schema = typed(&field.kind, !field.is_optional);
                match &field.default {
                    Some(default) => json!({"allOf": [schema], "default": default}),
                    None => schema,
                }
            };
            let fields = fields.iter().map(|(name, field)| (name.clone(), schema(field)));
            let properties: Map<_, _> = fields.collect();
            json!({"type": "object", "required": required, "properties": properties})
        }
    }
}

/// The fields that every event may have besides its variables.
fn envelope() -> Value {
    let text = |description: &str| json!({"type": ["string", "null"], "description": description});
    let moment = |description: &str| json!({"allOf": [link("Moment")], "description": description});
    json!({
        "type": "object",
        "description": "Fields that every event may have. null is the same as absent.",
        "properties": {
            "event_id": {
                "type": ["string", "number", "null"], "pattern": NAME, "maxLength": 255,
                "description": "Event id, the same in every copy of the event, at most 255 bytes. Default: the AMQP message id, else a hash of the body.",
            },
            "occurred_at": moment("When the event happened. Default: the AMQP timestamp."),
            "sequence": {
                "type": ["integer", "null"],
                "description": "Position among the events about one booking.",
            },
            "dedup_key": text("Events with the same key give one mail."),
            "locale": text("A language tag such as es or es-CO."),
            "timezone": text("IANA time zone of times without an offset."),
            "deliver_at": moment("Not sent before this time."),
            "deliver_before": moment("Not sent after this time."),
            "user_phone": {
                "anyOf": [link("OptionalNumber"), {"type": "array", "items": link("Number")}],
                "description": "Phone number for routes that send text messages.",
            },
            "attachments": {
                "type": ["array", "null"], "maxItems": MAX_ATTACHMENTS,
                "items": link("Attachment"),
                "description": "Files attached to every mail of the event, less than 3 MiB in total.",
            },
        },
    })
}

fn cloudevent() -> Value {
    let name = json!({"type": "string", "pattern": NAME, "maxLength": 255});
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in structured mode. source and id together identify the event.",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": name,
            "source": name,
            "time": {
                "allOf": [link("Moment")],
                "description": "When the event happened, unless data.occurred_at is set.",
            },
            "data_base64": false,
        },
    })
}

/// Accepts null and blank texts as well.
fn optional(schema: &Value) -> Value {
    let blank = json!({"type": "string", "pattern": r"^\s*$"});
    json!({"anyOf": [schema, {"type": "null"}, blank]})
}

fn number() -> Value {
    json!({
        "type": "string", "pattern": r"^\s*\+[1-9]\d{6,14}\s*$",
        "description": "Phone number of the recipient in E.164 format.",
    })
}

fn address() -> Value {
    json!({
        "type": "string", "format": "idn-email", "maxLength": 254,
        "pattern": r#"^ *[^\s@<>(),;:"\\\[\]\u0000-\u001f\u007f-\u009f]{1,64}@[^\s@<>(),;:"\\\[\]\u0000-\u001f\u007f-\u009f]+ *$"#,
        "description": "Mail address of the recipient: one bare address. It may be internationalized.",
    })
}

fn attachment() -> Value {
    json!({
        "type": "object", "required": ["name", "type", "content"],
        "properties": {
            "name": {
                "type": "string", "pattern": r"[^\s./\\]", "maxLength": MAX_ATTACHMENT_NAME_BYTES,
                "description": "File name; a leading path is removed.",
            },
            "type": {
                "type": "string", "maxLength": 255,
                "pattern": r"^(?!multipart/|message/)[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*(\s*;\s*\S+)*$",
                "description": "Media type; multipart and message types are not allowed.",
            },
            "content": {
                "type": "string", "contentEncoding": "base64",
                "pattern": r"^[A-Za-z0-9+/_\s-]*[A-Za-z0-9+/_-][A-Za-z0-9+/_\s-]*[=\s]*$",
                "description": "The file in base64, with or without padding.",
            },
        },
    })
}
