//! A mail of the past, made again from its record.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::AuditCli;
use crate::{
    app::load::Loaded,
    audit::{Record, TemplateRef},
    event::{Event, EventId, IdSource},
    failure::Failure,
    routing::Route,
    template::{Rendered, store::TemplateStore},
};

impl AuditCli {
    /// The mail of this record, or why there is none.
    pub(super) async fn mail_of(
        &self,
        record: &Record,
        loaded: &Loaded,
    ) -> Result<Result<Rendered, String>, Failure> {
        let Some(template) = &record.template else { return Ok(Err("none was made".to_owned())) };
        if record.erased_at.is_some() {
            return Ok(Err("its words were erased".to_owned()));
        }
        let Some(route) = loaded.routing.route(&record.route) else {
            return Ok(Err(format!("there is no route {:?} any more", record.route)));
        };
        let TemplateRef { name, version, .. } = template;
        let stored = TemplateStore::new(self.audit.database()).version(version).await;
        let stored = stored.map_err(Failure::unavailable)?;
        let Some(flat) = stored.or_else(|| loaded.templates.in_use_as(version)) else {
            return Ok(Err(format!("the text of template {name} {version} was not kept")));
        };
        let (variables, event) = (variables(record, route), event(record, template));
        let again = loaded.templates.render_again(flat, template, route, &variables, &event);
        Ok(again.map_err(|error| error.to_string()))
    }
}

/// Records leave out what the route's defaults give again.
fn variables(record: &Record, route: &Route) -> Map<String, Value> {
    let declared = route.variables.iter().map(|(name, variable)| {
        let value = record.data.get(name).or(variable.default.as_ref());
        (name.clone(), value.cloned().unwrap_or_default())
    });
    declared.collect()
}

/// What a mail takes from its event beside its variables.
fn event(record: &Record, template: &TemplateRef) -> Event {
    let mut fields = record.data.clone();
    fields.insert("locale".to_owned(), template.locale.as_str().into());
    fields.entry("email").or_insert_with(|| record.recipient.as_str().into());
    let source = record.event.id_source.unwrap_or(IdSource::EventId);
    // Where it did not say when it happened, its arrival counted, which was some moments before this.
    let arrived_at: Timestamp = record.at;
    Event {
        id: EventId { value: record.event.id.clone(), source },
        kind: record.event.kind.clone(),
        source: record.event.source.clone(),
        occurred_at: record.event.time,
        deliver_at: None,
        deliver_before: None,
        arrived_at,
        traceparent: None,
        fields,
    }
}
