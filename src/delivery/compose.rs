//! Event and delivery to outgoing message. The main line, `usher render` and corrections use it.

use std::{collections::HashMap, sync::Arc};

use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::calendar_entry;
use crate::{
    audit::TemplateRef,
    channel::{
        Extras, Outgoing, QrCode,
        email::{Sender, qr_png},
    },
    event::{Event, InvalidAttachment, Sources},
    routing::{Delivery, VariableFault},
    template::{Source, TemplateError, Templates},
};

/// The longest text and HTML of a mail together, in bytes. Gmail shows the first 102 KiB of it.
const MAX_MAIL_BYTES: usize = 8 * 1024 * 1024;

/// Composes messages.
#[derive(Clone)]
pub struct Composer {
    pub templates: Arc<Templates>,
    /// What variables are derived from beside the event.
    pub sources: Arc<Sources>,
    /// The senders of brands by their names.
    pub senders: Arc<HashMap<String, Arc<Sender>>>,
    /// The right side of Message-IDs.
    pub message_id_domain: String,
    /// The zone of times without an offset (`TIMEZONE`).
    pub zone: Option<TimeZone>,
}

/// Why no message can be composed. Trying again can't help.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error(transparent)]
    Variables(#[from] VariableFault),
    #[error("{0}")]
    Brand(String),
    #[error(transparent)]
    Attachment(#[from] InvalidAttachment),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the mail has {0} bytes of text, more than {MAX_MAIL_BYTES}")]
    TooLarge(usize),
}

impl ComposeError {
    /// The `error.kind` of the record.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Variables(fault) => fault.kind(),
            Self::Brand(_) => "invalid_variable",
            Self::Attachment(_) => "invalid_attachment",
            Self::Template(_) => "template",
            Self::TooLarge(_) => "too_large",
        }
    }
}

impl Composer {
    /// The variables of the delivery's route, complete with derived values and defaults.
    ///
    /// # Errors
    /// The event lacks one, or has one of a wrong type.
    pub fn variables(
        &self,
        delivery: &Delivery,
        event: &Event,
    ) -> Result<Map<String, Value>, ComposeError> {
        let language = self.templates.language(&delivery.route, event);
        Ok(delivery.route.variables(event, &self.sources, &language)?)
    }

    /// The message with its attachments, its QR code and its calendar entry; from the template of then, where
    /// there is one, else from that of now.
    ///
    /// # Errors
    /// The attachments can't be sent, or the template fails.
    pub fn compose(
        &self,
        delivery: &Delivery,
        event: &Event,
        variables: &Map<String, Value>,
        of_then: Option<&(TemplateRef, Source)>,
    ) -> Result<Outgoing, ComposeError> {
        let extras = self.extras(delivery, event, variables)?;
        let (templates, route) = (&self.templates, &delivery.route);
        let mut rendered = match of_then {
            Some((template, text)) => {
                templates.render_again(text, template, route, variables, event)?
            }
            None => templates.render(route, variables, event)?,
        };
        if let (Some(name), None) = (&delivery.route.inline_qr, &extras.qr) {
            remove_image(&mut rendered.html, name);
        }
        let bytes = rendered.html.len() + rendered.text.len();
        if bytes > MAX_MAIL_BYTES {
            return Err(ComposeError::TooLarge(bytes));
        }
        Ok(Outgoing {
            recipient: delivery.recipient.as_str().to_owned(),
            rendered,
            message_id: delivery.id.message_id(&self.message_id_domain),
            date: None,
            extras,
        })
    }

    fn extras(
        &self,
        delivery: &Delivery,
        event: &Event,
        variables: &Map<String, Value>,
    ) -> Result<Extras, ComposeError> {
        let route = &delivery.route;
        let brand = route.brand_of(event).map_err(ComposeError::Brand)?;
        let qr = route.inline_qr.as_ref().and_then(|name| {
            // A text that is too long for a code stands in the mail all the same.
            Some(QrCode { name: name.clone(), png: qr_png(&text(variables.get(name)?)?)? })
        });
        let calendar = route.calendar.as_ref().and_then(|rule| {
            let entry = calendar_entry::entry(rule, variables, event, self.zone.as_ref());
            let warn = |reason: &&str| {
                let (id, route) = (&delivery.id, &route.name);
                tracing::warn!(delivery_id = %id, route, reason, "no calendar part");
            };
            entry.inspect_err(warn).ok()
        });
        Ok(Extras {
            reply_to: route.reply_to(event).map(ToOwned::to_owned),
            sender: brand.and_then(|name| self.senders.get(name).cloned()),
            attachments: event.attachments()?,
            qr,
            calendar,
        })
    }
}

/// A variable as text, lists joined by commas; `None` where it is empty.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().filter_map(text).collect::<Vec<_>>().join(", "),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// Takes out the image `cid:<name>`, of which there is no picture.
fn remove_image(html: &mut String, name: &str) {
    let source = format!("cid:{name}");
    let mut from = 0;
    while let Some(at) = html[from..].find(&source).map(|at| from + at) {
        from = at + source.len();
        let is_whole = html[from..].starts_with(['"', '\'', ' ', '>', '/']);
        let (begin, end) = (html[..at].rfind('<'), html[from..].find('>'));
        if let (true, Some(begin), Some(end)) = (is_whole, begin, end)
            && html[begin..].get(..4).is_some_and(|tag| tag.eq_ignore_ascii_case("<img"))
        {
            html.replace_range(begin..=from + end, "");
            from = begin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_picture_is_taken_out() {
        for (html, left) in [
            ("<p><img alt=\"x\" src=\"cid:qr\" width=\"1\"/>a</p>", "<p>a</p>"),
            ("<IMG src='cid:qr'><img src=cid:qr>", ""),
            ("<img src=\"cid:qr2\">cid:qr\"", "<img src=\"cid:qr2\">cid:qr\""),
        ] {
            let mut mail = html.to_owned();
            remove_image(&mut mail, "qr");
            assert_eq!(mail, left);
        }
    }
}
