//! Durations as settings, routes and queue names write them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Units of [`format`], largest first, in milliseconds.
const UNITS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a bare number of seconds, or jiff's friendly format: `500ms`, `30s`, `1h 30m`, `7d`.
///
/// # Errors
/// The text is neither, the duration is negative, or it is finer than a millisecond.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let friendly = || {
        let span: Span = text.parse().ok()?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
        let duration = Duration::try_from(duration).ok()?;
        duration.subsec_nanos().is_multiple_of(1_000_000).then_some(duration)
    };
    seconds.or_else(friendly).ok_or_else(|| {
        "must be a duration such as 500ms, 30s, 10m, 1h or 7d; a bare number is seconds".to_owned()
    })
}

/// Writes a duration in the largest unit that divides it: `90m`, not `1h 30m`. The names of the delay
/// queues contain it, so jiff's own format can't replace it.
pub(crate) fn format(duration: Duration) -> String {
    let millis = duration.as_millis();
    let unit = UNITS.iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit));
    unit.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", millis / unit))
}

/// Milliseconds, as Redis and SQLite take them.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_in_every_unit() {
        for text in ["500ms", "30s", "10m", "1h", "7d", "0s", "125s"] {
            assert_eq!(parse(text).map(format).as_deref(), Ok(text));
        }
        for (text, seconds) in [("90", 90), ("1h 30m", 5_400), ("1.5h", 5_400), ("PT10M", 600)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_number_of_milliseconds_is_refused() {
        for text in [
            "",
            "s",
            "soon",
            "-1s",
            "10y",
            "1mo",
            "1µs",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
