//! The routes define which deliveries an event causes. They are data (`config/routes.toml`): a new
//! event type takes a route, a template and a sample, but no code.

mod brand;
mod calendar_rule;
mod delivery;
mod event_kinds;
mod expectation;
mod field_mapping;
mod lifecycle;
mod route;
mod routes_file;
mod variable_type;
mod variables;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

pub use brand::{Brand, BrandChoice, BrandField};
pub use calendar_rule::{CalendarMethod, CalendarRule};
pub use delivery::{Delivery, DeliveryId, Identity, Recipient};
pub(crate) use event_kinds::EventKind;
pub use expectation::Expectation;
pub(crate) use field_mapping::FieldMapping;
pub use lifecycle::{Lifecycle, ReminderRule};
pub(crate) use route::MAX_RECIPIENTS;
pub use route::{ChannelKind, OnUnknown, Priority, Recipients, Route, Variable};
pub use routes_file::RouteFaults;
pub use variable_type::{Field, VariableType};
pub use variables::VariableFault;
pub(crate) use variables::collect_texts;

use serde_json::Value;

use crate::event::Event;

/// The routes file that is compiled in.
pub const EMBEDDED_ROUTES: &str = include_str!("../../config/routes.toml");

/// All routes by event type.
#[derive(Debug)]
pub struct RoutingTable {
    /// Whether the shipped routes and templates lie below the own ones.
    extends: bool,
    queues: Vec<SourceQueue>,
    routes: HashMap<String, Arc<Route>>,
    by_event: HashMap<String, Vec<Arc<Route>>>,
    mappings: HashMap<String, Arc<FieldMapping>>,
    ignored: Vec<String>,
    brands: BTreeMap<String, Brand>,
    expectations: Vec<Expectation>,
    /// What is expected, by each name of its event type.
    expected: HashMap<String, String>,
}

/// A queue that upstream services publish to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceQueue {
    pub name: String,
    /// Routing keys by which the exchange `usher.events` feeds it.
    pub bind: Vec<String>,
}

/// What the routes define for an event type.
#[derive(Debug)]
pub enum Lookup<'a> {
    Routes(&'a [Arc<Route>]),
    /// Ignored on purpose: acknowledged and counted.
    Ignored,
    Unknown,
}

impl RoutingTable {
    /// Parses a routes file that stands alone. `settings` has the addresses for `{ setting = "…" }`.
    ///
    /// # Errors
    /// Every fault in the file.
    pub fn parse(text: &str, settings: &HashMap<String, Vec<String>>) -> Result<Self, RouteFaults> {
        routes_file::parse(text, settings)
    }

    /// Parses an own routes file, which lies over the shipped routes unless it says `extends = false`.
    ///
    /// # Errors
    /// Every fault in the file.
    pub fn parse_own(
        text: &str,
        settings: &HashMap<String, Vec<String>>,
    ) -> Result<Self, RouteFaults> {
        routes_file::parse_over(EMBEDDED_ROUTES, text, settings)
    }

    /// Whether the shipped templates lie below the own ones.
    pub fn extends(&self) -> bool {
        self.extends
    }

    /// Finds the routes of an event type or alias.
    pub fn lookup(&self, kind: &str) -> Lookup<'_> {
        match self.by_event.get(kind) {
            Some(routes) => Lookup::Routes(routes),
            None if self.ignored.iter().any(|ignored| ignored == kind) => Lookup::Ignored,
            None => Lookup::Unknown,
        }
    }

    /// Renames the event's fields to the names in the routes, if its type has a dialect.
    pub fn normalize(&self, event: &mut Event) {
        if let Some(mapping) = self.mappings.get(&event.kind) {
            mapping.normalize(event);
        }
    }

    /// Whether some route declares this field as secret.
    pub fn is_secret(&self, field: &str) -> bool {
        self.routes.values().any(|route| route.secrets.iter().any(|secret| secret == field))
    }

    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }

    pub fn routes(&self) -> Vec<&Arc<Route>> {
        let mut routes: Vec<_> = self.routes.values().collect();
        routes.sort_by(|a, b| a.name.cmp(&b.name));
        routes
    }

    /// The names of the routes that tell customers of a rescheduling.
    pub fn reschedule_notices(&self) -> Vec<String> {
        let is_notice = |route: &&&Arc<Route>| {
            route.lifecycle == Some(Lifecycle::Rescheduled)
                && route.channel == ChannelKind::Email
                && !matches!(route.recipients, Recipients::Fixed(_))
        };
        self.routes().iter().filter(is_notice).map(|route| route.name.clone()).collect()
    }

    /// Whether some route has this template.
    pub fn uses_template(&self, template: &str) -> bool {
        self.routes.values().any(|route| route.template == template)
    }

    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        self.routes().into_iter().map(|route| route.name.as_str())
    }

    /// The names of all ids that records are found by.
    pub fn correlation_names(&self) -> Vec<String> {
        let names = self.routes.values().flat_map(|route| route.correlation.iter().cloned());
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The brands by their names.
    pub fn brands(&self) -> &BTreeMap<String, Brand> {
        &self.brands
    }

    pub fn expectations(&self) -> &[Expectation] {
        &self.expectations
    }

    /// The event that is expected, if this is another name of its type or its own.
    pub fn expected(&self, kind: &str) -> Option<&str> {
        self.expected.get(kind).map(String::as_str)
    }

    /// The source queues.
    pub fn queues(&self) -> &[SourceQueue] {
        &self.queues
    }

    /// The source queue of an event type.
    pub fn queue_of(&self, kind: &str) -> Option<&str> {
        Some(&self.by_event.get(kind)?.first()?.queue)
    }

    /// Whether this event causes this delivery. Its id is keyed, so nobody else can name another recipient.
    pub fn causes(
        &self,
        event: &Event,
        identity: &Identity,
        (route, recipient, id): (&str, &str, &DeliveryId),
    ) -> bool {
        let Some(route) = self.route(route) else { return false };
        let deliveries = self.deliveries(std::slice::from_ref(route), event, identity);
        deliveries.iter().any(|one| one.id == *id && one.recipient.as_str() == recipient)
    }

    /// What the event asks for and these routes do not do: a copy to others, a time zone that there is not.
    pub fn ignored_in(&self, routes: &[Arc<Route>], event: &Event) -> Vec<String> {
        let is_taken = |field: &str, route: &Arc<Route>| {
            let (Recipients::Field(path) | Recipients::Optional(path)) = &route.recipients else {
                return route.variables.contains_key(field);
            };
            path == field || route.variables.contains_key(field)
        };
        let mut ignored = Vec::new();
        for field in ["cc", "bcc"] {
            let empty = event.fields.get(field).is_none_or(|value| match value {
                Value::String(text) => text.trim().is_empty(),
                Value::Array(items) => items.is_empty(),
                value => value.is_null(),
            });
            if !empty && !routes.iter().any(|route| is_taken(field, route)) {
                ignored.push(format!("{field}: no route sends copies; a route of its own can"));
            }
        }
        if let Some(name) = event.text("timezone").filter(|_| event.zone().is_none()) {
            let name: String = name.chars().take(64).collect();
            ignored.push(format!("timezone: there is no {name:?}"));
        }
        ignored
    }

    /// The deliveries that an event causes: one for each recipient of each route.
    pub fn deliveries(
        &self,
        routes: &[Arc<Route>],
        event: &Event,
        identity: &Identity,
    ) -> Vec<Delivery> {
        let mut deliveries: Vec<Delivery> =
            routes.iter().flat_map(|route| route.deliveries(event, identity)).collect();
        // An address that occurs twice in a list is one recipient.
        let mut seen = std::collections::HashSet::new();
        deliveries.retain(|delivery| seen.insert(delivery.id.clone()));
        deliveries
    }
}
