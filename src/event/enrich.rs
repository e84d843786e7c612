//! Values derived from an event: the device of a user agent, the place of an IP address, the days until a
//! date.

use std::{collections::HashMap, fmt, net::IpAddr, path::Path};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};

use super::{Event, Time, snake_case};
use crate::config::Settings;

/// How a variable gets a value that the event does not have, as `from` in routes.toml says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Derived {
    /// `lockout_end`: the value of another field.
    Field(String),
    /// `occurred_at`: the time of the event, else of its first arrival.
    OccurredAt,
    /// `brand.support_url`: the value of a setting `BRAND_…`.
    Brand(String),
    /// `device(user_agent)`: such as `iPhone` or `Windows 10`.
    Device(String),
    /// `browser(user_agent)`: such as `Firefox 121`.
    Browser(String),
    /// `location(ip_address)`: city and country from the GeoIP file.
    Location(String),
    /// `until(lockout_end)`: seconds from the event to that time.
    Until(String),
    /// `days_until(expiration_date)`: whole days from the event's day to that day, negative after it.
    DaysUntil(String),
}

impl Derived {
    /// Parses the text of routes.toml.
    ///
    /// # Errors
    /// The fault, for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "occurred_at" {
            return Ok(Self::OccurredAt);
        }
        if let Some(field) = text.strip_prefix("brand.") {
            return match field {
                "name" | "website_url" | "support_email" | "support_url" | "security_url" => {
                    Ok(Self::Brand(field.to_owned()))
                }
                _ => Err(format!("{text:?} does not exist")),
            };
        }
        let Some((function, argument)) = text.split_once('(') else {
            return Ok(Self::Field(snake_case(text)));
        };
        let argument =
            argument.strip_suffix(')').ok_or_else(|| format!("{text:?} has no closing )"))?;
        let argument = snake_case(argument.trim());
        match function {
            "device" => Ok(Self::Device(argument)),
            "browser" => Ok(Self::Browser(argument)),
            "location" => Ok(Self::Location(argument)),
            "until" => Ok(Self::Until(argument)),
            "days_until" => Ok(Self::DaysUntil(argument)),
            _ => Err(format!("there is no function {function:?}")),
        }
    }
}

impl fmt::Display for Derived {
    /// The text of routes.toml.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::OccurredAt => f.write_str("occurred_at"),
            Self::Brand(name) => write!(f, "brand.{name}"),
            Self::Device(field) => write!(f, "device({field})"),
            Self::Browser(field) => write!(f, "browser({field})"),
            Self::Location(field) => write!(f, "location({field})"),
            Self::Until(field) => write!(f, "until({field})"),
            Self::DaysUntil(field) => write!(f, "days_until({field})"),
        }
    }
}

/// Sources of derived values besides the event.
#[derive(Default)]
pub struct Sources {
    brand: Map<String, Value>,
    /// Those of the routes file by their names.
    brands: HashMap<String, Map<String, Value>>,
    places: Option<maxminddb::Reader<Vec<u8>>>,
    zone: Option<TimeZone>,
}

impl Sources {
    /// # Errors
    /// The GeoIP file can't be read.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let brand = &settings.brand;
        let values = [
            ("name", Some(&brand.name)),
            ("website_url", brand.website_url.as_ref()),
            ("support_email", Some(&brand.support_email)),
            ("support_url", brand.support_url.as_ref()),
            ("security_url", brand.security_url.as_ref()),
        ];
        let brand = values
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.as_str().into())))
            .collect();
        let places = settings.geoip_file.as_deref().map(open).transpose()?;
        Ok(Self { brand, brands: HashMap::new(), places, zone: settings.zone() })
    }

    /// With the addresses of other brands.
    #[must_use]
    pub fn with_brands(self, brands: HashMap<String, Map<String, Value>>) -> Self {
        Self { brands, ..self }
    }

    /// The derived value; `None` if the event lacks the field. `language` is for names of places, `brand` the name of a
    /// brand other than that of the settings.
    pub fn derive(
        &self,
        derived: &Derived,
        event: &Event,
        language: &str,
        brand: Option<&str>,
    ) -> Option<Value> {
        let moment = |field: &str| {
            let zone = event.zone().or_else(|| self.zone.clone());
            Time::read(event.text(field)?)?.zoned(zone.as_ref())
        };
        Some(match derived {
            Derived::Field(name) => event.fields.get(name)?.clone(),
            // People read whole seconds.
            Derived::OccurredAt => {
                Timestamp::from_second(event.happened_at().as_second()).ok()?.to_string().into()
            }
            Derived::Brand(name) => match brand {
                None => self.brand.get(name)?.clone(),
                Some(brand) => self.brands.get(brand)?.get(name)?.clone(),
            },
            Derived::Device(field) => device(event.text(field)?)?.into(),
            Derived::Browser(field) => browser(event.text(field)?)?.into(),
            Derived::Location(field) => self.place(event.text(field)?, language)?.into(),
            Derived::Until(field) => {
                let end = moment(field)?.timestamp();
                (end.as_second() - event.happened_at().as_second()).max(0).into()
            }
            Derived::DaysUntil(field) => {
                let end = moment(field)?;
                let today = event.happened_at().to_zoned(end.time_zone().clone()).date();
                i64::from((end.date() - today).get_days()).into()
            }
        })
    }

    /// `Bogotá, Colombia`, or the part that the file knows.
    fn place(&self, address: &str, language: &str) -> Option<String> {
        let address: IpAddr = address.parse().ok()?;
        let city: maxminddb::geoip2::City =
            self.places.as_ref()?.lookup(address).ok()?.decode().ok()??;
        let name = |names: &maxminddb::geoip2::Names| {
            let local = match language.split('-').next().unwrap_or_default() {
                "es" => names.spanish,
                "pt" => names.brazilian_portuguese,
                "fr" => names.french,
                "de" => names.german,
                "ja" => names.japanese,
                "ru" => names.russian,
                "zh" => names.simplified_chinese,
                _ => names.english,
            };
            local.or(names.english).map(ToOwned::to_owned)
        };
        let parts = [name(&city.city.names), name(&city.country.names)];
        let place = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        (!place.is_empty()).then_some(place)
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("places", &self.places.is_some()).finish_non_exhaustive()
    }
}

fn open(path: &Path) -> Result<maxminddb::Reader<Vec<u8>>, String> {
    maxminddb::Reader::open_readfile(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Value of the user agent parser for unknown parts.
const UNKNOWN: &str = "UNKNOWN";

fn device(user_agent: &str) -> Option<String> {
    let parsed = woothee::parser::Parser::new().parse(user_agent)?;
    (parsed.os != UNKNOWN).then(|| parsed.os.to_owned())
}

fn browser(user_agent: &str) -> Option<String> {
    let parsed = woothee::parser::Parser::new().parse(user_agent)?;
    if parsed.name == UNKNOWN {
        return None;
    }
    let version = parsed.version.split('.').next().filter(|version| !version.is_empty());
    match version.filter(|_| parsed.version != UNKNOWN) {
        Some(version) if version.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(format!("{} {version}", parsed.name))
        }
        _ => Some(parsed.name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_browsers_are_named() {
        for (user_agent, device_is, browser_is) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.2210.91",
                Some("Windows 10"),
                Some("Edge 120"),
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Mobile/15E148 Safari/604.1",
                Some("iPhone"),
                Some("Safari 17"),
            ),
            ("curl/8.4.0", None, Some("HTTP Library")),
            ("garbage <script>", None, None),
        ] {
            assert_eq!(device(user_agent).as_deref(), device_is);
            assert_eq!(browser(user_agent).as_deref(), browser_is);
        }
    }

    #[test]
    fn times_are_counted_from_the_event() {
        let body =
            br#"{"event_type":"x","occurred_at":"2024-12-01T10:00:00Z","timezone":"America/Bogota",
            "end":"2024-12-01T05:15:00","date":"2024-12-08","past":"2024-01-01"}"#;
        let event = super::super::parse(body, &super::super::Properties::default(), "q").unwrap();
        let derive = |text: &str| {
            Sources::default().derive(&Derived::parse(text).unwrap(), &event, "en", None)
        };
        assert_eq!(derive("until(end)"), Some(900.into()));
        assert_eq!(derive("days_until(date)"), Some(7.into()));
        assert_eq!(derive("days_until(past)"), Some((-335).into()));
        assert_eq!(derive("occurred_at"), Some("2024-12-01T10:00:00Z".into()));
        assert_eq!(derive("until(nothing)"), None);
        assert_eq!(derive("location(end)"), None);
    }

    #[test]
    fn an_event_without_a_time_happened_when_it_first_arrived() {
        let body = br#"{"event_type":"x","end":"2024-12-01T10:15:00Z"}"#;
        let mut event =
            super::super::parse(body, &super::super::Properties::default(), "q").unwrap();
        event.arrived_at = "2024-12-01T10:00:00Z".parse().unwrap();
        let derive = |text: &str| {
            Sources::default().derive(&Derived::parse(text).unwrap(), &event, "en", None)
        };
        assert_eq!(derive("until(end)"), Some(900.into()));
        assert_eq!(derive("occurred_at"), Some("2024-12-01T10:00:00Z".into()));
    }

    #[test]
    fn what_can_not_be_derived_is_said_when_routes_are_read() {
        for text in ["shout(x)", "device(user_agent", "brand.secret"] {
            assert!(Derived::parse(text).is_err(), "{text}");
        }
    }
}
