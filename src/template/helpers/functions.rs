//! The helpers that give a value: comparisons, and our own that write values as a locale does.

use std::cmp::Ordering;

use handlebars::{
    Context, Handlebars, Helper, HelperDef, JsonRender, PathAndJson, RenderContext, RenderError,
    ScopedJson,
};
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{Mail, is_true, refuse, weight};
use crate::{event::Time, template::locale_formatter::PLURAL_CATEGORIES};

/// A helper that gives a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::template) enum Function {
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
    /// How many there are.
    Len,
    /// `{{lookup items 0}}`
    Lookup,
    /// `{{list seats}}`: `A1, A2 y B5`.
    List,
    /// `{{#each (lines message)}}`: the lines of a text, for HTML would run them together.
    Lines,
    /// `{{truncate body 140}}`: its first words on one line.
    Truncate,
    /// `{{plural days_left "día" "días"}}`: `1 día`, `2 días`.
    Plural,
    /// `{{money price "EUR"}}`: `12,00 €`.
    Money,
    /// `{{date showtime "short"}}`: `15/12/24`.
    Date,
    /// `{{time showtime}}`: `7:30 p. m.`
    Time,
    /// `{{number points}}`: `1.234`.
    Number,
    /// `{{duration seconds}}`: `15 minutos`.
    Duration,
    /// `{{when showtime}}`: day and time, as `{{showtime}}` alone prints them.
    When,
}

impl Function {
    /// By the name that it has in templates.
    pub(in crate::template) fn named(name: &str) -> Option<(&'static str, Self)> {
        use Ordering::{Equal, Greater, Less};
        Some(match name {
            "eq" => ("eq", Self::Same(true)),
            "ne" => ("ne", Self::Same(false)),
            "gt" => ("gt", Self::Ordered(Greater, Greater)),
            "gte" => ("gte", Self::Ordered(Greater, Equal)),
            "lt" => ("lt", Self::Ordered(Less, Less)),
            "lte" => ("lte", Self::Ordered(Less, Equal)),
            "and" => ("and", Self::And),
            "or" => ("or", Self::Or),
            "not" => ("not", Self::Not),
            "len" => ("len", Self::Len),
            "lookup" => ("lookup", Self::Lookup),
            "list" => ("list", Self::List),
            "lines" => ("lines", Self::Lines),
            "truncate" => ("truncate", Self::Truncate),
            "plural" => ("plural", Self::Plural),
            "money" => ("money", Self::Money),
            "date" => ("date", Self::Date),
            "time" => ("time", Self::Time),
            "number" => ("number", Self::Number),
            "duration" => ("duration", Self::Duration),
            "when" => ("when", Self::When),
            _ => return None,
        })
    }
}

pub(super) struct Call<'a> {
    pub(super) function: Function,
    pub(super) mail: &'a Mail<'a>,
}

impl HelperDef for Call<'_> {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        self.mail.step(1)?;
        let values: Vec<&Value> = helper.params().iter().map(PathAndJson::value).collect();
        let named = |name: &str| helper.hash_get(name).map(PathAndJson::value);
        self.value(&values, &named).map(ScopedJson::Derived)
    }
}

impl Call<'_> {
    fn value<'v>(
        &self,
        values: &[&Value],
        named: &dyn Fn(&str) -> Option<&'v Value>,
    ) -> Result<Value, RenderError> {
        let mail = self.mail;
        let text = |value: &Value| value.render();
        // A value that is missing says nothing, in any style.
        let write = |value: &Value, with: &str| match plain(value) {
            Some(value) if !value.is_empty() => mail.written(self.function, &value, with),
            _ => String::new(),
        };
        Ok(match (self.function, values) {
            (Function::Same(wanted), [one, other]) => (same(one, other) == wanted).into(),
            (Function::Ordered(either, or), [one, other]) => {
                let order = compare(one, other, mail.zone);
                (order == Some(either) || order == Some(or)).into()
            }
            (Function::And, values) => values.iter().all(|value| is_true(value)).into(),
            (Function::Or, values) => values.iter().any(|value| is_true(value)).into(),
            (Function::Not, [value]) => (!is_true(value)).into(),
            (Function::Len, [Value::Null]) => Value::Null,
            (Function::Len, [value]) => match value {
                Value::Array(items) => items.len(),
                Value::Object(entries) => entries.len(),
                // As in JavaScript.
                Value::String(text) => text.encode_utf16().count(),
                _ => 0,
            }
            .into(),
            (Function::Lookup, [value, key]) => {
                let key = text(key);
                let found = match value {
                    Value::Array(items) => key.parse().ok().and_then(|at: usize| items.get(at)),
                    Value::Object(entries) => entries.get(&key),
                    _ => None,
                };
                let found = found.cloned().unwrap_or_default();
                mail.step(weight(&found))?;
                found
            }
            (Function::List, [value]) => {
                let Value::Array(items) = value else { return Ok(Value::String(String::new())) };
                mail.step(items.len())?;
                let printer = named("of").and_then(Value::as_str).and_then(Function::named);
                let currency = named("currency").and_then(Value::as_str).unwrap_or_default();
                let words = |item: &Value| match (printer, plain(item)) {
                    (Some((_, function)), Some(item)) => {
                        mail.written(function, &item, mail.currency(currency))
                    }
                    (_, item) => item.unwrap_or_default(),
                };
                let words = |item| mail.formatter.isolated(&words(item)).into_owned();
                mail.formatter.list(&items.iter().map(words).collect::<Vec<_>>()).into()
            }
            (Function::Lines, [value]) => {
                let text = text(value);
                let lines = text.trim().lines().map(|line| Value::from(line.trim_end()));
                let lines: Vec<Value> = lines.collect();
                mail.step(lines.len())?;
                lines.into()
            }
            (Function::Truncate, [value, most]) => {
                let most = most.as_u64().and_then(|it| usize::try_from(it).ok());
                truncated(&text(value), most.unwrap_or_default()).into()
            }
            (Function::Plural, [number, words @ ..]) => {
                let number = text(number);
                let (category, place) = mail.formatter.plural(&number);
                let word = match words {
                    [] => named(PLURAL_CATEGORIES[category]).or_else(|| named("other")).map(text),
                    [one, _] if category == 1 => Some(text(one)),
                    [_, other] => Some(text(other)),
                    words => words.get(place).map(|word| text(word)),
                };
                let word = word.unwrap_or_default();
                // Words that say where the number stands may leave it out: Arabic has a word for two days.
                let has_place = |word: &&Value| word.as_str().is_some_and(|it| it.contains('#'));
                let named = PLURAL_CATEGORIES.iter().filter_map(|name| named(name));
                if named.chain(words.iter().copied()).any(|word| has_place(&word)) {
                    word.replace('#', &mail.formatter.number(&number)).into()
                } else {
                    format!("{} {word}", mail.formatter.number(&number)).into()
                }
            }
            (Function::Money, [amount, rest @ ..]) => {
                let currency = rest.first().copied().or_else(|| named("currency"));
                let currency = currency.and_then(Value::as_str).unwrap_or_default();
                write(amount, mail.currency(currency)).into()
            }
            (Function::Date, [time, rest @ ..]) => {
                write(time, rest.first().and_then(|it| it.as_str()).unwrap_or("long")).into()
            }
            (Function::Time, [time, rest @ ..]) => {
                write(time, rest.first().and_then(|it| it.as_str()).unwrap_or("short")).into()
            }
            (Function::Number | Function::Duration | Function::When, [value]) => {
                write(value, "").into()
            }
            // Checked when the template was loaded.
            (function, values) => {
                return refuse(format!(
                    "a helper does not take {} values: {function:?}",
                    values.len()
                ));
            }
        })
    }
}

/// The words of a text that have room in so many characters, on one line; of a longer word what has room.
fn truncated(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        let gap = usize::from(length > 0);
        if length + gap + letters > most {
            if length == 0 {
                line.extend(word.chars().take(most));
            }
            line.push('…');
            break;
        }
        if gap == 1 {
            line.push(' ');
        }
        line.push_str(word);
        length += gap + letters;
    }
    line
}

/// A number is the same as another of its size, or as a text that it is written as.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(two)) => one == two || one.as_f64() == two.as_f64(),
        (Value::Number(number), Value::String(text))
        | (Value::String(text), Value::Number(number)) => *text == number.to_string(),
        _ => one == other,
    }
}

/// Numbers, also those written as text, by size; times by when they are; other texts by their letters.
fn compare(one: &Value, other: &Value, zone: Option<&TimeZone>) -> Option<Ordering> {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let time = |text: &str| Time::read(text)?.zoned(zone);
    match (one, other) {
        (Value::String(one), Value::String(other)) => match (time(one), time(other)) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => Some(one.cmp(other)),
        },
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
