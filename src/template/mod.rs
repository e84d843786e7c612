//! Templates: subject, HTML and text of every mail in every language, compiled once.
//!
//! What is compiled is one flat text for each part: includes are put in and MJML is turned into
//! HTML at load, and it is kept as a tree (tree.rs); names that its route does not declare are
//! refused. Before a template is rendered (evaluate.rs), the variables of its route are turned into
//! words by their types (words.rs).

mod ascii;
mod compile;
mod evaluate;
#[cfg(test)]
mod golden;
mod helpers;
mod locale_formatter;
mod read;
mod rerender;
pub mod source;
pub mod store;
mod tree;
mod validate;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

pub use self::compile::Compiled;
pub use self::validate::{Trial, sample};
use self::{
    evaluate::{Scope, evaluate},
    locale_formatter::{LocaleFormatter, Locales},
    source::Files,
    store::Overrides,
};
use crate::{
    audit::TemplateRef,
    config::{Brand, Settings},
    event::Event,
    routing::{Route, VariableType},
    text::one_line,
};

pub use crate::event::LANGUAGES;

/// A mail's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// The HTML part.
    pub html: String,
    /// The text part.
    pub text: String,
    /// What it was made from.
    pub template: TemplateRef,
    /// Why a template of the database was not used although there is one.
    pub instead_of: Option<String>,
}

/// A template could not be rendered: its own fault, not the event's.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is none of this name.
    #[error("there is no template {0:?}")]
    Unknown(String),
    /// It calls something in a way that fails.
    #[error("template {name}: {reason}")]
    Render {
        /// `<template>/<language>.<part>`.
        name: String,
        /// Where and why.
        reason: String,
    },
}

/// What every template sees beside the event's variables.
#[derive(Debug, Clone)]
pub struct Globals {
    brand: Value,
    currency: String,
    locale: String,
    zone: Option<TimeZone>,
}

impl Globals {
    /// From the settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            brand: brand(&settings.brand),
            currency: settings.currency.clone(),
            locale: settings.locale.clone(),
            zone: settings.zone(),
        }
    }
}

fn brand(brand: &Brand) -> Value {
    let values = [
        brand.name.as_str(),
        brand.logo_url.as_deref().unwrap_or_default(),
        brand.website_url.as_deref().unwrap_or_default(),
        &brand.support_email,
        brand.support_url.as_deref().unwrap_or_default(),
        &brand.colour,
        readable_on(&brand.colour),
    ];
    let fields = tree::BRAND.into_iter().zip(values);
    fields.map(|(name, value)| (name.to_owned(), Value::from(value))).collect::<Map<_, _>>().into()
}

/// White or, where its contrast would be less than 4.5, black: the colour of text on `#rrggbb`
/// (<https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio>).
fn readable_on(colour: &str) -> &'static str {
    let part = |at: usize| {
        let part = colour.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let part = f64::from(part.unwrap_or_default()) / 255.0;
        if part <= 0.03928 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
    if 1.05 / (luminance + 0.05) < 4.5 { "#000000" } else { "#ffffff" }
}

/// All templates, compiled.
pub struct Templates {
    shipped: HashMap<String, HashMap<&'static str, Arc<Compiled>>>,
    overrides: ArcSwap<Overrides>,
    globals: Globals,
    locales: Arc<Locales>,
}

impl Templates {
    /// Compiles all templates.
    ///
    /// # Errors
    /// Every fault found, one a line.
    pub fn compile(files: &Files, globals: Globals) -> Result<Self, Vec<String>> {
        let locales = Arc::new(Locales::new(&globals.locale));
        let mut faults = Vec::new();
        let mut shipped: HashMap<String, HashMap<&'static str, Arc<Compiled>>> = HashMap::new();
        for template in source::names(files) {
            for language in LANGUAGES {
                let compiled = source::Source::of_files(files, template, language)
                    .and_then(|source| Compiled::new(files, template, language, &source));
                match compiled {
                    Err(found) => faults.extend(found),
                    Ok(compiled) => {
                        let languages = shipped.entry(template.to_owned()).or_default();
                        languages.insert(language, Arc::new(compiled));
                    }
                }
            }
        }
        if faults.is_empty() {
            Ok(Self { shipped, overrides: ArcSwap::default(), globals, locales })
        } else {
            Err(faults)
        }
    }

    /// The language of an event's mails: its own if there are templates in it, else the default.
    pub fn language(&self, event: &Event) -> &'static str {
        self.locales.of(event.text("locale")).language
    }

    /// Renders one mail. `variables` are the route's, complete with defaults.
    ///
    /// # Errors
    /// [`TemplateError`]: there is no such template, or a helper refuses what it is given.
    pub fn render(
        &self,
        route: &Route,
        variables: &Map<String, Value>,
        event: &Event,
    ) -> Result<Rendered, TemplateError> {
        let words = self.locales.of(event.text("locale"));
        let render =
            |compiled: &Compiled| self.render_with(compiled, &words, route, variables, event);
        let overrides = self.overrides.load();
        let mut overridden = None;
        if !overrides.is_empty() {
            let key = (route.template.clone(), words.language);
            match overrides.get(&key).map(|compiled| render(compiled)) {
                Some(Ok(rendered)) => return Ok(rendered),
                Some(Err(error)) => overridden = Some(error.to_string()),
                None => {}
            }
        }
        let languages = self.shipped.get(&route.template);
        let shipped = languages.and_then(|languages| languages.get(words.language));
        let shipped = shipped.ok_or_else(|| TemplateError::Unknown(route.template.clone()))?;
        Ok(Rendered { instead_of: overridden, ..render(shipped)? })
    }

    /// Puts templates before the files; those of before go.
    fn override_with(&self, overrides: Overrides) {
        self.overrides.store(Arc::new(overrides));
    }

    /// Everything that mails are made from: name, language and text.
    fn in_use(&self) -> Vec<(String, &'static str, Arc<Compiled>)> {
        let shipped = self.shipped.iter().flat_map(|(name, languages)| {
            languages.iter().map(|(language, it)| (name.clone(), *language, it.clone()))
        });
        let overrides = self.overrides.load();
        let overrides = overrides.iter();
        let overrides =
            overrides.map(|((name, language), it)| (name.clone(), *language, it.clone()));
        shipped.chain(overrides).collect()
    }

    fn render_with(
        &self,
        compiled: &Compiled,
        words: &LocaleFormatter,
        route: &Route,
        variables: &Map<String, Value>,
        event: &Event,
    ) -> Result<Rendered, TemplateError> {
        let mut scope = self.scope(compiled, words, route, variables, event);
        let part = |kind: &str, nodes, scope: &Scope<'_>, print| {
            evaluate(nodes, scope, print).map_err(|reason| TemplateError::Render {
                name: format!("{}/{}.{kind}", route.template, words.language),
                reason,
            })
        };
        let plain: evaluate::Print = |value, out| out.push_str(value);
        // An event that brings its own subject has it, whichever template is used.
        let own = variables.get("subject").and_then(Value::as_str).filter(|own| !own.is_empty());
        let subject = match own {
            Some(own) => header(own),
            None => header(&part("subject", &compiled.subject, &scope, plain)?),
        };
        scope.values.push(("subject", Cow::Owned(subject.as_str().into())));
        let html = part("html", &compiled.html, &scope, ascii::escape)?;
        let text = part("txt", &compiled.text, &scope, plain)?;
        let template = TemplateRef {
            name: route.template.clone(),
            locale: words.tag.clone(),
            version: compiled.version.clone(),
        };
        Ok(Rendered { subject, html, text, template, instead_of: None })
    }

    /// What a template sees: the variables in words, and what every template sees.
    fn scope<'a>(
        &'a self,
        compiled: &Compiled,
        words: &'a LocaleFormatter,
        route: &Route,
        variables: &'a Map<String, Value>,
        event: &'a Event,
    ) -> Scope<'a> {
        let zone = event.zone().or_else(|| self.globals.zone.clone());
        let currency = variables.get("currency").and_then(Value::as_str);
        let currency = currency.filter(|code| !code.is_empty()).unwrap_or(&self.globals.currency);
        let mut values = Vec::with_capacity(variables.len() + tree::GLOBALS.len());
        for name in ["full_name", "username", "email"] {
            values.push((name, Cow::Owned(event.text(name).unwrap_or_default().into())));
        }
        for (name, value) in variables {
            let kind = route.variables.get(name).map(|variable| variable.kind);
            let in_words = match (kind, value) {
                (Some(VariableType::Time), Value::String(text)) if !text.is_empty() => {
                    Some(words.time(text, zone.as_ref()))
                }
                (Some(VariableType::Amount), Value::Number(number)) => {
                    Some(words.money(&number.to_string(), currency))
                }
                (Some(VariableType::Amount), Value::String(text)) if !text.is_empty() => {
                    Some(words.money(text, currency))
                }
                (Some(VariableType::Duration), value) => {
                    value.as_i64().map(|seconds| words.duration(seconds))
                }
                _ => None,
            };
            let value = in_words.map_or(Cow::Borrowed(value), |words| Cow::Owned(words.into()));
            values.push((name.as_str(), value));
        }
        let now = event.happened_at().to_zoned(zone.unwrap_or(TimeZone::UTC));
        values.extend([
            ("locale", Cow::Owned(words.tag.as_str().into())),
            ("current_year", Cow::Owned(now.year().into())),
        ]);
        // It takes longer than all the others, and few ask for it.
        if compiled.names.contains("current_date") {
            values.push(("current_date", Cow::Owned(words.day(now.date()).into())));
        }
        Scope { words, brand: &self.globals.brand, values }
    }
}

/// A header is one line: whatever a value holds, no line break and no control character gets in.
fn header(text: &str) -> String {
    one_line(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{header, readable_on};

    #[test]
    fn buttons_are_readable_in_every_colour() {
        for (colour, text) in [
            ("#1f3a5f", "#ffffff"),
            ("#e50914", "#ffffff"),
            ("#767676", "#ffffff"),
            ("#777777", "#000000"),
            ("#ffcc00", "#000000"),
            ("#FFFFFF", "#000000"),
        ] {
            assert_eq!(readable_on(colour), text, "{colour}");
        }
    }

    #[test]
    fn a_subject_is_one_line() {
        assert_eq!(header(" a\r\nBcc: x@y \u{0}\tb "), "a Bcc: x@y b");
    }
}
