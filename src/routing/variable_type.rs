//! What a variable's value must look like.

use std::{collections::BTreeMap, sync::Arc};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};

use crate::event::{currency, json_type, snake_case};

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
    /// A currency by its ISO 4217 code or number.
    Currency,
    /// Names and plain values.
    Object,
    /// A list whose items are of one type.
    ListOf(Arc<VariableType>),
    /// An object with these fields.
    Record(Arc<BTreeMap<String, Field>>),
    /// A text of at most so many characters, or a list or an object of at most so many entries.
    AtMost(usize, Arc<VariableType>),
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What its value must look like.
    pub kind: VariableType,
    /// Whether an object may lack it: its name or its type ends with `?`, or it has a default.
    pub is_optional: bool,
    /// Its value where an object lacks it.
    pub default: Option<Value>,
}

/// What is wrong with a value, by its path: `items[2].price`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ValueFault {
    Missing(String),
    Wrong { path: String, reason: String },
}

/// The types that have a name.
const NAMED: [(&str, VariableType); 9] = [
    ("text", VariableType::Text),
    ("amount", VariableType::Amount),
    ("time", VariableType::Time),
    ("list", VariableType::List),
    ("url", VariableType::Url),
    ("integer", VariableType::Integer),
    ("duration", VariableType::Duration),
    ("currency", VariableType::Currency),
    ("object", VariableType::Object),
];

/// Deepest nesting of a declared type.
const MAX_DEPTH: usize = 8;

/// Most faults of an event that are named.
const MAX_FAULTS: usize = 20;

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
            toml::Value::Table(fields) => match detailed(fields) {
                Some((kind, max, _)) => Self::read(kind, depth + 1)?.at_most(max),
                None => {
                    let field = |(name, kind): (&String, _)| Field::read(name, kind, depth + 1);
                    let fields = fields.iter().map(field).collect::<Result<_, String>>()?;
                    Ok(Self::Record(Arc::new(fields)))
                }
            },
            other => Err(format!("a type is a name, a list or a table, not {other}")),
        }
    }

    /// The same with a limit of length.
    pub(super) fn at_most(self, max: Option<i64>) -> Result<Self, String> {
        let Some(max) = max else { return Ok(self) };
        let max = usize::try_from(max).map_err(|_| format!("max = {max} is no length"))?;
        match self {
            Self::Text | Self::Url | Self::Time | Self::List | Self::ListOf(_) | Self::Object => {
                Ok(Self::AtMost(max, Arc::new(self)))
            }
            _ => Err("max is for texts, lists and objects".to_owned()),
        }
    }

    /// The type without its limit of length.
    pub(crate) fn unlimited(&self) -> &Self {
        match self {
            Self::AtMost(_, kind) => kind.unlimited(),
            kind => kind,
        }
    }

    /// The empty value of this type.
    pub(crate) fn empty_value(&self) -> Value {
        match self.unlimited() {
            Self::List | Self::ListOf(_) => Value::Array(Vec::new()),
            Self::Object | Self::Record(_) => Value::Object(Map::new()),
            _ => Value::String(String::new()),
        }
    }

    /// Whether a value is of this type.
    pub(super) fn fits(&self, value: &Value) -> bool {
        let mut faults = Vec::new();
        self.check("", value, &mut faults);
        faults.is_empty()
    }

    /// Adds what is wrong with the value at a path, and within it.
    pub(super) fn check(&self, path: &str, value: &Value, faults: &mut Vec<ValueFault>) {
        if faults.len() >= MAX_FAULTS {
            return;
        }
        let nested = |value: &&Value| value.is_object() || value.is_array();
        let wrong = |path: String, reason: String| ValueFault::Wrong { path, reason };
        let fits = match (self, value) {
            (Self::Text, Value::String(_) | Value::Number(_) | Value::Bool(_))
            | (Self::Time, Value::String(_))
            | (Self::Amount, Value::Number(_)) => true,
            (Self::List, Value::Array(items)) => {
                let other = |(_, item): &(usize, &Value)| nested(item) || item.is_null();
                if let Some((index, item)) = items.iter().enumerate().find(other) {
                    let reason = format!("is a JSON {}, not a text", json_type(item));
                    faults.push(wrong(format!("{path}[{index}]"), reason));
                }
                true
            }
            (Self::ListOf(kind), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    kind.check(&format!("{path}[{index}]"), item, faults);
                }
                true
            }
            (Self::Amount, Value::String(text)) => text.trim().parse::<Decimal>().is_ok(),
            (Self::Object, Value::Object(fields)) => {
                if fields.values().any(|value| nested(&value)) {
                    let reason = "has objects or lists in it".to_owned();
                    faults.push(wrong(path.to_owned(), reason));
                }
                true
            }
            (Self::Record(kinds), Value::Object(fields)) => {
                for (name, field) in kinds.iter() {
                    match find(fields, name) {
                        None if field.is_optional => {}
                        None => faults.push(ValueFault::Missing(format!("{path}.{name}"))),
                        Some(value) => {
                            field.kind.check(&format!("{path}.{name}"), value, faults);
                        }
                    }
                }
                true
            }
            (Self::AtMost(max, kind), value) => {
                let (length, what) = match value {
                    Value::String(text) => (text.chars().count(), "characters"),
                    Value::Array(items) => (items.len(), "items"),
                    Value::Object(fields) => (fields.len(), "entries"),
                    _ => (0, ""),
                };
                if length > *max {
                    let reason = format!("has {length} {what}, more than {max}");
                    faults.push(wrong(path.to_owned(), reason));
                } else {
                    kind.check(path, value, faults);
                }
                true
            }
            (Self::Currency, value) => code(value).is_some(),
            (Self::Duration, value) => value.is_number() && whole(value).is_some_and(|it| it >= 0),
            (Self::Integer, value) => whole(value).is_some(),
            (Self::Url, Value::String(text)) => url::Url::parse(text.trim())
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https")),
            _ => false,
        };
        if fits {
            return;
        }
        let wanted = match self.unlimited() {
            Self::Text | Self::AtMost(..) => "a text",
            Self::Amount => "an amount",
            Self::Currency => "an ISO 4217 currency",
            Self::Time => "a time",
            Self::List | Self::ListOf(_) => "a list",
            Self::Url => "an http or https address",
            Self::Integer => "a whole number",
            Self::Duration => "a number of seconds",
            Self::Object | Self::Record(_) => "an object",
        };
        let reason = match value {
            Value::String(_) | Value::Number(_) => format!("is not {wanted}"),
            other => format!("is a JSON {}, not {wanted}", json_type(other)),
        };
        faults.push(wrong(path.to_owned(), reason));
    }

    /// A value as conditions see it: numbers are numbers, objects have their declared fields and no others.
    /// What says nothing is `null`. Digits that a JSON number can't hold stay text.
    pub(crate) fn typed(&self, value: &Value) -> Value {
        match (self, value) {
            (Self::Amount, Value::String(text)) => exact(text).unwrap_or_else(|| value.clone()),
            (Self::Integer | Self::Duration, value) => {
                whole(value).map_or_else(|| value.clone(), Value::from)
            }
            (Self::AtMost(_, kind), value) => kind.typed(value),
            (Self::Currency, value) => code(value).map_or_else(|| value.clone(), Value::from),
            (Self::ListOf(kind), Value::Array(items)) => {
                items.iter().map(|item| kind.typed(item)).collect()
            }
            (Self::Object | Self::Record(_), Value::Object(fields)) if fields.is_empty() => {
                Value::Null
            }
            (Self::Record(kinds), Value::Object(fields)) => {
                let typed = |(name, field): (&String, &Field)| {
                    let value = find(fields, name).or(field.default.as_ref())?;
                    Some((name.clone(), field.kind.typed(value)))
                };
                Value::Object(kinds.iter().filter_map(typed).collect())
            }
            _ => value.clone(),
        }
    }
}

impl Field {
    fn read(name: &str, kind: &toml::Value, depth: usize) -> Result<(String, Self), String> {
        let (name, mut is_optional) = without_mark(name);
        let (kind, max, default) = match kind.as_table().and_then(detailed) {
            Some((kind, max, default)) => (kind, max, default.cloned()),
            None => (kind, None, None),
        };
        let kind = match kind.as_str().map(without_mark) {
            Some((kind, has_mark)) => {
                is_optional |= has_mark;
                VariableType::read(&kind.into(), depth)
            }
            None => VariableType::read(kind, depth),
        };
        let at = |fault| format!("{name}: {fault}");
        let kind = kind.and_then(|kind| kind.at_most(max)).map_err(at)?;
        let default = default.map(Value::deserialize).transpose();
        let default = default.map_err(|error| at(error.to_string()))?;
        if default.as_ref().is_some_and(|default| !kind.fits(default)) {
            return Err(at("its default is not of its type".to_owned()));
        }
        let is_optional = is_optional || default.is_some();
        Ok((name.to_owned(), Self { kind, is_optional, default }))
    }
}

fn without_mark(name: &str) -> (&str, bool) {
    name.strip_suffix('?').map_or((name, false), |name| (name, true))
}

/// A type with `max` or `default`, which no object of fields can be: `{ type = "text", max = 40 }`.
fn detailed(table: &toml::Table) -> Option<(&toml::Value, Option<i64>, Option<&toml::Value>)> {
    let known = |name: &String| matches!(name.as_str(), "type" | "max" | "default");
    if table.len() < 2 || !table.keys().all(known) {
        return None;
    }
    let max = table.get("max").map(toml::Value::as_integer);
    // Without a number it is a field of that name.
    let max = max.map_or(Some(None), |max| max.map(Some))?;
    Some((table.get("type")?, max, table.get("default")))
}

/// A currency's code, from ` eur ` or 978.
fn code(value: &Value) -> Option<&'static str> {
    match value {
        Value::String(text) => currency::read(text),
        Value::Number(number) => currency::read(&format!("{:0>3}", number.to_string())),
        _ => None,
    }
}

/// A whole number, also written as `30.0` or as text.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => number.as_i64(),
        Value::Number(number) => whole_text(&number.to_string()),
        Value::String(text) => whole_text(text),
        _ => None,
    }
}

fn whole_text(text: &str) -> Option<i64> {
    let number: Decimal = text.trim().parse().ok()?;
    if number.fract().is_zero() { number.trunc().try_into().ok() } else { None }
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
        let items = kind(
            r#"[{ name = { type = "text", max = 5 }, price = "amount", note = "text?",
            "to?" = { city = "text" }, count = { type = "integer", default = 1 } }]"#,
        )
        .unwrap();
        let good = json!([
            {"name": "a", "price": "25.50", "x": 1, "count": 3.0},
            {"Name": "b", "Price": 0, "note": null, "to": {"City": "Cali"}},
        ]);
        assert!(items.fits(&good));
        assert_eq!(
            items.typed(&good),
            json!([
                {"name": "a", "price": 25.5, "count": 3},
                {"name": "b", "price": 0, "count": 1, "to": {"city": "Cali"}},
            ])
        );
        let faults = |value: Value| {
            let mut faults = Vec::new();
            items.check("items", &value, &mut faults);
            let written = faults.iter().map(|fault| match fault {
                ValueFault::Missing(path) => format!("{path} is missing"),
                ValueFault::Wrong { path, reason } => format!("{path} {reason}"),
            });
            written.collect::<Vec<_>>()
        };
        for (value, reason) in [
            (json!([{"name": "a"}]), "items[0].price is missing"),
            (json!([{"name": [], "price": 1}]), "items[0].name is a JSON array, not a text"),
            (
                json!([{"name": "abcdef", "price": 1}]),
                "items[0].name has 6 characters, more than 5",
            ),
            (json!([{"name": "a", "price": 1, "to": {}}]), "items[0].to.city is missing"),
            (
                json!([{"name": "a", "price": 1, "count": 1.5}]),
                "items[0].count is not a whole number",
            ),
            (json!([1]), "items[0] is not an object"),
            (json!({}), "items is a JSON object, not a list"),
        ] {
            assert_eq!(faults(value), [reason]);
        }
        let two = faults(json!([{"name": "a"}, {"price": "x"}]));
        let all = [
            "items[0].price is missing",
            "items[1].name is missing",
            "items[1].price is not an amount",
        ];
        assert_eq!(two, all);
        assert_eq!(faults(vec![Value::Null; 1000].into()).len(), MAX_FAULTS);
        for wrong in [
            "\"txt\"",
            "[]",
            "[\"text\", \"text\"]",
            "1",
            "{ a = \"nothing\" }",
            "{ type = \"amount\", max = 3 }",
            "[{ a = { type = \"integer\", default = \"x\" } }]",
        ] {
            assert!(kind(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_currency_is_read_or_refused() {
        let kind = kind("\"currency\"").unwrap();
        for value in [json!(" eur "), json!(978), json!("978")] {
            assert!(kind.fits(&value));
            assert_eq!(kind.typed(&value), "EUR");
        }
        for value in [json!("$"), json!("XYZ"), json!(9780), json!(true), json!("euro")] {
            assert!(!kind.fits(&value), "{value}");
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
