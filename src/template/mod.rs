//! Templates: subject, HTML and text of every mail in every language, compiled once.
//!
//! At load the includes of each part are put in (include.rs), MJML becomes HTML (mjml.rs) and what is left is checked
//! against what its routes declare (lint.rs). The `handlebars` crate reads the tags and renders them, with the
//! helpers of helpers.rs, which print values by their types and count what they render.

mod ascii;
mod compile;
#[cfg(test)]
mod golden;
mod helpers;
mod include;
mod lint;
mod locale_formatter;
mod mjml;
mod rerender;
pub mod source;
pub mod store;
mod syntax;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use arc_swap::ArcSwap;
use handlebars::{Context, Handlebars, RenderContext, Renderable};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

pub use self::compile::Compiled;
pub use self::validate::{Trial, sample};
use self::{
    compile::Parts,
    helpers::{Bounded, Mail},
    lint::Checked,
    locale_formatter::{LocaleFormatter, Locales},
    source::Files,
    store::Overrides,
};
use crate::{
    audit::TemplateRef,
    config::{Brand, Settings},
    event::Event,
    routing::{Route, RoutingTable},
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
    let fields = lint::BRAND.into_iter().zip(values);
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
    pub fn compile(
        files: &Files,
        routing: &RoutingTable,
        globals: Globals,
    ) -> Result<Self, Vec<String>> {
        let locales = Arc::new(Locales::new(&globals.locale));
        let mut faults = Vec::new();
        let mut shipped: HashMap<String, HashMap<&'static str, Arc<Compiled>>> = HashMap::new();
        for template in source::names(files) {
            for language in LANGUAGES {
                let compiled = source::Source::of_files(files, template, language)
                    .and_then(|source| Compiled::new(files, template, language, &source, routing));
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
        formatter: &LocaleFormatter,
        route: &Route,
        variables: &Map<String, Value>,
        event: &Event,
    ) -> Result<Rendered, TemplateError> {
        let fault = |part: &str, reason: String| TemplateError::Render {
            name: format!("{}/{}.{part}", route.template, formatter.language),
            reason,
        };
        let Some(Parts { subject, html, text }) = compiled.routes.get(&route.name) else {
            return Err(TemplateError::Unknown(route.template.clone()));
        };
        let zone = event.zone().or_else(|| self.globals.zone.clone());
        let currency = variables.get("currency").and_then(Value::as_str);
        let currency = currency.filter(|code| !code.is_empty()).unwrap_or(&self.globals.currency);
        let mail = Mail::new(formatter, zone.as_ref(), currency);
        let mut context = Context::from(self.context(formatter, route, variables, event, &zone));
        let part = |name: &str, part: &Checked, context: &Context, is_markup: bool| {
            render(part, context, &mail, is_markup).map_err(|reason| fault(name, reason))
        };
        // An event that brings its own subject has it, whichever template is used.
        let own = variables.get("subject").and_then(Value::as_str).filter(|own| !own.is_empty());
        let subject = match own {
            Some(own) => header(own),
            None => header(&part("subject", subject, &context, false)?),
        };
        context.data_mut()["subject"] = subject.as_str().into();
        let html = part("html", html, &context, true)?;
        let text = part("txt", text, &context, false)?;
        let template = TemplateRef {
            name: route.template.clone(),
            locale: formatter.tag.clone(),
            version: compiled.version.clone(),
        };
        Ok(Rendered { subject, html, text, template, instead_of: None })
    }

    /// What a template sees: the variables by their types, and what every template sees.
    fn context(
        &self,
        formatter: &LocaleFormatter,
        route: &Route,
        variables: &Map<String, Value>,
        event: &Event,
        zone: &Option<TimeZone>,
    ) -> Value {
        let mut values = Map::new();
        for name in ["full_name", "username", "email"] {
            values.insert(name.to_owned(), event.text(name).unwrap_or_default().into());
        }
        for (name, value) in variables {
            let kind = route.variables.get(name).map(|variable| &variable.kind);
            let value = kind.map_or_else(|| value.clone(), |kind| kind.typed(value));
            values.insert(name.clone(), value);
        }
        let now = event.happened_at().to_zoned(zone.clone().unwrap_or(TimeZone::UTC));
        let globals = [
            ("locale", formatter.tag.as_str().into()),
            ("current_year", now.year().into()),
            ("current_date", now.date().to_string().into()),
            ("brand", self.globals.brand.clone()),
        ];
        values.extend(globals.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(values)
    }
}

/// How the crate writes values into HTML; all helpers are those of a mail.
static LIBRARY: LazyLock<Handlebars<'static>> = LazyLock::new(|| {
    let mut library = Handlebars::new();
    library.register_escape_fn(|value| {
        let mut escaped = String::with_capacity(value.len());
        ascii::escape(value, &mut escaped);
        escaped
    });
    library
});

/// Renders a part.
///
/// # Errors
/// It takes too much, or a helper refuses what it is given.
fn render(
    part: &Checked,
    context: &Context,
    mail: &Mail<'_>,
    is_markup: bool,
) -> Result<String, String> {
    let mut out = Bounded::default();
    let mut rc = RenderContext::new(None);
    rc.set_disable_escape(!is_markup);
    mail.register(part.helpers.iter().copied(), &mut rc);
    let rendered = part.template.render(&LIBRARY, context, &mut rc, &mut out);
    rendered.map_err(|error| error.reason().to_string())?;
    Ok(out.0)
}

/// A header is one line: whatever a value holds, no line break and no control character gets in.
fn header(text: &str) -> String {
    let is_blank = |c: char| c.is_whitespace() || c.is_control();
    text.split(is_blank).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
