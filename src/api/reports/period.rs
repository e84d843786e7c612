//! Time periods in queries.

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type},
};

use crate::{api::problem::Problem, event::Time};

/// The longest period, so that no request reads the whole audit.
pub(crate) const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Selects a period.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PeriodQuery {
    /// Start: a time (ISO 8601; UTC without an offset) or a day.
    #[param(schema_with = day_or_time)]
    desde: Option<String>,
    /// End: a time, or a day that is included. Default: now. At most 366 days after `desde`.
    #[param(schema_with = day_or_time)]
    hasta: Option<String>,
}

/// A period of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Period {
    /// Start, included.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) desde: Timestamp,
    /// End, excluded.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) hasta: Timestamp,
}

impl PeriodQuery {
    pub(crate) fn is_empty(&self) -> bool {
        self.desde.is_none() && self.hasta.is_none()
    }

    /// `hasta` defaults to now, `desde` to `default` before `hasta`.
    pub(crate) fn period(&self, default: SignedDuration) -> Result<Period, Problem> {
        let read = |name, text: &Option<String>, by_day: fn(Date) -> Option<Date>| {
            text.as_deref().map(|text| read(name, text, by_day)).transpose()
        };
        let hasta = read("hasta", &self.hasta, |day| day.tomorrow().ok())?;
        let hasta = hasta.unwrap_or_else(Timestamp::now);
        let desde = match read("desde", &self.desde, Some)? {
            Some(desde) => desde,
            None => hasta.checked_sub(default).map_err(|_| out_of_range("hasta"))?,
        };
        Period::between(desde, hasta)
    }
}

impl Period {
    pub(crate) fn between(desde: Timestamp, hasta: Timestamp) -> Result<Self, Problem> {
        if desde >= hasta {
            return Err(bad(format!("desde ({desde}) is not before hasta ({hasta})")));
        }
        if hasta.duration_since(desde) > LONGEST {
            return Err(bad("the period is longer than 366 days".to_owned()));
        }
        Ok(Self { desde, hasta })
    }

    /// Each day (UTC) that overlaps with the period.
    pub(crate) fn days(self) -> impl Iterator<Item = Date> {
        let day = |at: Timestamp| at.to_zoned(TimeZone::UTC).date();
        // The end is excluded.
        let last = day(self.hasta.checked_sub(1.nanosecond()).unwrap_or(self.hasta));
        day(self.desde).series(1.day()).take_while(move |day| *day <= last)
    }
}

fn read(name: &str, text: &str, by_day: fn(Date) -> Option<Date>) -> Result<Timestamp, Problem> {
    let time = match Time::read(text) {
        // An unencoded + of an offset arrives as a blank.
        None => Time::read(&text.replacen(' ', "+", 1)),
        found => found,
    };
    let zoned =
        match time.ok_or_else(|| bad(format!("{name}: {text:?} is neither a time nor a day")))? {
            Time::Date(day) => by_day(day).and_then(|day| Time::Date(day).zoned(None)),
            time => time.zoned(None),
        };
    zoned.map(|zoned| zoned.timestamp()).ok_or_else(|| out_of_range(name))
}

fn day_or_time() -> Schema {
    let text = |format| ObjectBuilder::new().schema_type(Type::String).format(Some(format));
    let formats = [KnownFormat::Date, KnownFormat::DateTime].map(SchemaFormat::KnownFormat);
    let [day, time] = formats.map(text);
    Schema::OneOf(OneOfBuilder::new().item(day).item(time).build())
}

fn out_of_range(name: &str) -> Problem {
    bad(format!("{name} is out of range"))
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

    fn asked(desde: &str, hasta: &str) -> Result<String, String> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let query = PeriodQuery { desde: some(desde), hasta: some(hasta) };
        match query.period(WEEK) {
            Ok(period) => Ok(format!("{} {}", period.desde, period.hasta)),
            Err(problem) => Err(serde_json::to_value(problem).unwrap()["detail"].to_string()),
        }
    }

    #[test]
    fn days_count_wholly_and_times_to_the_second() {
        for (desde, hasta, period) in [
            ("2026-01-01", "2026-01-31", "2026-01-01T00:00:00Z 2026-02-01T00:00:00Z"),
            ("2026-01-01", "2026-01-01", "2026-01-01T00:00:00Z 2026-01-02T00:00:00Z"),
            (
                "2026-01-01T10:00:00-05:00",
                "2026-01-02 00:00",
                "2026-01-01T15:00:00Z 2026-01-02T00:00:00Z",
            ),
            (
                "2026-01-01T10:00:00 02:00",
                "2026-01-02",
                "2026-01-01T08:00:00Z 2026-01-03T00:00:00Z",
            ),
            ("", "2026-01-08T00:00:00Z", "2026-01-01T00:00:00Z 2026-01-08T00:00:00Z"),
        ] {
            assert_eq!(asked(desde, hasta).as_deref(), Ok(period), "{desde} {hasta}");
        }
    }

    #[test]
    fn what_is_no_period_is_refused_in_words() {
        for (desde, hasta, words) in [
            ("yesterday", "", "desde: "),
            ("", "2026-13-01", "hasta: "),
            ("2026-01-02", "2026-01-01", "is not before"),
            ("2024-01-01", "2026-01-01", "366 days"),
            ("9000-01-01", "", "is not before"),
            ("", "9999-12-31", "out of range"),
            ("", "", ""),
        ] {
            match asked(desde, hasta) {
                Ok(_) => assert_eq!(words, "", "{desde} {hasta}"),
                Err(said) => assert!(!words.is_empty() && said.contains(words), "{said}"),
            }
        }
    }

    #[test]
    fn a_period_has_each_day_of_which_it_has_a_part() {
        let days = |desde: &str, hasta: &str| {
            Period::between(desde.parse().unwrap(), hasta.parse().unwrap()).unwrap().days().count()
        };
        assert_eq!(days("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), 1);
        assert_eq!(days("2026-01-01T23:59:59Z", "2026-01-02T00:00:01Z"), 2);
        assert_eq!(days("2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"), 365);
    }
}
