//! Templates: subject, HTML and text of every mail in every locale, compiled once.
//!
//! Names that a route does not declare are errors (strict mode); absent optional variables are
//! bound to their defaults before rendering.

pub mod files;
mod helpers;

use std::collections::BTreeMap;

use handlebars::{Context, Handlebars};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::files::Files;
use crate::{audit::TemplateRef, config::Settings, event::Event};

/// The locales that every template exists in.
pub const LOCALES: [&str; 2] = ["en", "es"];

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
}

/// A template could not be rendered: its own fault, not the event's.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is none of this name.
    #[error("there is no template {0:?}")]
    Unknown(String),
    /// It names something that its route does not declare, or calls something that is not there.
    #[error("template {name}: {reason}")]
    Render {
        /// `<template>/<locale>.<part>`.
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
    locale: &'static str,
    zone: TimeZone,
}

impl Globals {
    /// From the settings.
    pub fn new(settings: &Settings) -> Self {
        let brand = &settings.brand;
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            brand: json!({
                "name": brand.name,
                "logo_url": or_empty(&brand.logo_url),
                "website_url": or_empty(&brand.website_url),
                "support_email": brand.support_email,
                "support_url": or_empty(&brand.support_url),
                "colour": brand.colour,
            }),
            currency: settings.currency.clone(),
            locale: supported(&settings.locale).unwrap_or("en"),
            // Checked when the settings were read.
            zone: TimeZone::get(&settings.timezone).unwrap_or(TimeZone::UTC),
        }
    }

    /// The locale of an event's mails: its own if there is a translation, else the default.
    pub fn locale(&self, event: &Event) -> &'static str {
        event.text("locale").and_then(supported).unwrap_or(self.locale)
    }
}

/// `es-CO`, `es_MX` and `ES` are all `es`.
fn supported(tag: &str) -> Option<&'static str> {
    let language = tag.split(['-', '_']).next()?.to_ascii_lowercase();
    LOCALES.into_iter().find(|locale| *locale == language)
}

/// All templates, compiled.
pub struct Templates {
    // Escaping belongs to a registry, and only HTML is escaped.
    html: Handlebars<'static>,
    plain: Handlebars<'static>,
    versions: BTreeMap<String, BTreeMap<&'static str, String>>,
    globals: Globals,
}

impl Templates {
    /// Compiles all templates.
    ///
    /// # Errors
    /// Every fault found, one a line: syntax errors and missing parts.
    pub fn compile(files: &Files, globals: Globals) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut html = helpers::registry(&globals);
        let mut plain = helpers::registry(&globals);
        plain.register_escape_fn(handlebars::no_escape);
        let mut shared = Sha256::new();
        for (path, text) in files {
            let Some(name) = path.strip_suffix(".hbs") else { continue };
            let (name, kind) = match name.strip_prefix("_shared/") {
                Some(partial) => {
                    shared.update(path.as_bytes());
                    shared.update(text.as_bytes());
                    (partial, partial.rsplit('.').next())
                }
                None => (name, name.rsplit('.').next()),
            };
            let registry = if kind == Some("html") { &mut html } else { &mut plain };
            if let Err(error) = registry.register_template_string(name, text) {
                faults.push(format!("templates/{path}: {}", error.reason()));
            }
        }
        let shared = shared.finalize();
        let mut versions: BTreeMap<String, BTreeMap<&'static str, String>> = BTreeMap::new();
        for path in
            files.keys().filter(|path| !path.starts_with("_shared/") && path.ends_with(".hbs"))
        {
            let Some((template, _)) = path.split_once('/') else { continue };
            if versions.contains_key(template) {
                continue;
            }
            let mut by_locale = BTreeMap::new();
            for locale in LOCALES {
                let mut hash = Sha256::new_with_prefix(shared);
                for part in ["subject", "html", "txt"] {
                    let part = format!("{template}/{locale}.{part}.hbs");
                    match files.get(&part) {
                        Some(text) => hash.update(text.as_bytes()),
                        None => faults.push(format!("templates/{part} is missing")),
                    }
                }
                by_locale.insert(locale, hex::encode(&hash.finalize()[..6]));
            }
            versions.insert(template.to_owned(), by_locale);
        }
        if faults.is_empty() { Ok(Self { html, plain, versions, globals }) } else { Err(faults) }
    }

    /// Whether there is a template of this name.
    pub fn contains(&self, template: &str) -> bool {
        self.versions.contains_key(template)
    }

    /// The locale of an event's mails.
    pub fn locale(&self, event: &Event) -> &'static str {
        self.globals.locale(event)
    }

    /// Renders one mail. `variables` are the route's, complete with defaults.
    ///
    /// # Errors
    /// [`TemplateError`]: the template names what nobody declared.
    pub fn render(
        &self,
        template: &str,
        locale: &str,
        variables: &Map<String, Value>,
        event: &Event,
    ) -> Result<Rendered, TemplateError> {
        let version = self.versions.get(template).and_then(|by_locale| by_locale.get(locale));
        let version = version.ok_or_else(|| TemplateError::Unknown(template.to_owned()))?;
        let mut context = variables.clone();
        self.bind_globals(&mut context, locale, event);
        // Made once: by itself each rendering would copy all of it.
        let mut context = Context::from(Value::Object(context));
        let part = |registry: &Handlebars<'_>, part: &str, context: &Context| {
            let name = format!("{template}/{locale}.{part}");
            registry
                .render_with_context(&name, context)
                .map_err(|error| TemplateError::Render { reason: error.to_string(), name })
        };
        let subject = one_line(&part(&self.plain, "subject", &context)?);
        if let Value::Object(context) = context.data_mut() {
            context.insert("subject".to_owned(), Value::String(subject.clone()));
        }
        let html = part(&self.html, "html", &context)?;
        let text = part(&self.plain, "txt", &context)?;
        let template = TemplateRef {
            name: template.to_owned(),
            locale: locale.to_owned(),
            version: version.clone(),
        };
        Ok(Rendered { subject, html, text, template })
    }

    fn bind_globals(&self, context: &mut Map<String, Value>, locale: &str, event: &Event) {
        let now =
            event.occurred_at.unwrap_or_else(Timestamp::now).to_zoned(self.globals.zone.clone());
        context.insert("locale".into(), locale.into());
        context.insert("brand".into(), self.globals.brand.clone());
        context.insert("current_year".into(), now.year().into());
        context.insert("current_date".into(), now.date().to_string().into());
        for name in ["full_name", "username", "email"] {
            let value = event.text(name).unwrap_or_default();
            context.entry(name).or_insert_with(|| value.into());
        }
    }
}

/// A header is one line: whatever a value holds, no line break and no control character gets in.
fn one_line(text: &str) -> String {
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    visible.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{one_line, supported};

    #[test]
    fn regional_locales_fall_back_to_their_language() {
        assert_eq!(supported("es-CO"), Some("es"));
        assert_eq!(supported("en_US"), Some("en"));
        assert_eq!(supported("ES"), Some("es"));
        assert_eq!(supported("fr"), None);
    }

    #[test]
    fn a_subject_is_one_line() {
        assert_eq!(one_line(" a\r\nBcc: x@y \u{0}\tb "), "a Bcc: x@y b");
    }
}
