//! Extracts a route's variables from an event.

use serde_json::{Map, Value};

use super::{Route, variable_type::ValueFault};
use crate::event::{Event, Sources};

/// The largest value of a variable, in bytes.
const MAX_VARIABLE_BYTES: usize = 2 * 1024 * 1024;

/// Faults in an event's variables. Retrying can't help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableFault {
    /// Required variables that the event lacks, and required fields of objects by their path.
    #[error("missing variable{}: {}", if .0.len() == 1 { "" } else { "s" }, .0.join(", "))]
    Missing(Vec<String>),
    /// A value of the wrong type, by its path.
    #[error("variable {name} {reason}")]
    Type { name: String, reason: String },
}

impl Route {
    /// The variables of a record, which leaves out defaults.
    pub fn with_defaults(&self, recorded: &Map<String, Value>) -> Map<String, Value> {
        let declared = self.variables.iter().map(|(name, variable)| {
            let value = recorded.get(name).or(variable.default.as_ref());
            (name.clone(), value.cloned().unwrap_or_default())
        });
        declared.collect()
    }

    /// Returns every declared variable: the event's value, else the derived value, else the
    /// default. `language` is for derived place names.
    ///
    /// # Errors
    /// All missing variables, else the first one with a wrong type.
    pub fn variables(
        &self,
        event: &Event,
        sources: &Sources,
        language: &str,
    ) -> Result<Map<String, Value>, VariableFault> {
        let brand = self.brand_of(event).unwrap_or_default();
        let mut found = Map::new();
        let mut missing = Vec::new();
        let mut wrong = None;
        for (name, variable) in &self.variables {
            let given = event.fields.get(name).filter(|value| match value {
                Value::Null => false,
                // An empty text counts as absent.
                Value::String(text) => !text.trim().is_empty(),
                _ => true,
            });
            let value = match (given, &variable.default) {
                (Some(value), _) => {
                    let mut faults = Vec::new();
                    match check_size(value) {
                        Ok(()) => variable.kind.check(name, value, &mut faults),
                        Err(reason) => {
                            faults.push(ValueFault::Wrong { path: name.clone(), reason });
                        }
                    }
                    for fault in faults {
                        match fault {
                            ValueFault::Missing(path) => missing.push(path),
                            ValueFault::Wrong { path: name, reason } => {
                                wrong.get_or_insert(VariableFault::Type { name, reason });
                            }
                        }
                    }
                    value.clone()
                }
                (None, None) => {
                    missing.push(name.clone());
                    continue;
                }
                (None, Some(default)) => {
                    let derived = variable.derived.as_ref();
                    let derived =
                        derived.and_then(|from| sources.derive(from, event, language, brand));
                    let derived = derived.filter(|value| variable.kind.fits(value));
                    derived.unwrap_or_else(|| default.clone())
                }
            };
            found.insert(name.clone(), value);
        }
        match wrong {
            _ if !missing.is_empty() => Err(VariableFault::Missing(missing)),
            Some(fault) => Err(fault),
            None => Ok(found),
        }
    }

    /// The values of the route's secrets, for masking.
    pub fn secret_values(&self, event: &Event) -> Vec<String> {
        let mut found = Vec::new();
        for value in self.secrets.iter().filter_map(|name| event.fields.get(name)) {
            collect_texts(value, &mut found);
        }
        found
    }
}

/// Collects every text and number within a value.
pub(crate) fn collect_texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() => found.push(text.clone()),
        Value::Number(number) => found.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| collect_texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| collect_texts(value, found)),
        _ => {}
    }
}

/// An error if the value is too large.
fn check_size(value: &Value) -> Result<(), String> {
    match size(value) {
        bytes if bytes > MAX_VARIABLE_BYTES => {
            Err(format!("has {bytes} bytes, more than the maximum of {MAX_VARIABLE_BYTES}"))
        }
        _ => Ok(()),
    }
}

/// About as many bytes as it has in JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + size(value) + 4).sum()
        }
    }
}

impl VariableFault {
    /// The error kind in records.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing_variable",
            Self::Type { .. } => "invalid_variable",
        }
    }
}
