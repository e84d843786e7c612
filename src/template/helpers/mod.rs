//! The helpers that templates may call, for the `handlebars` crate: Handlebars' blocks as handlebars.js has them, which
//! count what they render, the crate's comparisons, and our own that write values as a locale does. There is no
//! `log`, which would write values to the log.

mod blocks;
mod functions;
mod isolation;

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use handlebars::{HelperResult, Output, RenderContext, RenderError, RenderErrorReason};
use jiff::tz::TimeZone;
use serde_json::Value;

pub(super) use self::{blocks::BLOCKS, functions::Function};
use self::{
    blocks::Block,
    functions::Call,
    isolation::{ISOLATES, Isolate},
};
use super::locale_formatter::LocaleFormatter;

/// Most pieces that may be rendered for one mail: tags, texts, items of lists.
const MAX_STEPS: usize = 200_000;
/// Longest part of a rendered mail, in bytes.
const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;

/// How a date or a clock can be written.
pub(super) const STYLES: [&str; 4] = ["short", "medium", "long", "full"];

/// What helpers know of the mail.
pub(super) struct Mail<'a> {
    pub(super) formatter: &'a LocaleFormatter,
    pub(super) zone: Option<&'a TimeZone>,
    pub(super) currency: &'a str,
    /// The currency of events that name none, whose sign is the short one.
    pub(super) house: &'a str,
    steps: AtomicUsize,
    /// What was written already: a mail shows most values twice.
    written: Mutex<Vec<Written>>,
}

struct Written {
    function: Function,
    value: String,
    with: String,
    words: String,
}

impl<'a> Mail<'a> {
    pub(super) fn new(
        formatter: &'a LocaleFormatter,
        zone: Option<&'a TimeZone>,
        currency: &'a str,
        house: &'a str,
    ) -> Self {
        let (steps, written) = (AtomicUsize::new(0), Mutex::default());
        Self { formatter, zone, currency, house, steps, written }
    }

    fn step(&self, steps: usize) -> HelperResult {
        if self.steps.fetch_add(steps, Relaxed).saturating_add(steps) > MAX_STEPS {
            return refuse(format!("rendering it takes more than {MAX_STEPS} steps"));
        }
        Ok(())
    }

    fn written(&self, function: Function, value: &str, with: &str) -> String {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let found = written
            .iter()
            .find(|it| it.function == function && it.value == value && it.with == with);
        if let Some(found) = found {
            return found.words.clone();
        }
        let words = match function {
            Function::Money => self.formatter.money(value, with, self.house),
            Function::Date => self.formatter.date(value, with, self.zone),
            Function::Time => self.formatter.clock(value, with, self.zone),
            Function::Number => self.formatter.number(value),
            Function::Duration => match value.trim().parse::<i64>() {
                Ok(seconds) => self.formatter.duration(seconds),
                Err(_) => value.to_owned(),
            },
            _ => self.formatter.time(value, self.zone),
        };
        // Lists may be long.
        if written.len() < 32 {
            let (value, with) = (value.to_owned(), with.to_owned());
            written.push(Written { function, value, with, words: words.clone() });
        }
        words
    }

    fn currency<'b>(&'b self, own: &'b str) -> &'b str {
        if own.is_empty() { self.currency } else { own }
    }

    /// Lets a template call these helpers.
    pub(super) fn register<'reg: 'rc, 'rc>(
        &'rc self,
        helpers: impl IntoIterator<Item = &'static str>,
        rc: &mut RenderContext<'reg, 'rc>,
    ) {
        for name in helpers {
            match Function::named(name) {
                Some((_, function)) => {
                    rc.register_local_helper(name, Box::new(Call { function, mail: self }));
                }
                None if ISOLATES.contains(&name) => {
                    rc.register_local_helper(name, Box::new(Isolate { name, mail: self }));
                }
                None => rc.register_local_helper(name, Box::new(Block { name, mail: self })),
            }
        }
    }
}

fn refuse<T>(reason: String) -> Result<T, RenderError> {
    Err(RenderErrorReason::Other(reason).into())
}

/// A text that does not grow beyond its limit.
#[derive(Default)]
pub(super) struct Bounded(pub(super) String);

impl Output for Bounded {
    fn write(&mut self, text: &str) -> std::io::Result<()> {
        if self.0.len() + text.len() > MAX_OUTPUT_BYTES {
            let reason = format!("a part of it has more than {MAX_OUTPUT_BYTES} bytes");
            return Err(std::io::Error::other(reason));
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// How many values are copied with one.
fn weight(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(weight).sum::<usize>(),
        Value::String(text) => 1 + text.len() / 1024,
        _ => 1,
    }
}

/// As handlebars.js has it: not `false`, 0, nothing at all, or an empty text or list.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(_) => true,
    }
}
