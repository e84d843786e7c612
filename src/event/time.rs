//! Reads times as upstream services print them.

use jiff::{
    Timestamp, Zoned,
    civil::{Date, DateTime},
    fmt::temporal::Pieces,
    tz::{Offset, TimeZone},
};

/// A time as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// With an offset or `Z`: one point in time everywhere. The offset is that of the clock it was
    /// written by; none where that is UTC, which says nothing about the place.
    Instant(Timestamp, Option<Offset>),
    /// Without one: what a clock on the spot shows.
    Civil(DateTime),
    /// A day.
    Day(Date),
}

/// Reads ISO 8601 with or without an offset, `2024-12-15 19:30`, `2024-12-15 7:30 PM` and
/// `2024-12-15`.
pub fn read(text: &str) -> Option<Moment> {
    let text = text.trim();
    if let Ok(instant) = text.parse::<Timestamp>() {
        let offset = Pieces::parse(text).ok().and_then(|pieces| pieces.to_numeric_offset());
        return Some(Moment::Instant(instant, offset.filter(|offset| *offset != Offset::UTC)));
    }
    // Of a text with both, the longer form takes all of it.
    if text.len() <= 10 {
        return text.parse().ok().map(Moment::Day);
    }
    let civil = text.parse::<DateTime>().or_else(|_| DateTime::strptime("%Y-%m-%d %I:%M %p", text));
    civil.ok().map(Moment::Civil)
}

impl Moment {
    /// The point in time on the clocks of `zone`, else of where it was written, else of UTC. A day
    /// begins at midnight; times that clocks skip or repeat are read as RFC 5545 3.3.5 does.
    pub fn in_zone(self, zone: Option<&TimeZone>) -> Option<Zoned> {
        let zone = zone.cloned();
        match self {
            Self::Instant(instant, offset) => {
                let zone = zone.or_else(|| offset.map(TimeZone::fixed)).unwrap_or(TimeZone::UTC);
                Some(instant.to_zoned(zone))
            }
            Self::Civil(time) => time.to_zoned(zone.unwrap_or(TimeZone::UTC)).ok(),
            Self::Day(date) => date.to_zoned(zone.unwrap_or(TimeZone::UTC)).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_prints_is_read() {
        let civil = |text: &str| Some(Moment::Civil(text.parse().unwrap()));
        assert_eq!(read("2024-12-15 7:30 PM"), civil("2024-12-15T19:30"));
        assert_eq!(read("2024-12-15 07:30 am"), civil("2024-12-15T07:30"));
        assert_eq!(read(" 2024-12-15 19:30 "), civil("2024-12-15T19:30"));
        assert_eq!(read("2024-12-15T19:30:05"), civil("2024-12-15T19:30:05"));
        assert_eq!(read("2024-12-15"), Some(Moment::Day("2024-12-15".parse().unwrap())));
        let instant =
            |offset| Some(Moment::Instant("2024-12-16T00:30:00Z".parse().unwrap(), offset));
        assert_eq!(read("2024-12-15T19:30:00-05:00"), instant(Some(Offset::constant(-5))));
        assert_eq!(read("2024-12-16T00:30:00Z"), instant(None));
        assert_eq!(read("2024-12-16T00:30:00+00:00"), instant(None));
        for text in ["", "soon", "15/12/2024", "2024-13-01", "2024-12-15 25:00"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn instants_are_shown_as_written_unless_a_zone_is_asked_for() {
        let shown = |zone: Option<&TimeZone>| {
            read("2024-12-15T19:30:00-05:00").unwrap().in_zone(zone).unwrap().time().to_string()
        };
        assert_eq!(shown(None), "19:30:00");
        assert_eq!(shown(Some(&TimeZone::get("Europe/Madrid").unwrap())), "01:30:00");
    }

    #[test]
    fn clocks_that_skip_and_repeat_are_read_as_calendars_do() {
        let zone = TimeZone::get("America/New_York").unwrap();
        let instant =
            |text| read(text).unwrap().in_zone(Some(&zone)).unwrap().timestamp().to_string();
        assert_eq!(instant("2024-03-10 2:30 AM"), "2024-03-10T07:30:00Z");
        assert_eq!(instant("2024-11-03 1:30 AM"), "2024-11-03T05:30:00Z");
        assert_eq!(instant("2024-07-01 12:00 PM"), "2024-07-01T16:00:00Z");
    }
}
