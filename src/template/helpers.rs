//! The helpers that templates may call, for the `handlebars` crate: Handlebars' blocks as handlebars.js has them, which
//! count what they render, the crate's comparisons, and our own that write values as a locale does. There is no
//! `log`, which would write values to the log.

use std::{
    borrow::Cow,
    cmp::Ordering,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use handlebars::{
    BlockContext, BlockParamHolder, Context, Handlebars, Helper, HelperDef, HelperResult,
    JsonRender, Output, PathAndJson, RenderContext, RenderError, RenderErrorReason, Renderable,
    ScopedJson, Template,
};
use jiff::tz::TimeZone;
use serde_json::Value;

use super::locale_formatter::{FSI, LocaleFormatter, PDI, PLURAL_CATEGORIES};
use crate::event::Time;

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
    pub(super) fn named(name: &str) -> Option<(&'static str, Self)> {
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

/// Print a value whose direction does not reach beyond it: in the text of HTML, and elsewhere. Templates can't call
/// them; the lint puts them around what is printed.
pub(super) const ISOLATES: [&str; 2] = ["bdi", "isolate"];

struct Isolate<'a> {
    name: &'static str,
    mail: &'a Mail<'a>,
}

impl HelperDef for Isolate<'_> {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        _: &'rc Context,
        rc: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let value = helper.param(0).map(|it| it.value().render()).unwrap_or_default();
        let escaped = |value: &str| match rc.is_disable_escape() {
            true => value.to_owned(),
            false => registry.get_escape_fn()(value),
        };
        let isolated = self.mail.formatter.isolated(&value);
        let is_isolated = matches!(isolated, Cow::Owned(_));
        if is_isolated && self.name == "bdi" {
            let inner = isolated.strip_prefix(FSI).unwrap_or(&isolated);
            let inner = inner.strip_suffix(PDI).unwrap_or(inner);
            out.write(&format!("<bdi>{}</bdi>", escaped(inner)))?;
        } else {
            out.write(&escaped(&isolated))?;
        }
        Ok(())
    }
}

/// The blocks that templates may have.
pub(super) const BLOCKS: [&str; 6] = ["if", "unless", "each", "with", "scope", "indent"];

struct Call<'a> {
    function: Function,
    mail: &'a Mail<'a>,
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

impl Mail<'_> {
    fn currency<'b>(&'b self, own: &'b str) -> &'b str {
        if own.is_empty() { self.currency } else { own }
    }
}

/// A helper with a body.
struct Block<'a> {
    name: &'static str,
    mail: &'a Mail<'a>,
}

impl HelperDef for Block<'_> {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        context: &'rc Context,
        rc: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let null = Value::Null;
        let value = helper.param(0).map_or(&null, |it| it.value());
        let body = |template: Option<&'rc Template>,
                    rc: &mut RenderContext<'reg, 'rc>,
                    out: &mut dyn Output| {
            let Some(template) = template else { return Ok(()) };
            self.mail.step(1 + template.elements.len())?;
            template.render(registry, context, rc, out)
        };
        match self.name {
            "if" | "unless" => {
                let include_zero = helper.hash_get("includeZero").map(|it| is_true(it.value()));
                let is_zero = value.as_f64() == Some(0.0) && include_zero == Some(true);
                let wanted = self.name == "if";
                let is_true = is_true(value) || is_zero;
                let chosen = if is_true == wanted { helper.template() } else { helper.inverse() };
                body(chosen, rc, out)
            }
            "indent" => {
                let mut inner = Bounded::default();
                body(helper.template(), rc, &mut inner)?;
                let indent = value.as_str().unwrap_or_default();
                for line in inner.0.split_inclusive('\n') {
                    out.write(indent)?;
                    out.write(line)?;
                }
                Ok(())
            }
            "each" => {
                let entries: Box<dyn Iterator<Item = (Option<&String>, &Value)>> = match value {
                    Value::Array(items) if !items.is_empty() => {
                        Box::new(items.iter().map(|item| (None, item)))
                    }
                    Value::Object(entries) if !entries.is_empty() => {
                        Box::new(entries.iter().map(|(name, item)| (Some(name), item)))
                    }
                    _ => return body(helper.inverse(), rc, out),
                };
                rc.push_block(self.block(helper)?);
                let path = helper.param(0).and_then(|it| it.context_path());
                let mut entries = entries.enumerate().peekable();
                while let Some((index, (name, item))) = entries.next() {
                    let Some(block) = rc.block_mut() else { break };
                    let place = name.map_or_else(|| index.to_string(), Clone::clone);
                    let key = name.map_or_else(|| index.into(), |name| Value::from(name.as_str()));
                    block.set_local_var("first", (index == 0).into());
                    block.set_local_var("last", entries.peek().is_none().into());
                    block.set_local_var("index", index.into());
                    block.set_local_var("key", key.clone());
                    match path {
                        Some(_) if index == 0 => block.base_path_mut().push(place),
                        Some(_) => {
                            if let Some(last) = block.base_path_mut().last_mut() {
                                *last = place;
                            }
                        }
                        None => {
                            self.mail.step(weight(item))?;
                            block.set_base_value(item.clone());
                        }
                    }
                    let names = helper.block_param_pair();
                    if let Some(name) = helper.block_param().or(names.map(|(name, _)| name)) {
                        block.set_block_param(name, current(path.is_some(), item));
                    }
                    if let Some((_, name)) = names {
                        block.set_block_param(name, BlockParamHolder::value(key));
                    }
                    body(helper.template(), rc, out)?;
                }
                rc.pop_block();
                Ok(())
            }
            "with" => {
                // What is zero is something.
                if !is_true(value) && !value.is_number() {
                    return body(helper.inverse(), rc, out);
                }
                let mut block = self.block(helper)?;
                if let Some(name) = helper.block_param() {
                    let path = helper.param(0).and_then(|it| it.context_path());
                    block.set_block_param(name, current(path.is_some(), value));
                }
                rc.push_block(block);
                body(helper.template(), rc, out)?;
                rc.pop_block();
                Ok(())
            }
            // A partial with values.
            _ => {
                let mut block = if helper.params().is_empty() {
                    let mut same = BlockContext::new();
                    if let Some(outer) = rc.block() {
                        same.base_path_mut().clone_from(outer.base_path());
                        if let Some(value) = outer.base_value() {
                            self.mail.step(weight(value))?;
                            same.set_base_value(value.clone());
                        }
                    }
                    same
                } else {
                    self.block(helper)?
                };
                for (name, value) in helper.hash() {
                    self.mail.step(weight(value.value()))?;
                    let value = value.value().clone();
                    block.set_block_param(name, BlockParamHolder::value(value));
                }
                rc.push_block(block);
                body(helper.template(), rc, out)?;
                rc.pop_block();
                Ok(())
            }
        }
    }
}

impl Block<'_> {
    /// A block around the first value.
    fn block<'rc>(&self, helper: &Helper<'rc>) -> Result<BlockContext<'rc>, RenderError> {
        let mut block = BlockContext::new();
        if let Some(value) = helper.param(0) {
            match value.context_path() {
                Some(path) => block.base_path_mut().clone_from(path),
                None => {
                    self.mail.step(weight(value.value()))?;
                    block.set_base_value(value.value().clone());
                }
            }
        }
        Ok(block)
    }
}

/// What a block is about, as one of its names has it.
fn current(has_path: bool, value: &Value) -> BlockParamHolder {
    if has_path { BlockParamHolder::path(vec![]) } else { BlockParamHolder::value(value.clone()) }
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
