//! JSON Schema of an event kind (draft 07, on which AsyncAPI builds).
//!
//! The delivery line accepts every event that matches. It also accepts a little more, such as names
//! in Pascal case and numbers for texts of the envelope.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::blocks::{link, typed};
use crate::routing::{
    BrandChoice, ChannelKind, EventKind, FieldMapping, MAX_RECIPIENTS, Priority, Recipients, Route,
    Variable,
};

/// The subject that an event may bring along. It is not nested in a dialect's fields.
const SUBJECT: &str = "subject";

/// The schema of the fields of an event kind, without its type.
pub(super) fn event_schema(kind: &EventKind<'_>) -> Value {
    let mut outer = Fields::default();
    let mut inner = Fields::default();
    let nested = kind.mapping.and_then(|mapping| mapping.fields.as_ref());
    for name in ["full_name", "username", "email"] {
        let global =
            json!({"type": ["string", "null"], "description": "Available to every template."});
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
        fields.add(kind.mapping, name, &property, is_required);
    }
    for route in kind.routes {
        match &route.recipients {
            Recipients::Field(path) => {
                let address = link(recipient(route.channel));
                outer.insert(path, one_or_several(kind, path, address, (route.channel, true)));
            }
            // In a path, only the last part can be missing.
            Recipients::Optional(path) if !path.contains('.') => {
                let name = format!("Optional{}", recipient(route.channel));
                let schema = one_or_several(kind, path, link(&name), (route.channel, false));
                outer.properties.insert(path.clone(), schema);
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

/// An object schema under construction.
#[derive(Default)]
struct Fields {
    properties: Map<String, Value>,
    required: Vec<String>,
    /// Further schemas that have to match.
    all_of: Vec<Value>,
}

impl Fields {
    /// Adds a variable under the names that publishers use.
    fn add(
        &mut self,
        mapping: Option<&FieldMapping>,
        name: &str,
        schema: &Value,
        is_required: bool,
    ) {
        let theirs = mapping.map_or(vec![name], |mapping| mapping.source_names(name));
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

    /// Adds a required field by its path; dots lead into objects.
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

/// The declarations of each variable in all routes of an event kind.
fn needs(routes: &[std::sync::Arc<Route>]) -> BTreeMap<&str, Vec<(&Route, &Variable)>> {
    let mut needs: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for route in routes {
        for (name, variable) in &route.variables {
            needs.entry(name).or_default().push((route.as_ref(), variable));
        }
    }
    needs
}

/// The schema of a variable that satisfies all of its routes, and whether it is required.
fn property(name: &str, needs: &[(&Route, &Variable)]) -> (Value, bool) {
    let is_required = needs.iter().any(|(_, variable)| variable.default.is_none());
    let mut links: Vec<Value> = Vec::new();
    let mut notes = Vec::new();
    let mut add = |text: String| {
        if !notes.contains(&text) {
            notes.push(text);
        }
    };
    let mut default = None;
    for (_, variable) in needs {
        let link = typed(&variable.kind, is_required);
        if !links.contains(&link) {
            links.push(link);
        }
        if let Some(derived) = variable.derived.as_ref().filter(|_| !is_required) {
            add(format!("Default: {derived}."));
        }
        let nothing = variable.kind.empty_value();
        default = default.or(variable.default.as_ref().filter(|value| **value != nothing));
    }
    for (route, _) in needs {
        if let Some(BrandChoice::Field(choice)) = &route.brand
            && choice.field == name
        {
            let allowed = choice.allow.iter().map(|name| Value::from(name.as_str()));
            let none = [Value::Null, "".into()].into_iter().filter(|_| !is_required);
            links.push(json!({"enum": allowed.chain(none).collect::<Vec<_>>()}));
        }
    }
    if needs.iter().any(|(route, _)| route.secrets.iter().any(|secret| secret == name)) {
        add("Secret: masked in records, logs and dead letters.".to_owned());
    }
    let mut property = match links.as_slice() {
        [only] if notes.is_empty() && default.is_none() => return (only.clone(), is_required),
        _ => json!({"allOf": links}),
    };
    if !notes.is_empty() {
        property["description"] = notes.join(" ").into();
    }
    if let Some(default) = default.filter(|_| !is_required) {
        property["default"] = default.clone();
    }
    (property, is_required)
}

fn priority(route: &Route) -> Option<(String, Value)> {
    let names = Priority::ALL.map(Priority::as_str);
    let text = format!("Priority. Default: {}.", route.priority.as_str());
    Some((route.priority_from.clone()?, json!({"enum": names, "description": text})))
}

fn reply_to(route: &Route) -> Option<(String, Value)> {
    let name = route.reply_to.clone().filter(|path| !path.contains('.'))?;
    Some((name, json!({"type": ["string", "null"], "description": "Address for replies."})))
}

/// An address or a list of them. A field that is also a variable has one.
fn one_or_several(
    kind: &EventKind<'_>,
    path: &str,
    one: Value,
    (channel, is_required): (ChannelKind, bool),
) -> Value {
    if kind.routes.iter().any(|route| route.variables.contains_key(path)) {
        return one;
    }
    let items = link(recipient(channel));
    let mut several = json!({
        "type": "array", "maxItems": MAX_RECIPIENTS, "items": items,
        "description": "One message each.",
    });
    if is_required {
        several["minItems"] = 1.into();
    }
    json!({"anyOf": [one, several]})
}

fn recipient(channel: ChannelKind) -> &'static str {
    match channel {
        ChannelKind::Email => "Address",
        ChannelKind::Sms => "Number",
    }
}
