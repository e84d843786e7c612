//! Times as publishers write them.

use jiff::{
    Timestamp, ToSpan, Zoned,
    civil::{Date, DateTime},
    fmt::{strtime::BrokenDownTime, temporal::Pieces},
    tz::{Offset, TimeZone},
};

/// 12-hour times, which ISO 8601 does not have.
const TWELVE_HOURS: [&str; 2] = ["%Y-%m-%d %I:%M %p", "%Y-%m-%d %I:%M:%S %p"];

/// A time, with the parts that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// A time with an offset. An offset of UTC is `None`, because it says nothing about the place.
    Instant(Timestamp, Option<Offset>),
    /// A local time without an offset.
    Civil(DateTime),
    Date(Date),
}

impl Time {
    /// Parses ISO 8601 with or without an offset (a blank may replace the `T`), `2024-12-15 7:30 PM`, and a
    /// date.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(midnight) = end_of_day(text) {
            return match Self::read(&midnight)? {
                Self::Instant(time, offset) => {
                    Some(Self::Instant(time.checked_add(24.hours()).ok()?, offset))
                }
                Self::Civil(time) => time.checked_add(1.day()).ok().map(Self::Civil),
                Self::Date(_) => None,
            };
        }
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            return text.parse().ok().map(Self::Date);
        }
        // RFC 9557, with a zone that gives the offset. The parser below ignores zones.
        if text.contains('[') {
            let time: Zoned = text.parse().ok()?;
            return Some(Self::Instant(time.timestamp(), Some(time.offset())));
        }
        if let Ok(instant) = text.parse() {
            let offset = Pieces::parse(text).ok().and_then(|pieces| pieces.to_numeric_offset());
            return Some(Self::Instant(instant, offset.filter(|offset| *offset != Offset::UTC)));
        }
        let civil = text.parse().ok().or_else(|| {
            // CLDR 42 has a narrow no-break space before AM and PM.
            let text = twelve_hours(&text.replace(['\u{a0}', '\u{202f}'], " "));
            let read = |format| BrokenDownTime::parse(format, &text).ok()?.to_datetime().ok();
            TWELVE_HOURS.into_iter().find_map(read)
        });
        civil.map(Self::Civil)
    }

    /// The time in `zone`, else with its own offset, else in UTC. A local time is a time in that zone, a
    /// date is its first moment. In a gap of the clocks the time moves forward by the gap, and of two
    /// equal times the first counts (RFC 5545, 3.3.5).
    pub(crate) fn zoned(self, zone: Option<&TimeZone>) -> Option<Zoned> {
        let zone = zone.cloned();
        match self {
            Self::Instant(instant, offset) => {
                let zone = zone.or_else(|| offset.map(TimeZone::fixed)).unwrap_or(TimeZone::UTC);
                Some(instant.to_zoned(zone))
            }
            Self::Civil(time) => time.to_zoned(zone.unwrap_or(TimeZone::UTC)).ok(),
            Self::Date(date) => date.to_zoned(zone.unwrap_or(TimeZone::UTC)).ok(),
        }
    }
}

/// A time at 24:00 as one at 00:00 of the same day.
fn end_of_day(text: &str) -> Option<String> {
    let (date, time) = (text.get(..11)?, text.get(11..)?);
    let after = time.strip_prefix("24:00")?;
    let after = after.strip_prefix(":00").unwrap_or(after);
    (!after.starts_with([':', '.', ','])).then(|| format!("{date}00:00:00{after}"))
}

/// `7:30 p. m.` and `7:30 p.m.`, as Spanish has them, as `7:30 pm`.
fn twelve_hours(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    for (suffix, short) in [("p. m.", "pm"), ("p.m.", "pm"), ("a. m.", "am"), ("a.m.", "am")] {
        if let Some(time) = lower.strip_suffix(suffix) {
            return format!("{}{short}", &text[..time.len()]);
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use jiff::{
        civil::{date, datetime},
        tz::{TimeZone, offset},
    };

    use super::Time;

    #[test]
    fn what_upstream_prints_is_read() {
        let instant = |text: &str| Some(Time::Instant(text.parse().unwrap(), None));
        let bogota = Time::Instant("2024-12-16T00:30:00Z".parse().unwrap(), Some(offset(-5)));
        let evening = Some(Time::Civil(datetime(2024, 12, 15, 19, 30, 0, 0)));
        for (text, time) in [
            ("2024-12-15T19:30:00-05:00", Some(bogota)),
            ("2024-12-15 19:30:00Z", instant("2024-12-15T19:30:00Z")),
            ("2024-12-15T19:30:00.123+00:00", instant("2024-12-15T19:30:00.123Z")),
            ("2024-12-15T19:30-05[America/Bogota]", Some(bogota)),
            ("2024-12-15T19:30[America/Bogota]", Some(bogota)),
            ("2024-12-15T19:30:00", evening),
            (" 2024-12-15 19:30\n", evening),
            ("2024-12-15 7:30 PM", evening),
            ("2024-12-15 07:30pm", evening),
            ("2024-12-15 7:30:00\u{202f}PM", evening),
            ("2024-12-15 7:30 p. m.", evening),
            ("2024-12-15 7:30\u{a0}p.\u{a0}m.", evening),
            ("2024-12-15 7:30 P.M.", evening),
            ("2024-12-14 24:00", Some(Time::Civil(datetime(2024, 12, 15, 0, 0, 0, 0)))),
            ("2024-12-31T24:00:00Z", instant("2025-01-01T00:00:00Z")),
            ("2024-12-15 12:05 AM", Some(Time::Civil(datetime(2024, 12, 15, 0, 5, 0, 0)))),
            ("2024-12-15 12:05 PM", Some(Time::Civil(datetime(2024, 12, 15, 12, 5, 0, 0)))),
            ("2024-12-15", Some(Time::Date(date(2024, 12, 15)))),
        ] {
            assert_eq!(Time::read(text), time, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_time_is_not_guessed() {
        for text in [
            "",
            "-",
            "tomorrow",
            "7:30 PM",
            "2024-12-32",
            "2024-02-30 10:00",
            "2024-12-15 13:30 PM",
            "2024-12-15 25:00",
            "2024-12-15 24:01",
            "2024-12-15T24:00:01Z",
            "2024-12-15T19:30[Mars/Olympus]",
            "15/12/2024 19:30",
            "1734305400",
            "2024-12-15 7:30 PM\r\nDTSTART:x",
        ] {
            assert_eq!(Time::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_time_without_an_offset_is_one_of_the_zone() {
        let madrid = TimeZone::get("Europe/Madrid").unwrap();
        for (text, shown) in [
            ("2024-07-01 20:00", "2024-07-01T20:00:00+02:00[Europe/Madrid]"),
            ("2024-07-01T20:00:00Z", "2024-07-01T22:00:00+02:00[Europe/Madrid]"),
            ("2024-12-15", "2024-12-15T00:00:00+01:00[Europe/Madrid]"),
            // On 31 March 02:00 became 03:00; on 27 October 03:00 became 02:00.
            ("2024-03-31 02:30", "2024-03-31T03:30:00+02:00[Europe/Madrid]"),
            ("2024-10-27 02:30", "2024-10-27T02:30:00+02:00[Europe/Madrid]"),
        ] {
            let zoned = Time::read(text).unwrap().zoned(Some(&madrid)).unwrap();
            assert_eq!(zoned.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn without_a_zone_a_time_is_shown_on_the_clock_it_was_written_by() {
        let shown = |text| Time::read(text).unwrap().zoned(None).unwrap().time().to_string();
        assert_eq!(shown("2024-12-15T19:30:00-05:00"), "19:30:00");
        assert_eq!(shown("2024-12-15T19:30:00+00:00"), "19:30:00");
        assert_eq!(shown("2024-12-15T19:30[America/Bogota]"), "19:30:00");
    }
}
