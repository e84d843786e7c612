//! What every operation of an operator is given: a reason, a person, and a name for the request.

use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Caller,
    problem::{Fault, Problem},
};

/// Longest reason and name, in characters.
const LONGEST: usize = 500;

/// Why something is done, and who wants it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionRequest {
    /// Recorded in the audit.
    #[schema(min_length = 1, max_length = 500)]
    pub(super) reason: String,
    /// Person who decides, recorded in the audit beside the caller of the API.
    #[schema(min_length = 1, max_length = 500)]
    pub(super) by: Option<String>,
}

/// A decision as the audit records it.
pub(super) struct Decided {
    pub(super) reason: String,
    /// The person, if one is named, and the caller.
    pub(super) by: String,
}

/// The decision of a request, or its faulty fields.
pub(super) fn decided(reason: &str, by: Option<&str>, caller: &Caller) -> Result<Decided, Problem> {
    let faults = [("reason", Some(reason)), ("by", by)].into_iter().filter_map(|(field, text)| {
        let length = text?.trim().chars().count();
        let is_well = (1..=LONGEST).contains(&length);
        let detail = format!("must have 1 to {LONGEST} characters");
        (!is_well).then(|| Fault { field: field.to_owned(), detail })
    });
    let faults: Vec<Fault> = faults.collect();
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    let by = match by {
        Some(person) => format!("{} ({})", person.trim(), caller.name),
        None => caller.name.to_string(),
    };
    Ok(Decided { reason: reason.trim().to_owned(), by })
}

/// Names a request: the same key of the same caller is the same request.
pub(super) fn request_name(key: Option<String>, caller: &Caller) -> String {
    match key {
        Some(key) => format!("{} {key}", caller.name),
        None => Uuid::new_v4().to_string(),
    }
}
