//! The kinds of events that the routes handle, as publishers see them.

use std::{collections::BTreeMap, sync::Arc};

use super::{FieldMapping, Route, RoutingTable};

/// Event types with the same routes.
#[derive(Debug)]
pub(crate) struct EventKind<'a> {
    /// The type that its routes name first.
    pub(crate) name: &'a str,
    /// All types, including `name`.
    pub(crate) names: Vec<&'a str>,
    pub(crate) routes: &'a [Arc<Route>],
    /// The mapping of its fields to the names in the routes, if there is one.
    pub(crate) mapping: Option<&'a FieldMapping>,
}

impl EventKind<'_> {
    /// The queue that its events are expected on.
    pub(crate) fn queue(&self) -> &str {
        &self.routes[0].queue
    }
}

impl RoutingTable {
    /// Every kind of event, sorted by name.
    pub(crate) fn event_kinds(&self) -> Vec<EventKind<'_>> {
        let mut groups: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
        for (name, routes) in &self.by_event {
            let routes = routes.iter().map(|route| route.name.as_str()).collect();
            groups.entry(routes).or_default().push(name);
        }
        let kinds = groups.into_values().map(|mut names| {
            names.sort_unstable();
            let routes = &self.by_event[names[0]];
            let first = names.iter().find(|name| **name == routes[0].event);
            let name = first.copied().unwrap_or(names[0]);
            let mapping = self.mappings.get(name).map(|mapping| &**mapping);
            EventKind { name, names, routes, mapping }
        });
        let mut kinds: Vec<_> = kinds.collect();
        kinds.sort_by_key(|kind| kind.name);
        kinds
    }
}
