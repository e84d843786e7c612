//! Makes the calendar entry of a mail: its event's values, in the places that the route names.

use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::compose::text;
use crate::{
    channel::{CalendarEntry, CalendarTime},
    event::{Event, Time},
    routing::{CalendarMethod, CalendarRule},
    text::one_line,
};

/// Longest UID, in bytes: what every calendar can keep (RFC 5545 3.8.4.7), less the domain.
const MAX_UID: usize = 200;

/// Longest title and place, in characters: calendars show them in one line.
const MAX_TEXT: usize = 250;

/// 2000-01-01T00:00:00Z, in seconds since 1970.
const MILLENNIUM: i64 = 946_684_800;

/// The entry.
///
/// # Errors
/// What it lacks, in words for a log: no value of the event is in them.
pub(super) fn entry(
    rule: &CalendarRule,
    variables: &Map<String, Value>,
    event: &Event,
    zone: Option<&TimeZone>,
) -> Result<CalendarEntry, &'static str> {
    let value = |name: &str| variables.get(name).and_then(text).unwrap_or_default();
    let line =
        |name: &Option<String>| calendar_text(&name.as_deref().map(value).unwrap_or_default());
    let uid = calendar_text(&value(&rule.uid));
    if uid.is_empty() || uid.len() > MAX_UID {
        return Err("what would name it is missing or too long");
    }
    let own_zone = event.zone();
    let zone = own_zone.as_ref().or(zone);
    let time = rule.start.as_deref().and_then(|start| time(&value(start), rule, zone));
    let summary = line(&rule.summary);
    if rule.method == CalendarMethod::Publish {
        if time.is_none() {
            return Err("its start can't be read");
        }
        if summary.is_empty() {
            return Err("it has no title");
        }
    }
    Ok(CalendarEntry {
        method: rule.method,
        uid,
        sequence: sequence(event, rule.method),
        stamp: event.happened_at(),
        summary,
        location: line(&rule.location),
        time,
    })
}

fn time(start: &str, rule: &CalendarRule, zone: Option<&TimeZone>) -> Option<CalendarTime> {
    let time = Time::read(start)?;
    if let Time::Date(day) = time {
        return Some(CalendarTime::Day(day));
    }
    if let (Time::Civil(start), None) = (time, zone) {
        return Some(CalendarTime::Clock { start, end: start.checked_add(rule.duration).ok()? });
    }
    let start = time.zoned(zone)?.timestamp();
    Some(CalendarTime::Hours { start, end: start.checked_add(rule.duration).ok()? })
}

/// Which version of the entry this is; calendars ignore what is lower than what they have (RFC 5546
/// 2.1.5), and of equals the later stamp counts. The event's own `sequence`, else the minutes from
/// 2000 to when it happened. Where neither is known, what is published is the first version and what
/// calls it off the last that there can be (RFC 5545 3.3.8).
fn sequence(event: &Event, method: CalendarMethod) -> i32 {
    let stated = event.fields.get("sequence").and_then(Value::as_u64);
    let minutes = || Some((event.occurred_at?.as_second() - MILLENNIUM) / 60);
    stated
        .and_then(|number| i32::try_from(number).ok())
        .or_else(|| i32::try_from(minutes()?).ok().filter(|number| *number >= 0))
        .unwrap_or(match method {
            CalendarMethod::Publish => 0,
            CalendarMethod::Cancel => i32::MAX,
        })
}

/// RFC 5545 3.3.11: no control characters in a text.
fn calendar_text(text: &str) -> String {
    one_line(text).chars().take(MAX_TEXT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, civil::date};
    use serde_json::json;

    use super::*;
    use crate::event::{Properties, parse};

    fn made(method: CalendarMethod, fields: &Value) -> Result<CalendarEntry, &'static str> {
        let mut event = json!({"event_type": "x", "booking_id": "B-1", "title": "Solaris"});
        for (name, value) in fields.as_object().unwrap() {
            event[name] = value.clone();
        }
        let event = event.to_string();
        let event = parse(event.as_bytes(), &Properties::default(), "q").unwrap();
        let name = |name: &str| Some(name.to_owned());
        let rule = CalendarRule {
            method,
            uid: "booking_id".into(),
            summary: name("title"),
            start: name("start"),
            location: name("room"),
            duration: SignedDuration::from_hours(2),
        };
        let zone = TimeZone::get("America/Bogota").unwrap();
        entry(&rule, &event.fields, &event, Some(&zone))
    }

    fn published(fields: &Value) -> Result<CalendarEntry, &'static str> {
        made(CalendarMethod::Publish, fields)
    }

    #[test]
    fn a_start_without_an_offset_is_in_the_events_zone_else_in_ours() {
        for (fields, start, end) in [
            (
                json!({"start": "2024-12-15 7:30 PM"}),
                "2024-12-16T00:30:00Z",
                "2024-12-16T02:30:00Z",
            ),
            (
                json!({"start": "2024-12-15 19:30", "timezone": "Europe/Madrid"}),
                "2024-12-15T18:30:00Z",
                "2024-12-15T20:30:00Z",
            ),
            (
                json!({"start": "2024-12-15 19:30", "timezone": "../../etc/passwd"}),
                "2024-12-16T00:30:00Z",
                "2024-12-16T02:30:00Z",
            ),
            (
                json!({"start": "2024-12-15T19:30:00Z", "timezone": "Europe/Madrid"}),
                "2024-12-15T19:30:00Z",
                "2024-12-15T21:30:00Z",
            ),
        ] {
            let (start, end) = (start.parse().unwrap(), end.parse().unwrap());
            let time = published(&fields).unwrap().time;
            assert_eq!(time, Some(CalendarTime::Hours { start, end }), "{fields}");
        }
        let day = published(&json!({"start": "2024-12-15"})).unwrap().time;
        assert_eq!(day, Some(CalendarTime::Day(date(2024, 12, 15))));
    }

    #[test]
    fn an_entry_that_lacks_something_is_not_made() {
        let good = json!({"start": "2024-12-15"});
        for (change, reason) in [
            (json!({"start": "soon"}), "its start can't be read"),
            (json!({"start": ""}), "its start can't be read"),
            (json!({"start": "9999-12-30T23:00:00Z"}), "its start can't be read"),
            (json!({"title": " \n"}), "it has no title"),
            (json!({"booking_id": ""}), "what would name it is missing or too long"),
            (json!({"booking_id": "x".repeat(201)}), "what would name it is missing or too long"),
        ] {
            let mut fields = good.clone();
            fields.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            assert_eq!(published(&fields).unwrap_err(), reason, "{change}");
        }
        let cancelled = made(CalendarMethod::Cancel, &json!({"title": null})).unwrap();
        assert_eq!((cancelled.time, cancelled.summary.as_str()), (None, ""));
    }

    #[test]
    fn texts_are_one_line_and_lists_are_joined() {
        let fields =
            json!({"start": "2024-12-15", "title": ["3 tickets", 7], "room": "A\r\nB\u{7f}"});
        let entry = published(&fields).unwrap();
        assert_eq!((entry.summary.as_str(), entry.location.as_str()), ("3 tickets, 7", "A  B"));
        let long = published(&json!({"start": "2024-12-15", "title": "ñ".repeat(1000)})).unwrap();
        assert_eq!(long.summary.chars().count(), 250);
    }

    #[test]
    fn later_events_have_higher_sequences_and_a_cancellation_without_a_time_the_highest() {
        let of = |method, fields: &Value| {
            let mut fields = fields.clone();
            fields["start"] = json!("2024-12-15");
            made(method, &fields).unwrap().sequence
        };
        for (fields, publish, cancel) in [
            (json!({"sequence": 3, "occurred_at": "2024-12-01T00:00:00Z"}), 3, 3),
            (json!({"sequence": -3, "occurred_at": "2000-01-01T01:00:00Z"}), 60, 60),
            (json!({"occurred_at": "2024-12-01T00:00:00Z"}), 13_105_440, 13_105_440),
            (json!({"sequence": 1u64 << 40}), 0, i32::MAX),
            (json!({"sequence": "4", "occurred_at": "1999-12-01T00:00:00Z"}), 0, i32::MAX),
            (json!({}), 0, i32::MAX),
        ] {
            assert_eq!(of(CalendarMethod::Publish, &fields), publish, "{fields}");
            assert_eq!(of(CalendarMethod::Cancel, &fields), cancel, "{fields}");
        }
    }
}
