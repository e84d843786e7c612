//! Brands: the sender and the appearance of one tenant's mail.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Route;
use crate::event::Event;

/// A `[brand.NAME]` of the routes file. What it leaves out is not that of the settings, except for the sender's
/// address and the colour.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brand {
    /// In headings and footers.
    pub name: String,
    /// The sender's address, else `FROM_EMAIL`.
    pub from_email: Option<String>,
    /// The sender's name, else `name`.
    pub from_name: Option<String>,
    pub reply_to: Option<String>,
    pub logo_url: Option<String>,
    pub website_url: Option<String>,
    pub support_email: Option<String>,
    pub support_url: Option<String>,
    pub security_url: Option<String>,
    /// `#rrggbb`, else `BRAND_COLOR`.
    pub color: Option<String>,
    /// Lines below all mail, such as a postal address.
    pub footer: Option<String>,
    /// Names of the only relays that its mail goes over; empty: any.
    #[serde(default)]
    pub relays: Vec<String>,
}

/// Which brand a route's mail has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum BrandChoice {
    Fixed(String),
    Field(BrandField),
}

/// A variable by which events choose among some brands. Without it they have the settings' brand.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrandField {
    pub field: String,
    pub allow: Vec<String>,
}

impl Brand {
    /// What variables can be derived from: `brand.support_url`.
    pub fn addresses(&self) -> Map<String, Value> {
        let values = [
            ("name", Some(&self.name)),
            ("website_url", self.website_url.as_ref()),
            ("support_email", self.support_email.as_ref()),
            ("support_url", self.support_url.as_ref()),
            ("security_url", self.security_url.as_ref()),
        ];
        let values = values.into_iter();
        values.filter_map(|(name, value)| Some((name.to_owned(), value?.as_str().into()))).collect()
    }

    /// What is wrong with it.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let addresses = [
            ("logo_url", &self.logo_url),
            ("website_url", &self.website_url),
            ("support_url", &self.support_url),
            ("security_url", &self.security_url),
        ];
        for (key, address) in addresses {
            let is_web = |text: &String| {
                url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
            };
            if address.as_ref().is_some_and(|address| !is_web(address)) {
                faults.push(format!("{key} is not an http or https address"));
            }
        }
        let is_colour = |text: &str| {
            let digits = text.strip_prefix('#').unwrap_or_default();
            digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if self.color.as_deref().is_some_and(|colour| !is_colour(colour)) {
            faults.push("color is not a colour such as #1f3a5f".to_owned());
        }
        if self.name.trim().is_empty() {
            faults.push("name is empty".to_owned());
        }
        faults
    }
}

impl BrandChoice {
    /// Every brand that it can lead to.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            Self::Fixed(name) => std::slice::from_ref(name),
            Self::Field(field) => &field.allow,
        }
    }
}

impl Route {
    /// The name of the brand of an event's mail; `None` for that of the settings.
    ///
    /// # Errors
    /// The event chooses a brand that the route does not have.
    pub fn brand_of(&self, event: &Event) -> Result<Option<&str>, String> {
        let BrandField { field, allow } = match &self.brand {
            None => return Ok(None),
            Some(BrandChoice::Fixed(name)) => return Ok(Some(name)),
            Some(BrandChoice::Field(choice)) => choice,
        };
        let chosen = match event.fields.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
            Some(value) => value.as_str().map(str::trim),
        };
        let found = allow.iter().find(|name| Some(name.as_str()) == chosen);
        found.map(|name| Some(name.as_str())).ok_or_else(|| {
            let chosen: String = chosen.unwrap_or("no text").chars().take(64).collect();
            let (route, allowed) = (&self.name, allow.join(", "));
            format!("{field}: route {route:?} has no brand {chosen:?}: it has {allowed}")
        })
    }
}
