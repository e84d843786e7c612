//! What an event of one kind must look like, as JSON Schema (draft 07, which AsyncAPI builds on).
//!
//! Whatever these schemas let through is no event's fault for the pipeline; the pipeline itself is
//! a little more patient (names in Pascal case, numbers for texts of the envelope).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    catalog::{
        ChannelKind, Dialect, EventKind, Priority, Recipients, Route, Variable, VariableType,
    },
    event::{MAX_ATTACHMENT_NAME_BYTES, MAX_ATTACHMENTS},
};

/// No control character, and something that is to be seen.
const NAME: &str = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";
/// ISO 8601 with an offset.
const MOMENT: &str =
    r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}(:?\d{2})?)$";
/// The mail's subject, where an event brings its own: it stands beside the fields of a dialect.
const SUBJECT: &str = "subject";

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

/// The fields of events of one kind, without what says their type.
pub(super) fn of_fields(kind: &EventKind<'_>) -> Value {
    let mut outer = Fields::default();
    let mut inner = Fields::default();
    let nested = kind.dialect.and_then(|dialect| dialect.fields.as_ref());
    for name in ["full_name", "username", "email"] {
        let global = json!({"type": ["string", "null"], "description": "Seen by every template."});
        outer.properties.insert(name.to_owned(), global);
    }
    for route in kind.routes {
        for (name, field) in priority(route).into_iter().chain(reply_to(route)) {
            outer.properties.insert(name, field);
        }
    }
    for (name, needs) in needs(kind.routes) {
        let (property, is_required) = property(name, &needs);
        let is_inside = nested.is_some() && name != SUBJECT;
        let fields = if is_inside { &mut inner } else { &mut outer };
        fields.add(kind.dialect, name, &property, is_required);
    }
    for route in kind.routes {
        match &route.recipients {
            Recipients::Field(path) => outer.insert(path, link(recipient(route.channel))),
            // Of a path only the last part can be missing.
            Recipients::Optional(path) if !path.contains('.') => {
                let name = format!("Optional{}", recipient(route.channel));
                outer.properties.insert(path.clone(), link(&name));
            }
            Recipients::Optional(_) | Recipients::Fixed(_) => {}
        }
    }
    if let Some(name) = nested {
        outer.insert(name, inner.into_schema());
    }
    outer.all_of.push(link("Envelope"));
    outer.into_schema()
}

/// An object under construction.
#[derive(Default)]
struct Fields {
    properties: Map<String, Value>,
    required: Vec<String>,
    /// What else has to hold.
    all_of: Vec<Value>,
}

impl Fields {
    /// A variable under the names that publishers write it with.
    fn add(&mut self, dialect: Option<&Dialect>, name: &str, schema: &Value, is_required: bool) {
        let theirs = dialect.map_or(vec![name], |dialect| dialect.names_of(name));
        for name in &theirs {
            self.properties.insert((*name).to_owned(), schema.clone());
        }
        match theirs.as_slice() {
            _ if !is_required => {}
            [only] => self.required.push((*only).to_owned()),
            several => {
                let any: Vec<_> = several.iter().map(|name| json!({"required": [name]})).collect();
                self.all_of.push(json!({"anyOf": any}));
            }
        }
    }

    /// A required field by its path; dots lead into objects.
    fn insert(&mut self, path: &str, schema: Value) {
        let (first, schema) = match path.split_once('.') {
            None => (path, schema),
            Some((first, rest)) => {
                let mut nested = Self::default();
                nested.insert(rest, schema);
                (first, nested.into_schema())
            }
        };
        self.properties.insert(first.to_owned(), schema);
        if !self.required.iter().any(|name| name == first) {
            self.required.push(first.to_owned());
        }
    }

    fn into_schema(self) -> Value {
        let mut schema = json!({"type": "object", "properties": self.properties});
        if !self.required.is_empty() {
            let mut required = self.required;
            required.sort();
            schema["required"] = required.into();
        }
        if !self.all_of.is_empty() {
            schema["allOf"] = self.all_of.into();
        }
        schema
    }
}

/// What the routes of one kind of event want of each variable.
fn needs(routes: &[std::sync::Arc<Route>]) -> BTreeMap<&str, Vec<(&Route, &Variable)>> {
    let mut needs: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for route in routes {
        for (name, variable) in &route.variables {
            needs.entry(name).or_default().push((route.as_ref(), variable));
        }
    }
    needs
}

/// A variable as all of its routes want it, and whether one can't do without.
fn property(name: &str, needs: &[(&Route, &Variable)]) -> (Value, bool) {
    let is_required = needs.iter().any(|(_, variable)| variable.default.is_none());
    let mut links: Vec<Value> = Vec::new();
    let mut says = Vec::new();
    let mut add = |text: String| {
        if !says.contains(&text) {
            says.push(text);
        }
    };
    let mut default = None;
    for (_, variable) in needs {
        let type_of = name_of(variable.kind);
        let link = if is_required { link(type_of) } else { link(&format!("Optional{type_of}")) };
        if !links.contains(&link) {
            links.push(link);
        }
        if let Some(derived) = variable.derived.as_ref().filter(|_| !is_required) {
            add(format!("Without it: {derived}."));
        }
        let nothing = variable.kind.nothing();
        default = default.or(variable.default.as_ref().filter(|value| **value != nothing));
    }
    if needs.iter().any(|(route, _)| route.secrets.iter().any(|secret| secret == name)) {
        add("A secret: masked in records, logs and dead letters.".to_owned());
    }
    let mut property = match links.as_slice() {
        [only] if says.is_empty() && default.is_none() => return (only.clone(), is_required),
        _ => json!({"allOf": links}),
    };
    if !says.is_empty() {
        property["description"] = says.join(" ").into();
    }
    if let Some(default) = default.filter(|_| !is_required) {
        property["default"] = default.clone();
    }
    (property, is_required)
}

fn priority(route: &Route) -> Option<(String, Value)> {
    let names = Priority::ALL.map(Priority::as_str);
    let text = format!("How urgent it is; without it: {}.", route.priority.as_str());
    Some((route.priority_from.clone()?, json!({"enum": names, "description": text})))
}

fn reply_to(route: &Route) -> Option<(String, Value)> {
    let name = route.reply_to.clone().filter(|path| !path.contains('.'))?;
    Some((name, json!({"type": ["string", "null"], "description": "Answers go there."})))
}

fn name_of(kind: VariableType) -> &'static str {
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

fn recipient(channel: ChannelKind) -> &'static str {
    match channel {
        ChannelKind::Email => "Address",
        ChannelKind::Sms => "Number",
    }
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
