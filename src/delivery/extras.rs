//! What a mail carries beside its words: taken out of the event, by the rules of its route.

use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::calendar_entry;
use crate::{
    channel::{Extras, QrCode},
    event::{Event, InvalidAttachment},
    routing::Delivery,
};

/// What this event and its route ask for. `variables` are the route's; `zone` is that of times
/// without an offset.
///
/// # Errors
/// The event's attachments can't be sent.
pub fn extras(
    delivery: &Delivery,
    variables: &Map<String, Value>,
    event: &Event,
    zone: Option<&TimeZone>,
) -> Result<Extras, InvalidAttachment> {
    let route = &delivery.route;
    let qr = route
        .inline_qr
        .as_ref()
        .and_then(|name| Some(QrCode { name: name.clone(), text: text(variables.get(name)?)? }));
    let calendar = route.calendar.as_ref().and_then(|rule| {
        let entry = calendar_entry::entry(rule, variables, event, zone);
        let warn = |reason: &&str| {
            let (id, route) = (&delivery.id, &route.name);
            tracing::warn!(delivery_id = %id, route, reason, "no calendar part");
        };
        entry.inspect_err(warn).ok()
    });
    Ok(Extras {
        reply_to: route.reply_to(event).map(ToOwned::to_owned),
        attachments: event.attachments()?,
        qr,
        calendar,
    })
}

/// A variable that says something, as text; a list with commas.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().filter_map(text).collect::<Vec<_>>().join(", "),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}
