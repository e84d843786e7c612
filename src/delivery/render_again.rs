//! Renders the mail of a record again, from the template text that was used.

use crate::{
    audit::{AuditError, Record, TemplateRef},
    event::{Event, EventId, IdSource},
    routing::RoutingTable,
    template::{Rendered, Templates},
};

/// The mail, or why it can't be rendered.
///
/// # Errors
/// The store of templates does not answer.
pub(crate) async fn render_again(
    record: &Record,
    routing: &RoutingTable,
    templates: &Templates,
) -> Result<Result<Rendered, String>, AuditError> {
    let Some(template) = &record.template else {
        return Ok(Err("none was rendered".to_owned()));
    };
    if record.erased_at.is_some() {
        return Ok(Err("its content was erased".to_owned()));
    }
    let Some(route) = routing.route(&record.route) else {
        return Ok(Err(format!("there is no route {:?} any more", record.route)));
    };
    let source = match templates.text_of_then(template).await? {
        Ok(source) => source,
        Err(not_kept) => return Ok(Err(not_kept.to_string())),
    };
    let (variables, event) = (route.with_defaults(&record.data), event(record, template));
    let rendered = templates.render_again(&source, template, route, &variables, &event);
    Ok(rendered.map_err(|error| error.to_string()))
}

/// Why the mail, rendered again, is not what went out; `None` where it is, or where the record can't tell.
pub(crate) fn difference(record: &Record, mail: &Rendered) -> Option<String> {
    let sent = record.message.as_ref()?;
    if *sent.content_sha256.as_ref()? == mail.sha256() {
        return None;
    }
    let name = |name: &Option<String>, absent: &str| name.as_deref().unwrap_or(absent).to_owned();
    let of_settings = "that of the settings";
    let changes = [
        ("the brand", name(&sent.brand, of_settings), name(&mail.brand, of_settings)),
        ("the time zone", name(&sent.time_zone, "none"), name(&mail.time_zone, "none")),
    ];
    let changes = changes.into_iter().filter(|(_, before, now)| before != now);
    let changes =
        changes.map(|(what, before, now)| format!("{what} was {before}, now it is {now}"));
    let changes: Vec<String> = changes.collect();
    Some(match changes.is_empty() {
        true => {
            "what the settings or the routes file say of its brand has changed, or a default, or \
                 the record does not keep all of its values"
                .to_owned()
        }
        false => changes.join("; "),
    })
}

/// The parts of the event that a mail needs besides its variables.
pub(crate) fn event(record: &Record, template: &TemplateRef) -> Event {
    let mut fields = record.data.clone();
    // In the zone that its times were printed in, whatever TIMEZONE is today.
    let zone = record.message.as_ref().and_then(|message| message.time_zone.as_deref());
    if let Some(zone) = zone {
        fields.insert("timezone".to_owned(), zone.into());
    }
    fields.insert("locale".to_owned(), template.locale.as_str().into());
    fields.entry("email").or_insert_with(|| record.recipient.as_str().into());
    let source = record.event.id_source.unwrap_or(IdSource::EventId);
    Event {
        id: EventId { value: record.event.id.clone(), source },
        kind: record.event.kind.clone(),
        source: record.event.source.clone(),
        occurred_at: record.event.time,
        deliver_at: None,
        deliver_before: None,
        // The time of arrival is not recorded; it was moments earlier.
        arrived_at: record.at,
        is_corrected: false,
        traceparent: None,
        fields,
    }
}
