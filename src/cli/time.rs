//! Times on the command line: an instant, or a span from now.

use jiff::{Span, Timestamp, tz::TimeZone};

/// An instant such as `2030-01-31T20:00:00Z`, or a span before now such as `7d`.
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
    let span = text.parse().map_err(|_| "neither a time nor a duration")?;
    let time = Timestamp::now().to_zoned(TimeZone::UTC).checked_add(from_now(span));
    time.map(|time| time.timestamp()).map_err(|error| error.to_string())
}
