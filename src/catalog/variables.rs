//! Takes a route's variables out of an event.

use serde_json::{Map, Value};

use super::{Route, VariableType};
use crate::event::{Event, json_type};

/// What is wrong with an event's variables: the event's fault, so trying again can't help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableFault {
    /// Required variables that the event lacks.
    #[error("missing variable{}: {}", if .0.len() == 1 { "" } else { "s" }, .0.join(", "))]
    Missing(Vec<String>),
    /// A variable of another type than the route declares.
    #[error("variable {name} {reason}")]
    Type {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Route {
    /// Every declared variable: the event's value, else the default.
    ///
    /// # Errors
    /// [`VariableFault`] naming all that are missing, else the first of a wrong type.
    pub fn variables(&self, event: &Event) -> Result<Map<String, Value>, VariableFault> {
        let mut found = Map::new();
        let mut missing = Vec::new();
        for (name, variable) in &self.variables {
            match (event.fields.get(name), &variable.default) {
                (None | Some(Value::Null), Some(default)) => {
                    found.insert(name.clone(), default.clone());
                }
                (None | Some(Value::Null), None) => missing.push(name.clone()),
                // An empty text says nothing where one is required.
                (Some(Value::String(text)), None) if text.trim().is_empty() => {
                    missing.push(name.clone());
                }
                (Some(Value::String(text)), Some(default)) if text.trim().is_empty() => {
                    found.insert(name.clone(), default.clone());
                }
                (Some(value), _) => {
                    variable
                        .kind
                        .check(value)
                        .map_err(|reason| VariableFault::Type { name: name.clone(), reason })?;
                    found.insert(name.clone(), value.clone());
                }
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(VariableFault::Missing(missing)) }
    }

    /// The values of the route's secrets, to be masked wherever they would show.
    pub fn secret_values(&self, event: &Event) -> Vec<String> {
        let texts = self.secrets.iter().filter_map(|name| match event.fields.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        texts.filter(|text| !text.is_empty()).collect()
    }
}

impl VariableType {
    fn check(self, value: &Value) -> Result<(), String> {
        let fits = match (self, value) {
            (Self::Text, Value::String(_) | Value::Number(_) | Value::Bool(_))
            | (Self::Time, Value::String(_))
            | (Self::Amount, Value::Number(_)) => true,
            (Self::List, Value::Array(items)) => {
                match items
                    .iter()
                    .find(|item| matches!(item, Value::Object(_) | Value::Array(_) | Value::Null))
                {
                    Some(item) => {
                        return Err(format!("has a JSON {} in its list", json_type(item)));
                    }
                    None => true,
                }
            }
            (Self::Amount, Value::String(text)) => {
                text.trim().parse::<rust_decimal::Decimal>().is_ok()
            }
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
            Self::List => "a list",
            Self::Url => "an http or https address",
            Self::Integer => "a whole number",
        };
        Err(match value {
            Value::String(_) | Value::Number(_) => format!("is not {wanted}"),
            other => format!("is a JSON {}, not {wanted}", json_type(other)),
        })
    }
}

impl VariableFault {
    /// A word for the record to group by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing_variable",
            Self::Type { .. } => "invalid_variable",
        }
    }
}
