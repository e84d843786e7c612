//! Changes of single fields of an event.

use std::fmt;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use crate::{audit::store::actions::FieldChange, event::snake_case};

/// A field before and after a correction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Path of the field; empty for the whole body.
    pub(super) field: String,
    before: Option<Value>,
    after: Option<Value>,
}

/// Longest value that the audit keeps, in characters.
const MAX_KEPT: usize = 500;

impl Change {
    /// As the audit keeps it.
    pub(super) fn to_record(&self, is_secret: impl Fn(&str) -> bool) -> FieldChange {
        let is_secret = self.field.split('.').any(|part| is_secret(&snake_case(part)));
        let text = |value: &Option<Value>| {
            let text = value.as_ref()?.to_string();
            Some(if is_secret { "***".to_owned() } else { text.chars().take(MAX_KEPT).collect() })
        };
        FieldChange {
            field: self.field.clone(),
            before: text(&self.before),
            after: text(&self.after),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        let (before, after) = (text(&self.before), text(&self.after));
        let field = if self.field.is_empty() { "the body" } else { &self.field };
        write!(f, "{field}: {before} -> {after}")
    }
}

/// Parses `field=value`. The value is JSON, or else a text.
pub(super) fn assignment(text: &str) -> anyhow::Result<(String, Value)> {
    let (field, value) =
        text.split_once('=').with_context(|| format!("{text:?} is not FIELD=VALUE"))?;
    let value = crate::event::read_json(value.as_bytes()).unwrap_or_else(|_| value.into());
    Ok((field.to_owned(), value))
}

pub(super) fn set(mut event: Value, fields: &[(String, Value)]) -> anyhow::Result<Value> {
    for (path, value) in fields {
        let mut at = &mut event;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let Some(object) = at.as_object_mut() else {
                bail!("{path:?} leads into a value that is not an object")
            };
            match (parts.peek(), value) {
                (Some(_), _) => at = object.entry(part).or_insert_with(|| Map::new().into()),
                (None, Value::Null) => {
                    object.remove(part);
                    break;
                }
                (None, value) => {
                    // A number that was written as a text, such as an amount, stays a text.
                    let was_text = object.get(part).is_some_and(Value::is_string);
                    let value = match value {
                        Value::Number(number) if was_text => Value::String(number.to_string()),
                        other => other.clone(),
                    };
                    object.insert(part.to_owned(), value);
                    break;
                }
            }
        }
    }
    Ok(event)
}

/// Parses `old=new`, the paths of a field.
pub(super) fn renaming(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => bail!("{text:?} is not OLD=NEW"),
    }
}

/// Moves values from one path to another that has none yet.
pub(super) fn rename(mut event: Value, fields: &[(String, String)]) -> anyhow::Result<Value> {
    for (old, new) in fields {
        let (parents, name) = old.rsplit_once('.').unwrap_or(("", old));
        let mut parents = parents.split('.').filter(|part| !part.is_empty());
        let parent = parents.try_fold(&mut event, |at, part| at.get_mut(part));
        let value = parent.and_then(|parent| parent.as_object_mut()?.remove(name));
        let value = value.with_context(|| format!("there is no field {old:?}"))?;
        let known = new.split('.').try_fold(&event, |at, part| at.get(part));
        if known.is_some_and(|known| !known.is_null()) {
            bail!("there is a field {new:?} already");
        }
        event = set(event, &[(new.clone(), value)])?;
    }
    Ok(event)
}

/// Lists changed fields by their paths.
pub(super) fn changes(before: Option<&Value>, after: &Value) -> Vec<Change> {
    fn compare(at: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Change>) {
        match (before, after) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
                for name in names {
                    let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                    compare(&path, old.get(name), new.get(name), found);
                }
            }
            (before, after) if before != after => found.push(Change {
                field: at.to_owned(),
                before: before.cloned(),
                after: after.cloned(),
            }),
            _ => {}
        }
    }
    let mut found = Vec::new();
    compare("", before, Some(after), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{assignment, changes, rename, renaming, set};

    #[test]
    fn fields_are_renamed_by_their_paths() {
        let event = json!({"title": "Solaris", "data": {"to": "a@b"}, "seats": "A1"});
        let renamed = |fields: &[&str]| {
            let fields: Vec<_> = fields.iter().map(|text| renaming(text).unwrap()).collect();
            rename(event.clone(), &fields).map_err(|error| error.to_string())
        };
        let expected =
            json!({"movie_title": "Solaris", "data": {}, "user": {"email": "a@b"}, "seats": "A1"});
        assert_eq!(renamed(&["title=movie_title", "data.to=user.email"]), Ok(expected));
        assert_eq!(renamed(&["name=title"]), Err("there is no field \"name\"".to_owned()));
        let taken = Err("there is a field \"seats\" already".to_owned());
        assert_eq!(renamed(&["title=seats"]), taken);
        assert!(renaming("title").is_err() && renaming("=x").is_err());
    }

    #[test]
    fn fields_are_set_by_their_paths() {
        let event = json!({"total": "25.50", "seats": "A1", "data": {"to": "a@b"}, "gone": 1});
        let texts =
            ["total=30", "seats=[\"A1\",\"A2\"]", "data.to=c@d", "data.new.x=007", "gone=null"];
        let fields: Vec<_> = texts.iter().map(|text| assignment(text).unwrap()).collect();
        let expected = json!({
            "total": "30", "seats": ["A1", "A2"], "data": {"to": "c@d", "new": {"x": "007"}},
        });
        assert_eq!(set(event.clone(), &fields).unwrap(), expected);
        let shown: Vec<_> =
            changes(Some(&event), &expected).iter().map(ToString::to_string).collect();
        for line in [
            r#"total: "25.50" -> "30""#,
            r#"seats: "A1" -> ["A1","A2"]"#,
            r#"data.to: "a@b" -> "c@d""#,
            r#"data.new: nothing -> {"x":"007"}"#,
            "gone: 1 -> nothing",
        ] {
            assert!(shown.iter().any(|shown| shown == line), "{line} in {shown:#?}");
        }
        assert_eq!(shown.len(), 5);
    }

    #[test]
    fn faulty_assignments_are_refused() {
        assert!(assignment("total").is_err());
        let fields = [assignment("seats.first=A1").unwrap()];
        assert!(set(json!({"seats": ["A1"]}), &fields).is_err());
        assert_eq!(changes(Some(&json!({"a": 1})), &json!({"a": 1})), []);
    }
}
