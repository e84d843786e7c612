//! The calendar entry of a route's mails.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Deserialize;

use super::Variable;
use crate::event::snake_case;

/// Which variables the calendar entry is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarRule {
    pub method: CalendarMethod,
    /// The variable that identifies the entry: the same in every mail about one booking.
    pub uid: String,
    pub summary: Option<String>,
    pub start: Option<String>,
    pub location: Option<String>,
    pub duration: SignedDuration,
}

/// The effect of a mail on a calendar entry (RFC 5546 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalendarMethod {
    /// Creates or updates the entry.
    Publish,
    /// Removes the entry.
    Cancel,
}

impl CalendarMethod {
    /// The name in the entry and in the part's media type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "PUBLISH",
            Self::Cancel => "CANCEL",
        }
    }
}

/// The rule as written in the routes file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CalendarTable {
    method: CalendarMethod,
    uid: String,
    summary: Option<String>,
    start: Option<String>,
    location: Option<String>,
    duration: Option<String>,
}

impl CalendarTable {
    pub(super) fn build(
        mut self,
        variables: &BTreeMap<String, Variable>,
        faults: &mut Vec<String>,
    ) -> CalendarRule {
        self.uid = snake_case(&self.uid);
        for name in [&mut self.summary, &mut self.start, &mut self.location].into_iter().flatten() {
            *name = snake_case(name);
        }
        let named = [Some(&self.uid), self.summary.as_ref(), self.start.as_ref()];
        for name in named.into_iter().chain([self.location.as_ref()]).flatten() {
            if !variables.contains_key(name) {
                faults.push(format!("calendar: {name:?} is not a variable of this route"));
            }
        }
        let publish = self.method == CalendarMethod::Publish;
        if publish && (self.summary.is_none() || self.start.is_none()) {
            faults.push("calendar: publish requires a summary and a start".into());
        }
        if self.start.is_some() != self.duration.is_some() {
            faults.push("calendar: start and duration require each other".into());
        }
        let duration = self.duration.map_or(Ok(SignedDuration::ZERO), |text| {
            text.parse().ok().filter(SignedDuration::is_positive).ok_or(text)
        });
        let duration = duration.unwrap_or_else(|text| {
            faults.push(format!(
                "calendar: duration {text:?} is not a duration such as \"2h\" or \"90m\""
            ));
            SignedDuration::ZERO
        });
        CalendarRule {
            method: self.method,
            uid: self.uid,
            summary: self.summary,
            start: self.start,
            location: self.location,
            duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::CalendarMethod;
    use crate::routing::{EMBEDDED_ROUTES, RoutingTable};

    fn with_emails() -> HashMap<String, Vec<String>> {
        ["ADMIN_EMAILS", "CONTACT_EMAILS"].map(|name| (name.to_owned(), Vec::new())).into()
    }

    #[test]
    fn bookings_are_published_and_called_off_under_one_name() {
        let routing = RoutingTable::parse(EMBEDDED_ROUTES, &with_emails()).unwrap();
        for (route, method, start) in [
            ("booking-confirmed", CalendarMethod::Publish, Some("showtime")),
            ("booking-rescheduled", CalendarMethod::Publish, Some("new_date")),
            ("booking-cancelled", CalendarMethod::Cancel, None),
        ] {
            let rule = routing.route(route).unwrap().calendar.as_ref().unwrap();
            assert_eq!((rule.method, rule.start.as_deref()), (method, start), "{route}");
            assert_eq!(rule.uid, "booking_id", "{route}");
            let hours = if start.is_some() { 2 } else { 0 };
            assert_eq!(rule.duration.unsigned_abs(), Duration::from_secs(hours * 3600), "{route}");
        }
        assert_eq!(routing.route("booking-rescheduled-admin").unwrap().calendar, None);
    }

    #[test]
    fn faults_of_the_parts_of_a_mail_are_reported_together() {
        let route = |calendar: &str| {
            format!(
                r#"
                [queues.q]
                name = "q"
                bind = []
                [[route]]
                name = "r"
                event = "e"
                queue = "q"
                channel = "email"
                template = "t"
                recipient = {{ field = "email" }}
                inline_qr = "code"
                priority = "high"
                required = {{ id = "text", seats = "list", at = "time" }}
                calendar = {{ {calendar} }}
                "#
            )
        };
        let faults =
            |text: &str| RoutingTable::parse(text, &with_emails()).unwrap_err().to_string();
        let found = faults(&route(
            r#"method = "publish", uid = "nr", location = "room", duration = "2 parsecs""#,
        ));
        assert_eq!(
            found.lines().collect::<Vec<_>>(),
            [
                r#"route "r": inline_qr: "code" is not a text variable of this route with a plain name"#,
                r#"route "r": calendar: "nr" is not a variable of this route"#,
                r#"route "r": calendar: "room" is not a variable of this route"#,
                r#"route "r": calendar: publish requires a summary and a start"#,
                r#"route "r": calendar: start and duration require each other"#,
                r#"route "r": calendar: duration "2 parsecs" is not a duration such as "2h" or "90m""#,
            ]
        );
        let negative = route(r#"method = "cancel", uid = "id", start = "at", duration = "-2h""#);
        assert!(faults(&negative).contains("duration \"-2h\" is not a"));
        assert!(faults(&route(r#"method = "request", uid = "id""#)).contains("request"));
    }
}
