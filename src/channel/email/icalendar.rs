//! Writes a calendar entry as iCalendar (RFC 5545, RFC 5546).

use icalendar::{Calendar, Component, Event, Property};
use lettre::message::Mailbox;

use crate::{
    channel::{CalendarEntry, CalendarTime},
    routing::CalendarMethod,
};

/// The entry, with the sender of the mail as organizer. It has no attendees, so that no reader sends a
/// reply to the sender.
pub(super) fn ics(entry: &CalendarEntry, sender: &Mailbox) -> String {
    let mut event = Event::new();
    event
        .add_property("UID", format!("{}@{}", entry.uid, sender.email.domain()))
        .add_property("DTSTAMP", entry.stamp.strftime(INSTANT).to_string())
        .add_property("SEQUENCE", entry.sequence.to_string())
        .append_property(organizer(sender))
        .add_property(
            "STATUS",
            match entry.method {
                CalendarMethod::Publish => "CONFIRMED",
                CalendarMethod::Cancel => "CANCELLED",
            },
        );
    for (name, text) in [("SUMMARY", &entry.summary), ("LOCATION", &entry.location)] {
        if !text.is_empty() {
            event.add_property(name, text);
        }
    }
    // Times in UTC need no VTIMEZONE, and every calendar shows them in its owner's zone.
    match entry.time {
        None => {}
        Some(CalendarTime::Day(day)) => {
            let mut start = Property::new("DTSTART", day.strftime("%Y%m%d").to_string());
            event.append_property(start.add_parameter("VALUE", "DATE").done());
        }
        Some(CalendarTime::Clock { start, end }) => {
            event
                .add_property("DTSTART", start.strftime(CLOCK).to_string())
                .add_property("DTEND", end.strftime(CLOCK).to_string());
        }
        Some(CalendarTime::Hours { start, end }) => {
            event
                .add_property("DTSTART", start.strftime(INSTANT).to_string())
                .add_property("DTEND", end.strftime(INSTANT).to_string());
        }
    }
    let mut calendar = Calendar::empty();
    calendar
        .append_property(("VERSION", "2.0"))
        .append_property(("PRODID", "-//usher//usher//EN"))
        .append_property(("METHOD", entry.method.as_str()))
        .push(event);
    calendar.to_string()
}

/// RFC 5545 3.3.5, form 2.
const INSTANT: &str = "%Y%m%dT%H%M%SZ";
/// The same without a zone.
const CLOCK: &str = "%Y%m%dT%H%M%S";

fn organizer(sender: &Mailbox) -> Property {
    let mut organizer = Property::new("ORGANIZER", format!("mailto:{}", sender.email));
    if let Some(name) = &sender.name {
        // RFC 5545 3.2: a quotation mark can't be escaped.
        organizer.add_parameter("CN", &name.replace('"', "'"));
    }
    organizer
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn entry() -> CalendarEntry {
        CalendarEntry {
            method: CalendarMethod::Publish,
            uid: "CIN-8841".into(),
            sequence: 13_105_440,
            stamp: "2024-12-01T17:00:00.5Z".parse().unwrap(),
            summary: "La sociedad de la nieve".into(),
            location: "Sala 3".into(),
            time: Some(CalendarTime::Hours {
                start: "2024-12-05T20:15:00-05:00".parse().unwrap(),
                end: "2024-12-05T22:15:00-05:00".parse().unwrap(),
            }),
        }
    }

    fn written(entry: &CalendarEntry, sender: &str) -> String {
        ics(entry, &sender.parse().unwrap())
    }

    #[test]
    fn a_booking_is_published() {
        let lines = "BEGIN:VCALENDAR\n\
            VERSION:2.0\n\
            PRODID:-//usher//usher//EN\n\
            METHOD:PUBLISH\n\
            BEGIN:VEVENT\n\
            DTEND:20241206T031500Z\n\
            DTSTAMP:20241201T170000Z\n\
            DTSTART:20241206T011500Z\n\
            LOCATION:Sala 3\n\
            ORGANIZER;CN=Cine Ñuñoa:mailto:noreply@example.com\n\
            SEQUENCE:13105440\n\
            STATUS:CONFIRMED\n\
            SUMMARY:La sociedad de la nieve\n\
            UID:CIN-8841@example.com\n\
            END:VEVENT\n\
            END:VCALENDAR\n";
        let found = written(&entry(), "Cine Ñuñoa <noreply@example.com>");
        assert_eq!(found, lines.replace('\n', "\r\n"));
    }

    #[test]
    fn a_cancellation_needs_no_time_and_a_day_no_hour() {
        let cancelled = CalendarEntry {
            method: CalendarMethod::Cancel,
            summary: String::new(),
            location: String::new(),
            time: None,
            ..entry()
        };
        let cancelled = written(&cancelled, "noreply@example.com");
        for line in ["METHOD:CANCEL", "STATUS:CANCELLED", "UID:CIN-8841@example.com"] {
            assert!(cancelled.contains(&format!("\r\n{line}\r\n")), "{cancelled}");
        }
        for name in ["DTSTART", "DTEND", "SUMMARY", "LOCATION", "CN="] {
            assert!(!cancelled.contains(name), "{cancelled}");
        }
        let start = date(2024, 12, 5).at(20, 15, 0, 0);
        let clock = Some(CalendarTime::Clock { start, end: date(2024, 12, 5).at(22, 15, 0, 0) });
        let clock = written(&CalendarEntry { time: clock, ..entry() }, "noreply@example.com");
        assert!(clock.contains("\r\nDTSTART:20241205T201500\r\n"), "{clock}");
        let day = Some(CalendarTime::Day(date(2024, 12, 5)));
        let day = written(&CalendarEntry { time: day, ..entry() }, "noreply@example.com");
        assert!(day.contains("\r\nDTSTART;VALUE=DATE:20241205\r\n"), "{day}");
        assert!(!day.contains("DTEND"), "{day}");
    }

    #[test]
    fn no_value_breaks_out_of_its_line() {
        let hostile = CalendarEntry {
            uid: "B;1,2\\n:3".into(),
            summary: format!("¿Qué?; \"él\", ella\\nEND:VEVENT {}", "añó ".repeat(60)),
            location: "Sala 3:4;5".into(),
            ..entry()
        };
        let found = written(&hostile, "\"A \\\"B\\\"; C:D\" <noreply@example.com>");
        // RFC 5545 3.1: lines have at most 75 octets and end in CRLF; no fold splits a character.
        assert_eq!(found.matches('\n').count(), found.matches("\r\n").count());
        assert!(found.split("\r\n").all(|line| line.len() <= 75), "{found}");
        let unfolded = found.replace("\r\n ", "");
        let lines: Vec<&str> = unfolded.split("\r\n").collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("END:VEVENT")).count(), 1);
        let title = "SUMMARY:¿Qué?\\; \"él\"\\, ella\\\\nEND:VEVENT añó añó";
        assert!(lines.iter().any(|line| line.starts_with(title)), "{unfolded}");
        assert!(lines.contains(&"UID:B\\;1\\,2\\\\n:3@example.com"), "{unfolded}");
        assert!(lines.contains(&"LOCATION:Sala 3:4\\;5"), "{unfolded}");
        let organizer = "ORGANIZER;CN=\"A 'B'; C:D\":mailto:noreply@example.com";
        assert!(lines.contains(&organizer), "{unfolded}");
    }
}
