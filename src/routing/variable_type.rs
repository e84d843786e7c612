//! What a variable's value must look like.

use std::{collections::BTreeMap, sync::Arc};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};

use crate::event::{json_type, snake_case};

/// What a variable's value must look like. In the routes file a name, a list with the type of its items,
/// or a table with the types of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VariableType {
    /// A text, a number or a boolean.
    Text,
    /// A number, as a JSON number or as a text.
    Amount,
    /// A text that tells a time, ISO 8601 or not.
    Time,
    /// A list of plain values.
    List,
    /// An `http` or `https` address.
    Url,
    /// A whole number.
    Integer,
    /// A length of time in seconds.
    Duration,
    /// Names and plain values.
    Object,
    /// A list whose items are of one type.
    ListOf(Arc<VariableType>),
    /// An object with these fields.
    Record(Arc<BTreeMap<String, Field>>),
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What its value must look like.
    pub kind: VariableType,
    /// Whether an object may lack it: its type ends with `?`.
    pub is_optional: bool,
}

/// The types that have a name.
const NAMED: [(&str, VariableType); 8] = [
    ("text", VariableType::Text),
    ("amount", VariableType::Amount),
    ("time", VariableType::Time),
    ("list", VariableType::List),
    ("url", VariableType::Url),
    ("integer", VariableType::Integer),
    ("duration", VariableType::Duration),
    ("object", VariableType::Object),
];

/// Deepest nesting of a declared type.
const MAX_DEPTH: usize = 8;

impl VariableType {
    /// All that have a name.
    pub(crate) fn named() -> impl Iterator<Item = Self> {
        NAMED.into_iter().map(|(_, kind)| kind)
    }

    fn read(value: &toml::Value, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it nests deeper than {MAX_DEPTH}"));
        }
        match value {
            toml::Value::String(name) => {
                let found = NAMED.into_iter().find(|(known, _)| known == name);
                let names = NAMED.map(|(name, _)| name).join(", ");
                let unknown = || format!("there is no type {name:?}: there are {names}");
                found.map(|(_, kind)| kind).ok_or_else(unknown)
            }
            toml::Value::Array(items) => match items.as_slice() {
                [item] => Ok(Self::ListOf(Arc::new(Self::read(item, depth + 1)?))),
                _ => Err("a list has the one type of its items: [\"text\"]".to_owned()),
            },
            toml::Value::Table(fields) => {
                let field = |(name, kind): (&String, &toml::Value)| {
                    let optional = kind.as_str().and_then(|kind| kind.strip_suffix('?'));
                    let kind = match optional {
                        Some(kind) => Self::read(&kind.into(), depth + 1)?,
                        None => Self::read(kind, depth + 1)?,
                    };
                    Ok((name.clone(), Field { kind, is_optional: optional.is_some() }))
                };
                let fields =
                    fields.iter().map(field).collect::<Result<BTreeMap<_, _>, String>>()?;
                Ok(Self::Record(Arc::new(fields)))
            }
            other => Err(format!("a type is a name, a list or a table, not {other}")),
        }
    }

    /// The empty value of this type.
    pub(crate) fn empty_value(&self) -> Value {
        match self {
            Self::List | Self::ListOf(_) => Value::Array(Vec::new()),
            Self::Object | Self::Record(_) => Value::Object(Map::new()),
            _ => Value::String(String::new()),
        }
    }

    /// # Errors
    /// What is wrong with a value.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let nested = |value: &&Value| value.is_object() || value.is_array();
        let fits = match (self, value) {
            (Self::Text, Value::String(_) | Value::Number(_) | Value::Bool(_))
            | (Self::Time, Value::String(_))
            | (Self::Amount, Value::Number(_)) => true,
            (Self::List, Value::Array(items)) => {
                match items.iter().find(|item| nested(item) || item.is_null()) {
                    Some(item) => {
                        return Err(format!("has a JSON {} in its list", json_type(item)));
                    }
                    None => true,
                }
            }
            (Self::ListOf(kind), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    kind.check(item).map_err(|reason| format!("[{index}] {reason}"))?;
                }
                true
            }
            (Self::Amount, Value::String(text)) => text.trim().parse::<Decimal>().is_ok(),
            (Self::Object, Value::Object(fields)) => {
                if fields.values().any(|value| nested(&value)) {
                    return Err("has objects or lists in it".to_owned());
                }
                true
            }
            (Self::Record(kinds), Value::Object(fields)) => {
                for (name, field) in kinds.iter() {
                    match find(fields, name) {
                        None if field.is_optional => {}
                        None => return Err(format!(".{name} is missing")),
                        Some(value) => {
                            field
                                .kind
                                .check(value)
                                .map_err(|reason| format!(".{name} {reason}"))?;
                        }
                    }
                }
                true
            }
            (Self::Duration, Value::Number(number)) => number.is_u64(),
            (Self::Integer, Value::Number(number)) => number.is_i64() || number.is_u64(),
            (Self::Integer, Value::String(text)) => text.trim().parse::<i64>().is_ok(),
            (Self::Url, Value::String(text)) => url::Url::parse(text.trim())
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https")),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let wanted = match self {
            Self::Text => "a text",
            Self::Amount => "an amount",
            Self::Time => "a time",
            Self::List | Self::ListOf(_) => "a list",
            Self::Url => "an http or https address",
            Self::Integer => "a whole number",
            Self::Duration => "a number of seconds",
            Self::Object | Self::Record(_) => "an object",
        };
        Err(match value {
            Value::String(_) | Value::Number(_) => format!("is not {wanted}"),
            other => format!("is a JSON {}, not {wanted}", json_type(other)),
        })
    }

    /// A value as conditions see it: numbers are numbers, objects have their declared fields and no others.
    /// What says nothing is `null`. Digits that a JSON number can't hold stay text.
    pub(crate) fn typed(&self, value: &Value) -> Value {
        match (self, value) {
            (Self::Amount, Value::String(text)) => exact(text).unwrap_or_else(|| value.clone()),
            (Self::Integer, Value::String(text)) => {
                text.trim().parse::<i64>().map_or_else(|_| value.clone(), Value::from)
            }
            (Self::ListOf(kind), Value::Array(items)) => {
                items.iter().map(|item| kind.typed(item)).collect()
            }
            (Self::Object | Self::Record(_), Value::Object(fields)) if fields.is_empty() => {
                Value::Null
            }
            (Self::Record(kinds), Value::Object(fields)) => {
                let typed = |(name, field): (&String, &Field)| {
                    Some((name.clone(), field.kind.typed(find(fields, name)?)))
                };
                Value::Object(kinds.iter().filter_map(typed).collect())
            }
            _ => value.clone(),
        }
    }
}

/// A field of an object, which may be written in Pascal case; `null` and an empty text say nothing.
fn find<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let written = || fields.iter().find(|(key, _)| snake_case(key) == name).map(|(_, value)| value);
    let blank = |value: &Value| value.as_str().is_some_and(|text| text.trim().is_empty());
    fields.get(name).or_else(written).filter(|value| !value.is_null() && !blank(value))
}

/// A number with the same digits.
fn exact(text: &str) -> Option<Value> {
    let wanted: Decimal = text.trim().parse().ok()?;
    if let Ok(whole) = i64::try_from(wanted)
        && Decimal::from(whole) == wanted
    {
        return Some(whole.into());
    }
    let number: f64 = wanted.to_string().parse().ok()?;
    let same = number.to_string().parse::<Decimal>().is_ok_and(|found| found == wanted);
    Number::from_f64(number).filter(|_| same).map(Value::Number)
}

impl<'de> Deserialize<'de> for VariableType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        Self::read(&value, 0).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(text: &str) -> Result<VariableType, String> {
        let table: toml::Table = toml::from_str(&format!("kind = {text}")).unwrap();
        VariableType::read(&table["kind"], 0)
    }

    #[test]
    fn types_nest() {
        let items = kind(r#"[{ name = "text", price = "amount", note = "text?" }]"#).unwrap();
        let good = json!([{"name": "a", "price": "25.50", "x": 1}, {"Name": "b", "Price": 0, "note": null}]);
        items.check(&good).unwrap();
        assert_eq!(
            items.typed(&good),
            json!([{"name": "a", "price": 25.5}, {"name": "b", "price": 0}])
        );
        for (value, reason) in [
            (json!([{"name": "a"}]), "[0] .price is missing"),
            (json!([{"name": [], "price": 1}]), "[0] .name is a JSON array, not a text"),
            (json!([1]), "[0] is not an object"),
            (json!({}), "is a JSON object, not a list"),
        ] {
            assert_eq!(items.check(&value).unwrap_err(), reason);
        }
        for wrong in ["\"txt\"", "[]", "[\"text\", \"text\"]", "1", "{ a = \"nothing\" }"] {
            assert!(kind(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn digits_that_a_number_cannot_hold_stay_text() {
        let typed = |text: &str| VariableType::Amount.typed(&json!(text));
        assert_eq!(typed(" 0.00 "), json!(0));
        assert_eq!(typed("0.1"), json!(0.1));
        assert_eq!(typed("1234567890123456789.01"), json!("1234567890123456789.01"));
    }
}
