//! The helpers that templates may call: Handlebars' own that compare and connect, and `list`, `lines`
//! and `plural`. Each gives a value, which is escaped like any other. There is no `log`, which would
//! write values to the log, and no `lookup` and `with`, whose names are not known before rendering.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::Value;

use super::locale_formatter::LocaleFormatter;

/// A helper that gives a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// `eq`, `ne`: whether the two are the same; `true` where they have to be.
    Same(bool),
    /// `gt`, `gte`, `lt`, `lte`: whether the first relates to the second in one of two ways.
    Ordered(Ordering, Ordering),
    /// Whether all are true.
    And,
    /// Whether any is true.
    Or,
    /// Whether it is not true.
    Not,
    /// `{{list seats}}`: `A1, A2 y B5`.
    List,
    /// `{{#each (lines message)}}`: the lines of a text, for HTML would run them together.
    Lines,
    /// `{{plural days_left "día" "días"}}`: `1 día`, `2 días`.
    Plural,
}

impl Function {
    /// By the name that it has in templates.
    pub(super) fn named(name: &str) -> Option<Self> {
        use Ordering::{Equal, Greater, Less};
        Some(match name {
            "eq" => Self::Same(true),
            "ne" => Self::Same(false),
            "gt" => Self::Ordered(Greater, Greater),
            "gte" => Self::Ordered(Greater, Equal),
            "lt" => Self::Ordered(Less, Less),
            "lte" => Self::Ordered(Less, Equal),
            "and" => Self::And,
            "or" => Self::Or,
            "not" => Self::Not,
            "list" => Self::List,
            "lines" => Self::Lines,
            "plural" => Self::Plural,
            _ => return None,
        })
    }

    /// What it makes of these values.
    ///
    /// # Errors
    /// What it takes instead.
    pub(super) fn call(
        self,
        values: &[Cow<'_, Value>],
        words: &LocaleFormatter,
    ) -> Result<Value, String> {
        let refused = |takes: &str| Err(format!("a helper {takes}: {self:?}"));
        Ok(match (self, values) {
            (Self::Same(wanted), [one, other]) => ((one == other) == wanted).into(),
            (Self::Ordered(either, or), [one, other]) => {
                let order = compare(one, other);
                (order == Some(either) || order == Some(or)).into()
            }
            (Self::And, values) => values.iter().all(|value| is_true(value)).into(),
            (Self::Or, values) => values.iter().any(|value| is_true(value)).into(),
            (Self::Not, [value]) => (!is_true(value)).into(),
            (Self::List, [value]) => {
                let Value::Array(items) = &**value else { return refused("takes a list") };
                let items: Option<Vec<String>> = items.iter().map(plain).collect();
                match items {
                    Some(items) => words.list(&items).into(),
                    None => return refused("takes a list of texts and numbers"),
                }
            }
            (Self::Lines, [value]) => match plain(value) {
                Some(text) => {
                    text.trim().lines().map(|line| Value::from(line.trim_end())).collect()
                }
                None => return refused("takes a text"),
            },
            (Self::Plural, [number, one, many]) => {
                match (plain(number), one.as_str(), many.as_str()) {
                    (Some(number), Some(one), Some(many)) => {
                        let is_one = number.parse().is_ok_and(|number| words.is_one(number));
                        format!("{number} {}", if is_one { one } else { many }).into()
                    }
                    _ => return refused("takes a number and two words"),
                }
            }
            _ => return refused(&format!("does not take {} values", values.len())),
        })
    }
}

/// As Handlebars has it: not `false`, 0, empty or nothing at all.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64().is_some_and(f64::is_normal),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

/// Numbers, also those written as text, by size; texts by their letters.
fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    match (one, other) {
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        _ => number(one)?.partial_cmp(&number(other)?),
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}
