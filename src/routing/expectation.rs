//! `[[expect]]`: events that always come. When one has not come for too long, something upstream is silent.

use std::time::Duration;

use jiff::{
    Timestamp,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};
use serde::Deserialize;

use crate::duration;

/// A silence is not measured further back.
const LONGEST: Duration = Duration::from_secs(35 * 86_400);
/// Longest `within`.
const LONGEST_WITHIN: Duration = Duration::from_secs(30 * 86_400);
const SHORTEST_WITHIN: Duration = Duration::from_secs(60);

/// An event of this type comes at least once within some time, except in quiet hours.
#[derive(Debug)]
pub struct Expectation {
    pub event: String,
    pub within: Duration,
    quiet: Vec<QuietHours>,
    /// `None`: that of the settings, else UTC.
    zone: Option<TimeZone>,
}

/// From a time of some weekdays until a time of the same or the next day.
#[derive(Debug, PartialEq, Eq)]
struct QuietHours {
    /// Empty: every day.
    days: Vec<Weekday>,
    start: Time,
    /// `None`: midnight at the end of the day.
    end: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectEntry {
    event: String,
    within: String,
    #[serde(default)]
    quiet: Vec<String>,
    timezone: Option<String>,
}

impl ExpectEntry {
    pub(super) fn build(self) -> Result<Expectation, Vec<String>> {
        let mut faults = Vec::new();
        let within = duration::parse(&self.within).and_then(|within| {
            match (SHORTEST_WITHIN..=LONGEST_WITHIN).contains(&within) {
                true => Ok(within),
                false => Err("must be from 1m to 30d".to_owned()),
            }
        });
        let within = within.unwrap_or_else(|fault| {
            faults.push(format!("within: {fault}"));
            LONGEST_WITHIN
        });
        let mut quiet = Vec::new();
        for text in &self.quiet {
            match QuietHours::parse(text) {
                Some(hours) => quiet.push(hours),
                None => faults.push(format!(
                    "quiet: {text:?} must be hours such as \"23:00-07:00\" or \"sat,sun 00:00-24:00\""
                )),
            }
        }
        let zone = self.timezone.as_deref().map(TimeZone::get).transpose().unwrap_or_else(|_| {
            faults.push("timezone: must be an IANA time zone such as America/Bogota".to_owned());
            None
        });
        match faults.is_empty() {
            true => Ok(Expectation { event: self.event, within, quiet, zone }),
            false => Err(faults),
        }
    }
}

impl Expectation {
    /// How long the event has not come by now, quiet hours aside. `zone` is that of the settings.
    pub fn silence(&self, since: Timestamp, now: Timestamp, zone: Option<&TimeZone>) -> Duration {
        let utc = TimeZone::UTC;
        let zone = self.zone.as_ref().or(zone).unwrap_or(&utc);
        let since = now.checked_sub(LONGEST).map_or(since, |earliest| since.max(earliest));
        let between = |from: Timestamp, to: Timestamp| {
            Duration::try_from(to.duration_since(from)).unwrap_or_default()
        };
        let (mut silence, mut from) = (Duration::ZERO, since);
        for (start, end) in self.quiet_between(since, now, zone) {
            silence += between(from, start.clamp(from, now.max(from)));
            from = from.max(end);
        }
        silence + between(from, now)
    }

    /// The quiet hours that end after `since` and begin before `now`, by their beginning.
    fn quiet_between(
        &self,
        since: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Vec<(Timestamp, Timestamp)> {
        let mut quiet = Vec::new();
        let last = now.to_zoned(zone.clone()).date();
        // The night before may end on the first day.
        let mut date = since.to_zoned(zone.clone()).date().yesterday();
        while let Ok(day) = date
            && day <= last
        {
            let hours = self.quiet.iter().filter(|hours| hours.begins_on(day));
            quiet.extend(hours.filter_map(|hours| hours.on(day, zone)));
            date = day.tomorrow();
        }
        quiet.retain(|(start, end)| *end > since && *start < now);
        quiet.sort_unstable();
        quiet
    }
}

impl QuietHours {
    /// `23:00-07:00` or `sat,sun 00:00-24:00`; `None` if it is neither.
    fn parse(text: &str) -> Option<Self> {
        let (days, hours) = text.trim().rsplit_once(' ').unwrap_or(("", text.trim()));
        let days = days.split(',').map(str::trim).filter(|day| !day.is_empty());
        let days: Option<Vec<Weekday>> = days.map(weekday).collect();
        let (start, end) = hours.split_once('-')?;
        let (start, end) = (
            start.parse().ok()?,
            match end {
                "24:00" => None,
                end => Some(end.parse().ok()?),
            },
        );
        Some(Self { days: days?, start, end })
    }

    fn begins_on(&self, day: Date) -> bool {
        self.days.is_empty() || self.days.contains(&day.weekday())
    }

    fn on(&self, day: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let at = |day: Date, time: Time| {
            Some(day.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp())
        };
        let start = at(day, self.start)?;
        let end = match self.end {
            Some(end) if end > self.start => at(day, end),
            end => at(day.tomorrow().ok()?, end.unwrap_or_default()),
        };
        Some((start, end?))
    }
}

fn weekday(name: &str) -> Option<Weekday> {
    Some(match name {
        "mon" => Weekday::Monday,
        "tue" => Weekday::Tuesday,
        "wed" => Weekday::Wednesday,
        "thu" => Weekday::Thursday,
        "fri" => Weekday::Friday,
        "sat" => Weekday::Saturday,
        "sun" => Weekday::Sunday,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectation(quiet: &[&str], timezone: Option<&str>) -> Expectation {
        let entry = ExpectEntry {
            event: "payment.success".to_owned(),
            within: "30m".to_owned(),
            quiet: quiet.iter().map(|it| (*it).to_owned()).collect(),
            timezone: timezone.map(ToOwned::to_owned),
        };
        entry.build().unwrap()
    }

    fn minutes(expectation: &Expectation, since: &str, now: &str) -> u64 {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        expectation.silence(at(since), at(now), None).as_secs() / 60
    }

    #[test]
    fn quiet_hours_do_not_count() {
        let always = expectation(&[], None);
        assert_eq!(minutes(&always, "2026-11-27T10:00:00Z", "2026-11-27T10:45:00Z"), 45);
        assert_eq!(minutes(&always, "2026-11-27T10:45:00Z", "2026-11-27T10:00:00Z"), 0);
        // In Bogota it is five hours earlier.
        let nights = expectation(&["23:00-07:00", "22:30-23:30"], Some("America/Bogota"));
        for (since, now, silent) in [
            ("2026-11-28T03:00:00Z", "2026-11-28T03:10:00Z", 10),
            ("2026-11-28T03:00:00Z", "2026-11-28T05:00:00Z", 30),
            ("2026-11-28T03:00:00Z", "2026-11-28T12:20:00Z", 50),
            ("2026-11-28T06:00:00Z", "2026-11-28T11:00:00Z", 0),
            ("2026-11-27T12:00:00Z", "2026-11-29T12:00:00Z", 2 * 930),
        ] {
            assert_eq!(minutes(&nights, since, now), silent, "{since} to {now}");
        }
        let weekdays = expectation(&["sat, sun 00:00-24:00"], None);
        // Friday to Monday.
        assert_eq!(minutes(&weekdays, "2026-11-27T23:00:00Z", "2026-11-30T00:30:00Z"), 90);
    }

    #[test]
    fn a_night_with_a_change_of_the_clock_is_as_long_as_it_is() {
        let nights = expectation(&["00:00-06:00"], Some("Europe/Madrid"));
        // From 23:00 to 07:00 by the clock, nine hours.
        assert_eq!(minutes(&nights, "2026-10-24T21:00:00Z", "2026-10-25T06:00:00Z"), 120);
    }

    #[test]
    fn every_fault_is_reported() {
        let entry = ExpectEntry {
            event: "payment.success".to_owned(),
            within: "5s".to_owned(),
            quiet: ["23:00-7", "mo 00:00-24:00", "25:00-26:00", "fri 10:00-12:00"]
                .map(ToOwned::to_owned)
                .into(),
            timezone: Some("Mars/Olympus".to_owned()),
        };
        assert_eq!(entry.build().unwrap_err().len(), 5);
    }
}
