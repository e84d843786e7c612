//! Parses `config/routes.toml` and reports every fault at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Brand, BrandChoice, BrandField, ChannelKind, Lifecycle, OnUnknown, Priority, ReminderRule,
    Route, RoutingTable, SourceQueue, Variable, VariableType, calendar_rule::CalendarTable,
    expectation::ExpectEntry, field_mapping::FieldMapping, route::Recipients,
};
use crate::{
    duration,
    event::{Derived, snake_case},
};

/// Every fault in a routes file.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteFaults(pub Vec<String>);

impl std::error::Error for RouteFaults {}

impl fmt::Display for RouteFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutesFile {
    /// Whether it lies over the shipped routes; else it stands alone.
    #[serde(default = "yes")]
    extends: bool,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default)]
    queues: BTreeMap<String, QueueEntry>,
    #[serde(default, rename = "brand")]
    brands: BTreeMap<String, Brand>,
    #[serde(default, rename = "dialect")]
    mappings: Vec<FieldMapping>,
    #[serde(default, rename = "route")]
    routes: Vec<RouteEntry>,
    #[serde(default, rename = "expect")]
    expectations: Vec<ExpectEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueEntry {
    name: String,
    bind: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteEntry {
    name: String,
    event: String,
    #[serde(default)]
    aliases: Vec<String>,
    queue: String,
    channel: ChannelKind,
    template: String,
    recipient: RecipientEntry,
    reply_to: Option<ReplyToEntry>,
    brand: Option<BrandChoice>,
    inline_qr: Option<String>,
    calendar: Option<CalendarTable>,
    lifecycle: Option<Lifecycle>,
    reminder: Option<ReminderRule>,
    priority: Priority,
    priority_from: Option<String>,
    #[serde(default)]
    required: BTreeMap<String, VariableType>,
    #[serde(default)]
    optional: BTreeMap<String, OptionalEntry>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    on_unknown: OnUnknown,
    #[serde(default = "yes")]
    rate_limited: bool,
    #[serde(default)]
    security: bool,
    max_age: Option<String>,
    retention: Option<String>,
    business_key: Option<String>,
    #[serde(default)]
    correlation: Vec<String>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum RecipientEntry {
    Field(String),
    Optional(String),
    Literal(String),
    Setting(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyToEntry {
    field: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OptionalEntry {
    Detailed(DetailedEntry),
    Type(VariableType),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DetailedEntry {
    #[serde(rename = "type")]
    kind: VariableType,
    max: Option<i64>,
    default: Option<Value>,
    from: Option<String>,
}

/// Parses a routes file that stands alone.
pub(super) fn parse(
    text: &str,
    settings: &HashMap<String, Vec<String>>,
) -> Result<RoutingTable, RouteFaults> {
    build(RoutesFile::read(text)?, settings)
}

/// Parses an own routes file and lays it over the shipped one, unless it says `extends = false`.
pub(super) fn parse_over(
    shipped: &str,
    text: &str,
    settings: &HashMap<String, Vec<String>>,
) -> Result<RoutingTable, RouteFaults> {
    let own = RoutesFile::read(text)?;
    let file = if own.extends { own.over(RoutesFile::read(shipped)?) } else { own };
    build(file, settings)
}

impl RoutesFile {
    fn read(text: &str) -> Result<Self, RouteFaults> {
        toml::from_str(text).map_err(|error| RouteFaults(vec![error.to_string()]))
    }

    /// Adds what is shipped for the events that this file does not name. For those that it names, in a
    /// route or in `ignore`, it alone counts: an own route never sends a second mail beside a shipped one.
    fn over(mut self, mut shipped: Self) -> Self {
        let own_names: HashSet<&str> = self.routes.iter().map(|one| one.name.as_str()).collect();
        let own_kinds: HashSet<&str> = self.routes.iter().flat_map(RouteEntry::kinds).collect();
        let is_ours = |kind: &str| {
            own_kinds.contains(kind) || self.ignore.iter().any(|ignored| ignored == kind)
        };
        shipped.routes.retain(|route| {
            !own_names.contains(route.name.as_str()) && !route.kinds().any(is_ours)
        });
        shipped.ignore.retain(|kind| !is_ours(kind));
        let mappings = shipped.mappings.into_iter().filter_map(|mapping| {
            let variables = |kind: &str, name: &str| {
                let mut routes =
                    shipped.routes.iter().filter(|route| route.kinds().any(|it| it == kind));
                routes.any(|route| route.has_variable(name))
            };
            let is_left =
                |kind: &str| shipped.routes.iter().any(|route| route.kinds().any(|it| it == kind));
            mapping.limited_to(is_left, variables)
        });
        self.mappings.extend(mappings.collect::<Vec<_>>());
        // A queue that feeds no route any more may be another's.
        let used: HashSet<&str> =
            shipped.routes.iter().chain(&self.routes).map(|route| route.queue.as_str()).collect();
        shipped.queues.retain(|key, _| used.contains(key.as_str()));
        shipped.queues.append(&mut self.queues);
        shipped.brands.append(&mut self.brands);
        self.ignore.append(&mut shipped.ignore);
        self.routes.append(&mut shipped.routes);
        Self { queues: shipped.queues, brands: shipped.brands, ..self }
    }
}

fn build(
    file: RoutesFile,
    settings: &HashMap<String, Vec<String>>,
) -> Result<RoutingTable, RouteFaults> {
    let mut faults = Vec::new();
    let mut routes: HashMap<String, Arc<Route>> = HashMap::new();
    let mut by_event: HashMap<String, Vec<Arc<Route>>> = HashMap::new();
    for (name, brand) in &file.brands {
        faults.extend(brand.faults().into_iter().map(|fault| format!("brand {name:?}: {fault}")));
    }
    for entry in file.routes {
        let at = format!("route {:?}", entry.name);
        match entry.build(&file.queues, &file.brands, settings) {
            Err(found) => faults.extend(found.into_iter().map(|fault| format!("{at}: {fault}"))),
            Ok(route) => {
                let route = Arc::new(route);
                for kind in std::iter::once(&route.event).chain(&route.aliases) {
                    by_event.entry(kind.clone()).or_default().push(route.clone());
                }
                if routes.insert(route.name.clone(), route).is_some() {
                    faults.push(format!("{at}: another route has this name"));
                }
            }
        }
    }
    for (name, rule) in routes.values().filter_map(|it| Some((&it.name, it.reminder.as_ref()?))) {
        let planned = routes.get(&rule.route);
        if planned.is_none_or(|route| route.lifecycle != Some(Lifecycle::Reminder)) {
            let other = &rule.route;
            faults.push(format!(
                "route {name:?}: reminder: {other:?} is not a route with lifecycle = \"reminder\""
            ));
        }
    }
    for kind in &file.ignore {
        if by_event.contains_key(kind) {
            faults.push(format!("ignore: {kind:?} has a route"));
        }
    }
    let mut mappings = HashMap::new();
    for (number, mapping) in (1..).zip(file.mappings) {
        let mapping = mapping.in_snake_case();
        let found = mapping.faults(&by_event);
        faults.extend(found.into_iter().map(|fault| format!("dialect {number}: {fault}")));
        let mapping = Arc::new(mapping);
        for kind in &mapping.events {
            if mappings.insert(kind.clone(), mapping.clone()).is_some() {
                faults.push(format!("dialect {number}: {kind:?} has a dialect already"));
            }
        }
    }
    let (mut expectations, mut expected) = (Vec::new(), HashMap::new());
    for (number, entry) in (1..).zip(file.expectations) {
        match entry.build() {
            Err(found) => faults.extend(found.iter().map(|it| format!("expect {number}: {it}"))),
            Ok(expectation) => {
                let event = &expectation.event;
                let routes = by_event.get(event).into_iter().flatten();
                let mut kinds: Vec<&String> =
                    routes.flat_map(|it| std::iter::once(&it.event).chain(&it.aliases)).collect();
                kinds.extend(file.ignore.iter().filter(|kind| *kind == event));
                if kinds.is_empty() {
                    faults.push(format!("expect {number}: {event:?} has no route"));
                }
                if expected.contains_key(event) {
                    faults.push(format!("expect {number}: {event:?} is expected already"));
                }
                expected.extend(kinds.into_iter().map(|kind| (kind.clone(), event.clone())));
                expectations.push(expectation);
            }
        }
    }
    if !faults.is_empty() {
        return Err(RouteFaults(faults));
    }
    let queues = file.queues.into_values();
    let queues = queues.map(|queue| SourceQueue { name: queue.name, bind: queue.bind }).collect();
    let (extends, ignored, brands) = (file.extends, file.ignore, file.brands);
    Ok(RoutingTable {
        extends,
        queues,
        routes,
        by_event,
        mappings,
        ignored,
        brands,
        expectations,
        expected,
    })
}

/// Converts the first part of a path to snake case, as events have it. Nested names stay as they
/// are.
fn field_name(path: &str) -> String {
    match path.split_once('.') {
        Some((first, rest)) => format!("{}.{rest}", snake_case(first)),
        None => snake_case(path),
    }
}

/// Converts the fields in a business key's pattern to snake case.
fn key_pattern(pattern: &str) -> String {
    let parts = pattern.split('{').map(|part| match part.split_once('}') {
        Some((name, rest)) => format!("{}}}{rest}", snake_case(name)),
        None => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("{")
}

impl RouteEntry {
    /// The event type and its aliases.
    fn kinds(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.event).chain(&self.aliases).map(String::as_str)
    }

    fn has_variable(&self, name: &str) -> bool {
        self.required.keys().chain(self.optional.keys()).any(|own| snake_case(own) == name)
    }

    fn build(
        self,
        queues: &BTreeMap<String, QueueEntry>,
        brands: &BTreeMap<String, Brand>,
        settings: &HashMap<String, Vec<String>>,
    ) -> Result<Route, Vec<String>> {
        let mut faults = Vec::new();
        let queue = match queues.get(&self.queue) {
            Some(queue) => queue.name.clone(),
            None => {
                faults.push(format!("queue {:?} is not among [queues]", self.queue));
                String::new()
            }
        };
        let recipients = match self.recipient {
            RecipientEntry::Field(path) => Recipients::Field(field_name(&path)),
            RecipientEntry::Optional(path) => Recipients::Optional(field_name(&path)),
            RecipientEntry::Literal(address) => Recipients::Fixed(vec![address]),
            RecipientEntry::Setting(name) => match settings.get(&name) {
                Some(addresses) => Recipients::Fixed(addresses.clone()),
                None => {
                    faults.push(format!("recipient: {name:?} is not a setting with addresses"));
                    Recipients::Fixed(Vec::new())
                }
            },
        };
        let mut variables = BTreeMap::new();
        for (name, kind) in self.required {
            let name = snake_case(&name);
            variables.insert(name, Variable { kind, default: None, derived: None });
        }
        for (name, entry) in self.optional {
            let name = snake_case(&name);
            let (kind, max, default, from) = match entry {
                OptionalEntry::Type(kind) => (kind, None, None, None),
                OptionalEntry::Detailed(it) => (it.kind, it.max, it.default, it.from),
            };
            let kind = kind.at_most(max).unwrap_or_else(|fault| {
                faults.push(format!("variable {name:?}: {fault}"));
                VariableType::Text
            });
            let derived = from.as_deref().map(Derived::parse).transpose().unwrap_or_else(|fault| {
                faults.push(format!("variable {name:?}: from: {fault}"));
                None
            });
            let default = Some(default.unwrap_or_else(|| kind.empty_value()));
            if variables.insert(name.clone(), Variable { kind, default, derived }).is_some() {
                faults.push(format!("variable {name:?} is both required and optional"));
            }
        }
        let secrets: Vec<_> = self.secrets.iter().map(|name| snake_case(name)).collect();
        let inline_qr = self.inline_qr.as_deref().map(snake_case);
        for name in &secrets {
            if !variables.contains_key(name) {
                faults.push(format!("{name:?} is a secret but not a variable of this route"));
            }
        }
        if let Some(name) = &inline_qr {
            // The name becomes a Content-ID and part of URLs (RFC 2392).
            let is_plain =
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !is_plain
                || variables
                    .get(name)
                    .is_none_or(|found| *found.kind.unlimited() != VariableType::Text)
            {
                faults.push(format!(
                    "inline_qr: {name:?} is not a text variable of this route with a plain name"
                ));
            }
        }
        let calendar = self.calendar.map(|table| table.build(&variables, &mut faults));
        if let Some(rule) = &self.reminder
            && variables
                .get(&rule.showtime)
                .is_none_or(|found| *found.kind.unlimited() != VariableType::Time)
        {
            let name = &rule.showtime;
            faults.push(format!("reminder: {name:?} is not a time variable of this route"));
        }
        let brand = self.brand.map(|choice| match choice {
            BrandChoice::Field(BrandField { field, allow }) => {
                BrandChoice::Field(BrandField { field: snake_case(&field), allow })
            }
            fixed => fixed,
        });
        for name in brand.iter().flat_map(BrandChoice::names) {
            if !brands.contains_key(name) {
                faults.push(format!("brand: there is no [brand.{name}]"));
            }
        }
        if let Some(BrandChoice::Field(BrandField { field, allow })) = &brand {
            if !variables.contains_key(field) {
                faults.push(format!("brand: {field:?} is not a variable of this route"));
            }
            if allow.is_empty() {
                faults.push("brand: allow has no brand".to_owned());
            }
        }
        if self.lifecycle.is_some() && !variables.contains_key("booking_id") {
            faults.push("a route with a lifecycle needs the variable booking_id".into());
        }
        if self.lifecycle == Some(Lifecycle::Reminder) && !secrets.is_empty() {
            faults.push("a reminder is stored until it is due, so it can't have secrets".into());
        }
        if !secrets.is_empty() && self.max_age.is_none() {
            faults.push("a route with secrets needs a max_age".into());
        }
        let mut duration = |field: &str, text: Option<&str>| {
            text.map(duration::parse).transpose().unwrap_or_else(|reason| {
                faults.push(format!("{field} {reason}"));
                None
            })
        };
        let max_age = duration("max_age", self.max_age.as_deref());
        let retention = duration("retention", self.retention.as_deref());
        if let Some(pattern) = &self.business_key
            && pattern.matches('{').count() != pattern.matches('}').count()
        {
            faults.push(format!("business_key {pattern:?} has unbalanced braces"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Route {
            name: self.name,
            event: self.event,
            aliases: self.aliases,
            queue,
            channel: self.channel,
            template: snake_case(&self.template),
            recipients,
            reply_to: self.reply_to.map(|entry| field_name(&entry.field)),
            brand,
            inline_qr,
            calendar,
            lifecycle: self.lifecycle,
            reminder: self.reminder,
            priority: self.priority,
            priority_from: self.priority_from.as_deref().map(field_name),
            variables,
            secrets,
            max_age,
            retention,
            business_key: self.business_key.as_deref().map(key_pattern),
            on_unknown: self.on_unknown,
            rate_limited: self.rate_limited,
            security: self.security,
            correlation: self.correlation.iter().map(|name| snake_case(name)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::routing::{EMBEDDED_ROUTES, Lookup, RoutingTable};

    fn settings() -> HashMap<String, Vec<String>> {
        ["ADMIN_EMAILS", "CONTACT_EMAILS"].map(|name| (name.to_owned(), Vec::new())).into()
    }

    fn own(first: &str, event: &str) -> RoutingTable {
        let text = format!(
            r#"
            {first}
            [queues.own]
            name = "own"
            bind = []
            [[route]]
            name = "own"
            event = "{event}"
            queue = "own"
            channel = "email"
            template = "own"
            recipient = {{ field = "to" }}
            priority = "medium"
            "#
        );
        RoutingTable::parse_own(&text, &settings()).unwrap()
    }

    fn names<'a>(table: &'a RoutingTable, kind: &str) -> Vec<&'a str> {
        match table.lookup(kind) {
            Lookup::Routes(routes) => routes.iter().map(|route| route.name.as_str()).collect(),
            Lookup::Ignored | Lookup::Unknown => Vec::new(),
        }
    }

    #[test]
    fn own_routes_lie_over_the_shipped_ones() {
        let shipped = RoutingTable::parse(EMBEDDED_ROUTES, &settings()).unwrap();
        let table = own("", "order.shipped");
        assert_eq!(names(&table, "order.shipped"), ["own"]);
        assert_eq!(table.routes().len(), shipped.routes().len() + 1);
        assert_eq!(table.queues().len(), shipped.queues().len() + 1);
    }

    #[test]
    fn an_event_that_is_named_has_the_own_routes_alone() {
        let table = own("", "booking.rescheduled");
        assert_eq!(names(&table, "booking.rescheduled"), ["own"], "the copy for admins is gone");
        let ignores = own(r#"ignore = ["payment.failed"]"#, "order.shipped");
        assert!(matches!(ignores.lookup("payment.failed"), Lookup::Ignored));
        assert_eq!(names(&ignores, "payment.success"), ["payment-success"]);
    }

    #[test]
    fn a_queue_that_feeds_no_route_any_more_is_not_consumed() {
        let text = EMBEDDED_ROUTES.replace("notification.", "own.");
        let table = RoutingTable::parse_own(&text, &settings()).unwrap();
        assert!(table.queues().iter().all(|queue| queue.name.starts_with("own.")));
    }

    #[test]
    fn a_file_can_stand_alone() {
        let table = own("extends = false", "order.shipped");
        assert_eq!((table.routes().len(), table.queues().len()), (1, 1));
    }

    #[test]
    fn a_file_need_not_name_queues() {
        let text = r#"ignore = ["contact.submitted"]"#;
        let table = RoutingTable::parse_own(text, &settings()).unwrap();
        assert!(names(&table, "contact.submitted").is_empty());
    }
}
