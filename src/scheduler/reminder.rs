//! The time of reminders.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::event::Time;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoReminder {
    #[error("it would be in the past")]
    Past,
    /// `showtime` can't be parsed.
    #[error("its showtime can't be read")]
    Unreadable,
    /// `showtime` has no zone and `TIMEZONE` is not set.
    #[error("its showtime has no zone, and TIMEZONE is not set")]
    NoZone,
}

/// `before` ahead of the showtime in elapsed time. A change of the clocks in between makes it
/// neither longer nor shorter.
pub fn remind_at(
    showtime: &str,
    zone: Option<&TimeZone>,
    before: Duration,
    now: Timestamp,
) -> Result<Timestamp, NoReminder> {
    let time = Time::read(showtime).ok_or(NoReminder::Unreadable)?;
    if zone.is_none() && !matches!(time, Time::Instant(..)) {
        return Err(NoReminder::NoZone);
    }
    let showtime = time.zoned(zone).ok_or(NoReminder::Unreadable)?.timestamp();
    let before = SignedDuration::try_from(before).map_err(|_| NoReminder::Unreadable)?;
    let due = showtime.checked_sub(before).map_err(|_| NoReminder::Unreadable)?;
    if due > now { Ok(due) } else { Err(NoReminder::Past) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(showtime: &str, zone: Option<&str>) -> Result<String, NoReminder> {
        let zone = zone.map(|name| TimeZone::get(name).unwrap());
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        remind_at(showtime, zone.as_ref(), Duration::from_secs(3 * 3600), now)
            .map(|due| due.to_string())
    }

    #[test]
    fn it_is_three_real_hours_before_the_show() {
        for (showtime, zone, due) in [
            ("2024-12-15T19:30:00-05:00", None, "2024-12-15T21:30:00Z"),
            ("2024-12-15 7:30 PM", Some("America/Bogota"), "2024-12-15T21:30:00Z"),
            ("2024-12-15T19:30:00-05:00", Some("Europe/Madrid"), "2024-12-15T21:30:00Z"),
            ("2025-01-01T03:00:01Z", None, "2025-01-01T00:00:01Z"),
            // The clocks went from 02:00 to 03:00, so 23:30 of the day before is three hours away.
            ("2024-03-31 03:30", Some("Europe/Madrid"), "2024-03-30T22:30:00Z"),
            // The clocks went from 03:00 back to 02:00.
            ("2024-10-27 03:30", Some("Europe/Madrid"), "2024-10-26T23:30:00Z"),
            // 02:30 was shown twice: the first counts.
            ("2024-10-27 02:30", Some("Europe/Madrid"), "2024-10-26T21:30:00Z"),
            // A skipped time counts as later by the length of the gap.
            ("2024-03-31 02:30", Some("Europe/Madrid"), "2024-03-30T22:30:00Z"),
            ("2024-12-15", Some("UTC"), "2024-12-14T21:00:00Z"),
        ] {
            assert_eq!(at(showtime, zone).as_deref(), Ok(due), "{showtime} {zone:?}");
        }
    }

    #[test]
    fn what_has_no_reminder_says_why() {
        assert_eq!(at("2024-01-01T03:00:00Z", None), Err(NoReminder::Past));
        assert_eq!(at("1999-01-01T03:00:00Z", None), Err(NoReminder::Past));
        assert_eq!(at("tonight", Some("UTC")), Err(NoReminder::Unreadable));
        assert_eq!(at("2024-12-15 7:30 PM", None), Err(NoReminder::NoZone));
        assert_eq!(at("2024-12-15", None), Err(NoReminder::NoZone));
        assert_eq!(at("-009999-01-02T01:00:00Z", None), Err(NoReminder::Unreadable));
    }
}
