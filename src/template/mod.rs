//! Templates: subject, HTML and text of every mail in every language, compiled once.
//!
//! At load the includes of each part are put in (include.rs), MJML becomes HTML (mjml.rs) and what is left is checked
//! against what its routes declare (lint). The `handlebars` crate reads the tags and renders them, with the
//! helpers of helpers/, which print values by their types and count what they render.

mod ascii;
mod compile;
#[cfg(test)]
mod golden;
mod helpers;
mod include;
mod lint;
mod locale_formatter;
mod mjml;
mod mjml_structure;
mod rerender;
pub mod source;
pub mod store;
mod syntax;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, LazyLock, OnceLock},
};

use arc_swap::ArcSwap;
use handlebars::{Context, Handlebars, JsonRender, RenderContext, Renderable};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use self::compile::Compiled;
pub use self::rerender::NotKept;
pub use self::source::Source;
pub use self::validate::{Trial, sample};
use self::{
    compile::Parts,
    helpers::{Bounded, Mail},
    lint::Checked,
    locale_formatter::{LocaleFormatter, Locales, canonical, fallbacks},
    source::Files,
    store::{Overrides, TemplateStore},
};
use crate::{
    audit::TemplateRef,
    config::{self, Settings},
    event::Event,
    routing::{Brand, Route, RoutingTable},
};

/// A language as the files are named by it: `pt-BR` for `pt_br`.
pub fn canonical_language(tag: &str) -> Option<String> {
    canonical(tag).filter(|it| it.eq_ignore_ascii_case(&tag.replace('_', "-")))
}

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
    /// The brand of the routes file that it has; `None` for that of the settings.
    pub brand: Option<String>,
    /// In which its times are printed.
    pub time_zone: Option<String>,
    /// Why a template of the database was not used although there is one.
    pub instead_of: Option<String>,
}

impl Rendered {
    /// SHA-256 in hex of subject, HTML and text, each with its length before it.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.subject, &self.html, &self.text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex::encode(hash.finalize())
    }
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

/// The settings' brand.
fn brand(brand: &config::Brand) -> Value {
    brand_values(&Brand {
        name: brand.name.clone(),
        logo_url: brand.logo_url.clone(),
        website_url: brand.website_url.clone(),
        support_email: Some(brand.support_email.clone()),
        support_url: brand.support_url.clone(),
        security_url: brand.security_url.clone(),
        color: Some(brand.colour.clone()),
        from_email: None,
        from_name: None,
        reply_to: None,
        footer: None,
        relays: Vec::new(),
    })
}

fn brand_values(brand: &Brand) -> Value {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let colour = text(&brand.color);
    let values = [
        brand.name.clone(),
        text(&brand.logo_url),
        text(&brand.website_url),
        text(&brand.support_email),
        text(&brand.support_url),
        colour.clone(),
        readable_on(&colour).to_owned(),
        text(&brand.footer),
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
    shipped: HashMap<String, BTreeMap<String, Arc<Compiled>>>,
    overrides: ArcSwap<Overrides>,
    /// Where the texts of earlier mails are.
    kept: OnceLock<TemplateStore>,
    globals: Globals,
    /// What templates see of each brand of the routes file.
    brands: HashMap<String, Value>,
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
        let mut shipped: HashMap<String, BTreeMap<String, Arc<Compiled>>> = HashMap::new();
        for template in source::names(files) {
            let languages = source::languages(files, template);
            if !fallbacks(&globals.locale).any(|language| languages.contains(&language)) {
                let (default, has) = (&globals.locale, languages.join(", "));
                faults.push(format!(
                    "templates/{template} has no files in {default:?}, which is DEFAULT_LOCALE: it has {has:?}"
                ));
            }
            for language in languages {
                if canonical(language).as_deref() != Some(language) {
                    faults.push(format!(
                        "templates/{template}/{language}.*: the language is written {:?}",
                        canonical(language).unwrap_or_default()
                    ));
                }
                let compiled = source::Source::of_files(files, template, language)
                    .and_then(|source| Compiled::new(files, template, language, &source, routing));
                match compiled {
                    Err(found) => faults.extend(found),
                    Ok(compiled) => {
                        let languages = shipped.entry(template.to_owned()).or_default();
                        languages.insert(language.to_owned(), Arc::new(compiled));
                    }
                }
            }
        }
        let brands = routing.brands().iter().map(|(name, brand)| {
            let default = globals.brand["colour"].as_str();
            let color = brand.color.clone().or_else(|| default.map(ToOwned::to_owned));
            (name.clone(), brand_values(&Brand { color, ..brand.clone() }))
        });
        let brands = brands.collect();
        if faults.is_empty() {
            Ok(Self {
                shipped,
                overrides: ArcSwap::default(),
                kept: OnceLock::new(),
                globals,
                brands,
                locales,
            })
        } else {
            Err(faults)
        }
    }

    /// The language of an event's mail: its own if the template has it, else the default.
    pub fn language(&self, route: &Route, event: &Event) -> String {
        let chosen = self.formatter_for(&route.template, event, &self.overrides.load());
        chosen.map_or_else(|| self.globals.locale.clone(), |words| words.language.clone())
    }

    /// The languages that a template has, in files or in the database.
    pub fn languages(&self, template: &str) -> BTreeSet<String> {
        let shipped = self.shipped.get(template).into_iter().flat_map(BTreeMap::keys);
        let overrides = self.overrides.load();
        let overridden = overrides.keys().filter(|key| key.0 == template).map(|key| &key.1);
        shipped.chain(overridden).cloned().collect()
    }

    /// Templates that lack a language which another has. Languages that the same templates lack share a line.
    pub fn lacking(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.shipped.values().flat_map(BTreeMap::keys).collect();
        let mut lacking: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
        for language in all {
            let without = self.shipped.iter().filter(|(_, has)| !has.contains_key(language));
            let mut without: Vec<&str> = without.map(|(name, _)| name.as_str()).collect();
            without.sort_unstable();
            lacking.entry(without).or_default().push(language);
        }
        lacking.remove(&Vec::new());
        let line = |(templates, languages): (Vec<&str>, Vec<&str>)| {
            format!("not in {}: {}", languages.join(", "), templates.join(", "))
        };
        lacking.into_iter().map(line).collect()
    }

    fn formatter_for(
        &self,
        template: &str,
        event: &Event,
        overrides: &Overrides,
    ) -> Option<Arc<LocaleFormatter>> {
        let shipped = self.shipped.get(template);
        self.locales.choose(event.text("locale"), |language| {
            shipped.is_some_and(|languages| languages.contains_key(language))
                || (!overrides.is_empty()
                    && overrides.contains_key(&(template.to_owned(), language.to_owned())))
        })
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
        let unknown = || TemplateError::Unknown(route.template.clone());
        let overrides = self.overrides.load();
        let words = self.formatter_for(&route.template, event, &overrides).ok_or_else(unknown)?;
        let render = |compiled: &Compiled, words: &LocaleFormatter| {
            self.render_with(compiled, words, route, variables, event)
        };
        let mut overridden = None;
        if !overrides.is_empty() {
            let key = (route.template.clone(), words.language.clone());
            match overrides.get(&key).map(|compiled| render(compiled, &words)) {
                Some(Ok(rendered)) => return Ok(rendered),
                Some(Err(error)) => overridden = Some(error.to_string()),
                None => {}
            }
        }
        // A language that only the database has leaves the one that the files have.
        let words =
            self.formatter_for(&route.template, event, &Overrides::new()).ok_or_else(unknown)?;
        let languages = self.shipped.get(&route.template).ok_or_else(unknown)?;
        let shipped = languages.get(&words.language).ok_or_else(unknown)?;
        Ok(Rendered { instead_of: overridden, ..render(shipped, &words)? })
    }

    /// Puts templates before the files; those of before go.
    fn override_with(&self, overrides: Overrides) {
        self.overrides.store(Arc::new(overrides));
    }

    /// Everything that mails are made from: name, language and text.
    fn in_use(&self) -> Vec<(String, String, Arc<Compiled>)> {
        let shipped = self.shipped.iter().flat_map(|(name, languages)| {
            languages.iter().map(|(language, it)| (name.clone(), language.clone(), it.clone()))
        });
        let overrides = self.overrides.load();
        let overrides = overrides.iter();
        let overrides =
            overrides.map(|((name, language), it)| (name.clone(), language.clone(), it.clone()));
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
        let code = |value: &Value| Some(value.render()).filter(|code| !code.trim().is_empty());
        let declared = route.variables.get("currency").and_then(|it| it.default.as_ref());
        let house = declared.and_then(code).unwrap_or_else(|| self.globals.currency.clone());
        let currency = variables.get("currency").and_then(code).unwrap_or_else(|| house.clone());
        let mail = Mail::new(formatter, zone.as_ref(), &currency, &house);
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
        let time_zone = zone.as_ref().and_then(TimeZone::iana_name).map(ToOwned::to_owned);
        let brand = route.brand_of(event).unwrap_or_default().map(ToOwned::to_owned);
        Ok(Rendered { subject, html, text, template, brand, time_zone, instead_of: None })
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
        let brand = route.brand_of(event).unwrap_or_default();
        let brand = brand.and_then(|name| self.brands.get(name));
        let globals = [
            ("locale", formatter.tag.as_str().into()),
            ("dir", if formatter.is_rtl { "rtl" } else { "ltr" }.into()),
            ("start_side", if formatter.is_rtl { "right" } else { "left" }.into()),
            ("current_year", now.year().into()),
            ("current_date", now.date().to_string().into()),
            ("brand", brand.unwrap_or(&self.globals.brand).clone()),
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
