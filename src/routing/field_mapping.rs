//! Maps the field names of an upstream service to those of the routes.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::Route;
use crate::event::{Event, snake_case};

/// The field names of some event types; `[[dialect]]` in the routes file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldMapping {
    pub(super) events: Vec<String>,
    pub(crate) fields: Option<String>,
    #[serde(default)]
    rename: BTreeMap<String, String>,
    locale: Option<String>,
}

impl FieldMapping {
    /// Converts all names to snake case, as events have them.
    pub(super) fn in_snake_case(mut self) -> Self {
        self.fields = self.fields.map(|name| snake_case(&name));
        let rename = self.rename.into_iter();
        self.rename = rename.map(|(a, b)| (snake_case(&a), snake_case(&b))).collect();
        self
    }

    /// What is left of it for these event types and their variables; `None` if nothing is.
    pub(super) fn limited_to(
        mut self,
        has_route: impl Fn(&str) -> bool,
        has_variable: impl Fn(&str, &str) -> bool,
    ) -> Option<Self> {
        self.events.retain(|kind| has_route(kind));
        let events = &self.events;
        self.rename
            .retain(|_, ours| events.iter().any(|kind| has_variable(kind, &snake_case(ours))));
        (!self.events.is_empty()).then_some(self)
    }

    /// The field names that a variable has in these events.
    pub(crate) fn source_names<'a>(&'a self, variable: &'a str) -> Vec<&'a str> {
        let theirs = self.rename.iter().filter(|(_, ours)| *ours == variable);
        let theirs: Vec<_> = theirs.map(|(theirs, _)| theirs.as_str()).collect();
        if theirs.is_empty() { vec![variable] } else { theirs }
    }

    /// Renames the event's fields to the names in the routes.
    pub(super) fn normalize(&self, event: &mut Event) {
        let fields = &mut event.fields;
        let nested = self.fields.as_ref().and_then(|name| fields.get_mut(name));
        let nested = nested.and_then(Value::as_object_mut).map(std::mem::take);
        // Outer fields decide who gets the mail and how: inner fields don't replace them.
        for (name, value) in nested.into_iter().flatten() {
            fields.entry(snake_case(&name)).or_insert(value);
        }
        for (theirs, ours) in &self.rename {
            if let Some(value) = fields.remove(theirs) {
                fields.entry(ours).or_insert(value);
            }
        }
        if let Some(locale) = &self.locale
            && event.text("locale").is_none()
        {
            event.fields.insert("locale".to_owned(), locale.as_str().into());
        }
    }

    /// Checks the mapping against the routes.
    pub(super) fn faults(
        &self,
        by_event: &HashMap<String, Vec<std::sync::Arc<Route>>>,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        let mut routes = Vec::new();
        for kind in &self.events {
            match by_event.get(kind) {
                Some(found) => routes.extend(found),
                None => faults.push(format!("no route is for {kind:?}")),
            }
        }
        for (theirs, ours) in &self.rename {
            if !routes.iter().any(|route| route.variables.contains_key(ours)) {
                faults.push(format!("rename: {theirs:?} to {ours:?}, which is no variable"));
            }
        }
        let is_tag = |tag: &str| tag.parse::<icu_locale_core::LanguageIdentifier>().is_ok();
        if let Some(locale) = self.locale.as_deref().filter(|locale| !is_tag(locale)) {
            faults.push(format!("locale: {locale:?} is no language, such as es or pt-BR"));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        event::{Properties, Sources, parse},
        routing::{Priority, RoutingTable},
    };

    const ROUTES: &str = r#"
        [queues.q]
        name = "q"
        bind = []
        [[dialect]]
        events = ["compra"]
        fields = "data"
        rename = { total = "total_amount", asientos = "seats" }
        locale = "es"
        [[route]]
        name = "purchase"
        event = "compra"
        queue = "q"
        channel = "email"
        template = "t"
        recipient = { field = "to" }
        priority = "medium"
        priority_from = "priority"
        required = { seats = "list" }
        optional = { total_amount = "amount", status = "text" }
        business_key = "{total_amount}"
    "#;

    fn fields(event: &Value) -> Value {
        let routing = RoutingTable::parse(ROUTES, &Default::default()).unwrap();
        let body = event.to_string();
        let mut event = parse(body.as_bytes(), &Properties::default(), "q").unwrap();
        routing.normalize(&mut event);
        Value::Object(event.fields)
    }

    #[test]
    fn nested_fields_come_out_under_the_names_of_the_routes() {
        let event = json!({
            "event_type": "compra", "to": "a@example.com", "total_amount": 5,
            "data": {"asientos": ["A1"], "total": 7, "to": "b@example.com", "status": "ok"},
        });
        let expected = json!({
            "event_type": "compra", "to": "a@example.com", "total_amount": 5, "data": {},
            "seats": ["A1"], "status": "ok", "locale": "es",
        });
        assert_eq!(fields(&event), expected);
    }

    #[test]
    fn names_in_pascal_case_are_those_of_the_events() {
        let routes = r#"
            [queues.q]
            name = "q"
            bind = []
            [[dialect]]
            events = ["e"]
            fields = "Data"
            rename = { TheirCode = "Code" }
            [[route]]
            name = "r"
            event = "e"
            queue = "q"
            channel = "email"
            template = "t"
            recipient = { field = "UserEmail" }
            reply_to = { field = "Sender.Email" }
            priority = "medium"
            priority_from = "Urgency"
            required = { Code = "text", BookingId = "text" }
            optional = { Device = { type = "text", from = "UserDevice" } }
            secrets = ["Code"]
            max_age = "10m"
            inline_qr = "Code"
            calendar = { method = "cancel", uid = "BookingId" }
            business_key = "b:{BookingId}:{Code}"
            correlation = ["BookingId"]
        "#;
        let routing = RoutingTable::parse(routes, &Default::default()).unwrap();
        let body = json!({
            "EventType": "e", "UserEmail": "a@example.com", "Sender": {"Email": "b@example.com"},
            "Urgency": "low", "BookingId": "B", "Data": {"TheirCode": "C", "UserDevice": "D"},
        });
        let mut event = parse(body.to_string().as_bytes(), &Properties::default(), "q").unwrap();
        routing.normalize(&mut event);
        let route = routing.route("r").unwrap();
        let variables = route.variables(&event, &Sources::default(), "es").unwrap();
        let expected = json!({"code": "C", "booking_id": "B", "device": "D"});
        assert_eq!(Value::Object(variables), expected);
        assert_eq!(route.recipients, crate::routing::route::Recipients::Field("user_email".into()));
        assert_eq!(route.reply_to(&event), Some("b@example.com"));
        assert_eq!(route.priority_of(&event), Priority::Low);
        assert_eq!(route.key(&event).as_deref(), Some("b:B:C"));
        assert_eq!(route.secret_values(&event), ["C"]);
        assert_eq!(route.inline_qr.as_deref(), Some("code"));
        assert_eq!(route.calendar.as_ref().unwrap().uid, "booking_id");
        assert_eq!(route.correlation, ["booking_id"]);
    }

    #[test]
    fn what_is_not_of_the_dialect_stays_as_it_is() {
        let other = json!({"event_type": "x", "data": {"total": 7}});
        assert_eq!(fields(&other), other);
        let odd = json!({"event_type": "compra", "data": "text", "locale": "en", "total": 1});
        let expected =
            json!({"event_type": "compra", "data": "text", "locale": "en", "total_amount": 1});
        assert_eq!(fields(&odd), expected);
    }

    #[test]
    fn an_event_may_say_how_urgent_it_is_where_the_route_lets_it() {
        let routing = RoutingTable::parse(ROUTES, &Default::default()).unwrap();
        let route = routing.route("purchase").unwrap();
        for (said, priority) in [
            (json!("low"), Priority::Low),
            (json!(" High"), Priority::High),
            (json!("soon"), Priority::Medium),
            (json!(1), Priority::Medium),
            (Value::Null, Priority::Medium),
        ] {
            let body = json!({"event_type": "compra", "priority": said}).to_string();
            let event = parse(body.as_bytes(), &Properties::default(), "q").unwrap();
            assert_eq!(route.priority_of(&event), priority, "{said}");
        }
    }

    #[test]
    fn a_message_without_an_event_type_is_known_by_its_template() {
        let body = br#"{"template": "compra", "data": {"asientos": ["A1"]}}"#;
        let mut event = parse(body, &Properties::default(), "q").unwrap();
        assert_eq!(event.kind, "compra");
        let routing = RoutingTable::parse(ROUTES, &Default::default()).unwrap();
        routing.normalize(&mut event);
        let route = routing.route("purchase").unwrap();
        let variables = route.variables(&event, &Sources::default(), "es").unwrap();
        assert_eq!(variables["seats"], json!(["A1"]));
    }

    #[test]
    fn each_fault_of_a_dialect_is_named() {
        let faults = |from: &str, to: &str| {
            let text = ROUTES.replace(from, to);
            RoutingTable::parse(&text, &Default::default()).unwrap_err().to_string()
        };
        let mapping = "[[dialect]]\nevents = [\"compra\"]\n[[route]]";
        for (from, to, fault) in [
            ("[\"compra\"]", "[\"compra\", \"venta\"]", "dialect 1: no route is for \"venta\""),
            ("= \"seats\" }", "= \"chairs\" }", "rename: \"asientos\" to \"chairs\", which is no"),
            ("locale = \"es\"", "locale = \"español\"", "dialect 1: locale: \"español\" is no"),
            ("[[route]]", mapping, "dialect 2: \"compra\" has a dialect already"),
            ("fields = ", "field = ", "unknown field `field`"),
        ] {
            let found = faults(from, to);
            assert!(found.contains(fault), "{found}");
        }
    }
}
