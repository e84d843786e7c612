//! Times on the command line: an instant, or a span from now.

use jiff::{Span, Timestamp, civil::DateTime, tz::TimeZone};

/// An instant such as `2030-01-31T20:00:00Z`, a date or time of day in UTC such as `2030-01-31`, or a
/// span before now such as `7d`.
pub(super) fn past(text: &str) -> Result<Timestamp, String> {
    instant(text, |span| -span.abs())
}

/// An instant, or a span from now such as `2h` or `-1d`.
pub(super) fn from_now(text: &str) -> Result<Timestamp, String> {
    instant(text, |span| span)
}

fn instant(text: &str, from_now: impl Fn(Span) -> Span) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    // Lists print times in UTC, so times without an offset are read as such. A time in a named zone
    // would be misread.
    let civil = text.parse::<DateTime>().ok().filter(|_| !text.contains('['));
    if let Some(civil) = civil {
        let time = civil.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
        return Ok(time.timestamp());
    }
    let span = text.parse().map_err(
        |_| "neither a time (2030-01-31T20:00:00Z, 2030-01-31) nor a duration (7d, 12h)",
    )?;
    let time = Timestamp::now().to_zoned(TimeZone::UTC).checked_add(from_now(span));
    time.map(|time| time.timestamp()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{from_now, past};

    #[test]
    fn dates_and_times_without_an_offset_are_utc() {
        for (text, time) in [
            ("2026-11-01", "2026-11-01T00:00:00Z"),
            ("2026-11-01 10:30:00", "2026-11-01T10:30:00Z"),
            ("2026-11-01 10:30:00Z", "2026-11-01T10:30:00Z"),
            ("2026-11-01T10:30", "2026-11-01T10:30:00Z"),
            ("2026-11-01T10:30:00-03:00", "2026-11-01T13:30:00Z"),
        ] {
            assert_eq!(past(text).map(|time| time.to_string()).as_deref(), Ok(time), "{text}");
        }
        assert!(past("7d").expect("a time") < from_now("7d").expect("a time"));
        for text in ["", "yesterday", "2026-13-01", "2026-11-01T10:00[Europe/Madrid]"] {
            assert!(past(text).is_err(), "{text}");
        }
    }
}
