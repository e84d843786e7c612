//! Reads times as upstream services print them.

use jiff::{
    Timestamp, Zoned,
    civil::{Date, DateTime},
    tz::TimeZone,
};

/// A time as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// With an offset or `Z`: one point in time everywhere.
    Instant(Timestamp),
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
        return Some(Moment::Instant(instant));
    }
    // Of a text with both, the longer form takes all of it.
    if text.len() <= 10 {
        return text.parse().ok().map(Moment::Day);
    }
    let civil = text.parse::<DateTime>().or_else(|_| DateTime::strptime("%Y-%m-%d %I:%M %p", text));
    civil.ok().map(Moment::Civil)
}

impl Moment {
    /// The point in time, where `zone` says which clock a time without an offset is of; a day
    /// begins at midnight. Times that clocks skip or repeat are read as RFC 5545 3.3.5 does.
    pub fn in_zone(self, zone: &TimeZone) -> Option<Zoned> {
        match self {
            Self::Instant(instant) => Some(instant.to_zoned(zone.clone())),
            Self::Civil(time) => time.to_zoned(zone.clone()).ok(),
            Self::Day(date) => date.to_zoned(zone.clone()).ok(),
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
        assert_eq!(
            read("2024-12-15T19:30:00-05:00"),
            Some(Moment::Instant("2024-12-16T00:30:00Z".parse().unwrap()))
        );
        for text in ["", "soon", "15/12/2024", "2024-13-01", "2024-12-15 25:00"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn clocks_that_skip_and_repeat_are_read_as_calendars_do() {
        let zone = TimeZone::get("America/New_York").unwrap();
        let instant = |text| read(text).unwrap().in_zone(&zone).unwrap().timestamp().to_string();
        assert_eq!(instant("2024-03-10 2:30 AM"), "2024-03-10T07:30:00Z");
        assert_eq!(instant("2024-11-03 1:30 AM"), "2024-11-03T05:30:00Z");
        assert_eq!(instant("2024-07-01 12:00 PM"), "2024-07-01T16:00:00Z");
    }
}
