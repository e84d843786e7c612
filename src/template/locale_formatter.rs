//! Values as people write them in one locale: times, amounts, durations, lists and plurals.
//!
//! A variable is turned into words by its type before a template sees it, so that every template
//! just prints it, those in the database too.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use icu_calendar::{Date, Iso};
use icu_datetime::{
    DateTimeFormatter,
    fieldsets::{Combo, T, YMD, YMDE, YMDET, enums::DateFieldSet, zone::LocalizedOffsetShort},
    options::TimePrecision,
};
use icu_decimal::{DecimalFormatter, input::Decimal as Digits};
use icu_list::{ListFormatter, options::ListFormatterOptions};
use icu_locale_core::Locale;
use icu_plurals::{PluralCategory, PluralOperands, PluralRules};
use icu_time::{DateTime, TimeZoneInfo, ZonedDateTime, zone::models::AtTime};
use jiff::{Zoned, civil, tz::TimeZone};
use jiff_icu::ConvertFrom as _;
use rust_decimal::{Decimal, RoundingStrategy};

use crate::event::Time;

/// The ways of writing of all locales that were asked for.
pub(super) struct Locales {
    default: Arc<LocaleFormatter>,
    made: RwLock<HashMap<String, Arc<LocaleFormatter>>>,
}

/// Most locales that are kept; a language has fewer regions.
const MAX_LOCALES: usize = 64;

/// Longest tag that is looked at, in bytes (RFC 5646 section 4.4.1); of a longer one the language.
const MAX_TAG_BYTES: usize = 35;

impl Locales {
    /// `default` is a tag such as `es-CO`, for events that name none, or none that there are
    /// templates for.
    pub(super) fn new(default: &str) -> Self {
        let english = || LocaleFormatter::new("en", "en");
        let default =
            supported(default).and_then(|language| LocaleFormatter::new(language, default));
        // English is among the data that the binary carries.
        let default = default.or_else(english).unwrap_or_else(|| unreachable!());
        Self { default: Arc::new(default), made: RwLock::default() }
    }

    /// The words for a tag. `es-CO`, `es_MX` and `ES` are all Spanish; a language without a region
    /// takes the default's, if that is of the same language.
    pub(super) fn of(&self, tag: Option<&str>) -> Arc<LocaleFormatter> {
        let Some((tag, language)) = tag.and_then(|tag| Some((tag, supported(tag)?))) else {
            return self.default.clone();
        };
        let tag = if tag.len() > MAX_TAG_BYTES { language } else { tag };
        if tag == self.default.tag || (tag == language && language == self.default.language) {
            return self.default.clone();
        }
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner).get(tag).cloned();
        if let Some(words) = made {
            return words;
        }
        let whole = LocaleFormatter::new(language, &tag.replace('_', "-"));
        let Some(words) = whole.or_else(|| LocaleFormatter::new(language, language)) else {
            return self.default.clone();
        };
        let words = Arc::new(words);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if made.len() < MAX_LOCALES {
            made.insert(tag.to_owned(), words.clone());
        }
        words
    }
}

/// The language of a tag, if there are templates in it.
fn supported(tag: &str) -> Option<&'static str> {
    let language = tag.split(['-', '_']).next()?;
    super::LANGUAGES.into_iter().find(|supported| supported.eq_ignore_ascii_case(language))
}

/// One locale's ways of writing.
pub(super) struct LocaleFormatter {
    /// The language of the templates.
    pub(super) language: &'static str,
    /// The whole tag, such as `es-CO`.
    pub(super) tag: String,
    locale: Locale,
    day: DateTimeFormatter<YMD>,
    time: DateTimeFormatter<YMDET>,
    instant: DateTimeFormatter<Combo<YMDET, LocalizedOffsetShort>>,
    list: ListFormatter,
    plural: PluralRules,
}

impl LocaleFormatter {
    /// For a tag whose language there are templates in.
    pub(super) fn new(language: &'static str, tag: &str) -> Option<Self> {
        let locale: Locale = tag.parse().ok()?;
        let minutes = YMDET::long().with_time_precision(TimePrecision::Minute);
        let zoned = minutes.with_zone(LocalizedOffsetShort);
        Some(Self {
            language,
            tag: locale.to_string(),
            day: DateTimeFormatter::try_new((&locale).into(), YMD::long()).ok()?,
            time: DateTimeFormatter::try_new((&locale).into(), minutes).ok()?,
            instant: DateTimeFormatter::try_new((&locale).into(), zoned).ok()?,
            list: ListFormatter::try_new_and((&locale).into(), ListFormatterOptions::default())
                .ok()?,
            plural: PluralRules::try_new_cardinal((&locale).into()).ok()?,
            locale,
        })
    }

    /// A day: `15 de diciembre de 2024`.
    pub(super) fn day(&self, date: civil::Date) -> String {
        plain_spaces(&self.day.format(&Date::<Iso>::convert_from(date)).to_string())
    }

    /// A time without a zone, as it was written: `domingo, 15 de diciembre de 2024, 19:30`.
    fn civil(&self, time: civil::DateTime) -> String {
        plain_spaces(&self.time.format(&DateTime::<Iso>::convert_from(time)).to_string())
    }

    /// An instant on the clocks of its zone, which is named: `…, 19:30 GMT-5`.
    fn instant(&self, time: &Zoned) -> String {
        let zoned = ZonedDateTime::<Iso, TimeZoneInfo<AtTime>>::convert_from(time);
        let words = plain_spaces(&self.instant.format(&zoned).to_string());
        // How CLDR writes UTC as an offset.
        words.strip_suffix("GMT+0").map_or(words.clone(), |clock| format!("{clock}UTC"))
    }

    /// What upstream printed as a time, in words; any other text as it stands.
    /// Without `zone`, times with an offset are shown on the clock they were written by.
    pub(super) fn time(&self, text: &str, zone: Option<&TimeZone>) -> String {
        let words = match Time::read(text) {
            Some(time @ Time::Instant(..)) => {
                time.zoned(zone).map(|instant| self.instant(&instant))
            }
            Some(Time::Civil(time)) => Some(self.civil(time)),
            Some(Time::Date(date)) => Some(self.day(date)),
            None => None,
        };
        words.unwrap_or_else(|| text.trim().to_owned())
    }

    /// `A1`, `A1 and A2`, `A1, A2 y B5`.
    pub(super) fn list(&self, items: &[String]) -> String {
        self.list.format(items.iter()).to_string()
    }

    /// The day of a time, in one of the styles; any other text as it stands.
    pub(super) fn date(&self, text: &str, style: &str, zone: Option<&TimeZone>) -> String {
        let date = match Time::read(text) {
            Some(time @ Time::Instant(..)) => time.zoned(zone).map(|time| time.date()),
            Some(Time::Civil(time)) => Some(time.date()),
            Some(Time::Date(date)) => Some(date),
            None => None,
        };
        let fields = match style {
            "short" => DateFieldSet::YMD(YMD::short()),
            "medium" => DateFieldSet::YMD(YMD::medium()),
            "full" => DateFieldSet::YMDE(YMDE::long()),
            _ => DateFieldSet::YMD(YMD::long()),
        };
        let written = date.and_then(|date| {
            let formatter = DateTimeFormatter::try_new((&self.locale).into(), fields).ok()?;
            Some(formatter.format(&Date::<Iso>::convert_from(date)).to_string())
        });
        written.map_or_else(|| text.trim().to_owned(), |date| plain_spaces(&date))
    }

    /// The clock of a time; a date has none. Any other text as it stands.
    pub(super) fn clock(&self, text: &str, style: &str, zone: Option<&TimeZone>) -> String {
        let fields = match style {
            "medium" => T::hms(),
            _ => T::hm(),
        };
        let locale = &self.locale;
        let clock = |time: civil::DateTime| {
            let formatter = DateTimeFormatter::try_new(locale.into(), fields).ok()?;
            Some(formatter.format(&DateTime::<Iso>::convert_from(time)).to_string())
        };
        let written = match Time::read(text) {
            Some(time @ Time::Instant(..)) => {
                let time = time.zoned(zone);
                let named = matches!(style, "long" | "full");
                time.and_then(|time| {
                    let written = clock(time.datetime())?;
                    if !named {
                        return Some(written);
                    }
                    // The zone is written as beside a whole time.
                    let whole = self.instant(&time);
                    let zone = whole.rsplit(' ').next().unwrap_or_default();
                    Some(format!("{written} {zone}"))
                })
            }
            Some(Time::Civil(time)) => clock(time),
            Some(Time::Date(_)) => Some(String::new()),
            None => None,
        };
        written.map_or_else(|| text.trim().to_owned(), |clock| plain_spaces(&clock))
    }

    /// A number with its groups: `1.234,5`. Text that is no number stays as it is.
    pub(super) fn number(&self, text: &str) -> String {
        let Ok(digits) = Digits::try_from_str(text.trim()) else { return text.to_owned() };
        let formatter = DecimalFormatter::try_new((&self.locale).into(), Default::default());
        formatter
            .map_or_else(|_| text.to_owned(), |it| plain_spaces(&it.format(&digits).to_string()))
    }

    /// Which of CLDR's categories a number takes, by its place in [`PLURAL_CATEGORIES`], and by its place
    /// among those that the language has. What is no number takes the last.
    pub(super) fn plural(&self, number: &str) -> (usize, usize) {
        let digits = Digits::try_from_str(number.trim());
        let category = digits.map_or(PluralCategory::Other, |digits| {
            self.plural.category_for(PluralOperands::from(&digits))
        });
        let mut own: Vec<usize> = self.plural.categories().map(place).collect();
        own.sort_unstable();
        let place = place(category);
        (place, own.iter().position(|it| *it == place).unwrap_or(own.len().saturating_sub(1)))
    }

    /// Whether a number takes the word for one.
    fn is_one(&self, number: i64) -> bool {
        self.plural.category_for(number.unsigned_abs()) == PluralCategory::One
    }

    /// A length of time by its largest units: `15 minutos`, `1 hora`, `2 días y 3 horas`. Less than
    /// a minute counts as one.
    pub(super) fn duration(&self, seconds: i64) -> String {
        let minutes = (seconds.max(0) + 59) / 60;
        let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
        let names = match self.language {
            "es" => [("día", "días"), ("hora", "horas"), ("minuto", "minutos")],
            _ => [("day", "days"), ("hour", "hours"), ("minute", "minutes")],
        };
        // Whole days up to two are said in hours, as people do: 24 hours.
        let parts = if days <= 2 && minutes == 0 && hours == 0 {
            [0, days * 24, minutes]
        } else {
            [days, hours, if days > 0 { 0 } else { minutes }]
        };
        let parts = parts.iter().zip(names).filter(|(number, _)| **number > 0);
        let parts: Vec<String> = parts
            .map(|(number, (one, many))| {
                format!("{number} {}", if self.is_one(*number) { one } else { many })
            })
            .collect();
        if parts.is_empty() { format!("0 {}", names[2].1) } else { self.list(&parts) }
    }

    /// An amount: `$25.50`, `$45.000`, `12,00 €`. The digits of a text count as they
    /// stand, those of a JSON number as serde_json reads it, an `f64`. Text that is no number stays as it is.
    pub(super) fn money(&self, amount: &str, currency: &str) -> String {
        let written = amount.trim();
        let number = written.parse().or_else(|_| Decimal::from_scientific(written));
        let Ok(amount) = number else { return amount.to_owned() };
        let currency = currency.to_ascii_uppercase();
        // ISO 4217 minor units; pesos of Colombia are written without cents.
        let decimals = match currency.as_str() {
            "BIF" | "CLP" | "COP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG"
            | "RWF" | "UGX" | "UYI" | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
            "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
            "CLF" | "UYW" => 4,
            _ => 2,
        };
        // Amounts with cents are shown with them, whatever is usual.
        let decimals = if amount.fract().is_zero() { decimals } else { decimals.max(2) };
        let rounded =
            amount.round_dp_with_strategy(decimals, RoundingStrategy::MidpointAwayFromZero);
        let digits = format!("{:.*}", decimals as usize, rounded.abs());
        let (whole, cents) = digits.split_once('.').unwrap_or((&digits, ""));
        // Spanish groups with a dot, but for the countries that write as in English.
        let english = self.language == "en" || matches!(currency.as_str(), "USD" | "MXN");
        let (group, point) = if english { (',', '.') } else { ('.', ',') };
        let mut number = String::new();
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (whole.len() - index) % 3 == 0 {
                number.push(group);
            }
            number.push(digit);
        }
        if !cents.is_empty() {
            number.push(point);
            number.push_str(cents);
        }
        let sign = if rounded.is_sign_negative() && !rounded.is_zero() { "-" } else { "" };
        match currency.as_str() {
            "USD" | "COP" | "MXN" | "CLP" | "ARS" => format!("{sign}${number}"),
            "EUR" if english => format!("{sign}€{number}"),
            "EUR" => format!("{sign}{number} €"),
            "GBP" => format!("{sign}£{number}"),
            other => format!("{sign}{number} {other}"),
        }
    }
}

/// CLDR's names of the forms that a word has beside a number.
pub(super) const PLURAL_CATEGORIES: [&str; 6] = ["zero", "one", "two", "few", "many", "other"];

fn place(category: PluralCategory) -> usize {
    match category {
        PluralCategory::Zero => 0,
        PluralCategory::One => 1,
        PluralCategory::Two => 2,
        PluralCategory::Few => 3,
        PluralCategory::Many => 4,
        PluralCategory::Other => 5,
    }
}

/// How many forms a word has beside numbers in a language.
pub(super) fn plural_categories(language: &str) -> usize {
    let locale = language.parse::<Locale>().unwrap_or(Locale::UNKNOWN);
    let rules = PluralRules::try_new_cardinal((&locale).into());
    rules.map_or(1, |rules| rules.categories().count())
}

/// Unicode's narrow and no-break spaces, which some mail programs show as boxes.
fn plain_spaces(text: &str) -> String {
    text.replace(['\u{202f}', '\u{a0}'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tag: &str) -> LocaleFormatter {
        let language = if tag.starts_with("es") { "es" } else { "en" };
        LocaleFormatter::new(language, tag).unwrap()
    }

    #[test]
    fn regional_locales_fall_back_to_their_language() {
        let locales = Locales::new("es-CO");
        let long = format!("en-US-x-{}", "a-".repeat(40));
        let of = |tag| {
            let words = locales.of(tag);
            (words.language, words.tag.clone())
        };
        assert_eq!(of(None), ("es", "es-CO".to_owned()));
        assert_eq!(of(Some("es")), ("es", "es-CO".to_owned()));
        assert_eq!(of(Some("es_MX")), ("es", "es-MX".to_owned()));
        assert_eq!(of(Some("en")), ("en", "en".to_owned()));
        assert_eq!(of(Some("EN-us")), ("en", "en-US".to_owned()));
        assert_eq!(of(Some(&long)), ("en", "en".to_owned()));
        assert_eq!(of(Some("fr")), ("es", "es-CO".to_owned()));
        assert_eq!(of(Some("es-<script>")), ("es", "es".to_owned()));
    }

    #[test]
    fn money_is_written_as_people_do() {
        for (amount, currency, locale, written) in [
            ("25.5", "USD", "en", "$25.50"),
            ("25.50", "USD", "es", "$25.50"),
            ("45000", "COP", "es", "$45.000"),
            ("45000", "COP", "en", "$45,000"),
            ("45000.5", "COP", "es", "$45.000,50"),
            ("1234567.891", "EUR", "es", "1.234.567,89 €"),
            ("-3", "GBP", "en", "-£3.00"),
            ("0.005", "USD", "en", "$0.01"),
            ("12", "XYZ", "en", "12.00 XYZ"),
            ("1.5", "KWD", "en", "1.500 KWD"),
            ("2", "BHD", "en", "2.000 BHD"),
            ("1500", "XOF", "en", "1,500 XOF"),
            ("free", "USD", "en", "free"),
        ] {
            assert_eq!(words(locale).money(amount, currency), written);
        }
    }

    #[test]
    fn lists_end_with_and() {
        let list = |items: &[&str], tag| {
            words(tag).list(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(list(&[], "en"), "");
        assert_eq!(list(&["A1"], "en"), "A1");
        assert_eq!(list(&["A1", "A2", "B5"], "es"), "A1, A2 y B5");
        assert_eq!(list(&["A1", "I2"], "es"), "A1 e I2");
        assert_eq!(list(&["A1", "A2"], "en"), "A1 and A2");
    }

    #[test]
    fn times_are_words_and_other_text_stays() {
        let bogota = TimeZone::get("America/Bogota").unwrap();
        for (text, tag, written) in [
            ("2024-12-15 7:30 PM", "es", "domingo, 15 de diciembre de 2024 a las 19:30"),
            ("2024-12-15 7:30 PM", "es-CO", "domingo, 15 de diciembre de 2024 a las 7:30 p. m."),
            ("2024-12-15T19:30:00", "en", "Sunday, December 15, 2024 at 7:30 PM"),
            ("2024-12-16T00:30:00Z", "en", "Sunday, December 15, 2024 at 7:30 PM GMT-5"),
            ("2024-12-15", "en-GB", "15 December 2024"),
            ("", "en", ""),
            ("next Friday", "en", "next Friday"),
        ] {
            assert_eq!(words(tag).time(text, Some(&bogota)), written);
        }
    }

    #[test]
    fn durations_are_said_in_their_largest_units() {
        for (seconds, tag, written) in [
            (900, "es", "15 minutos"),
            (3600, "es", "1 hora"),
            (86_400, "es", "24 horas"),
            (5_400, "en", "1 hour and 30 minutes"),
            (3 * 86_400 + 7_200, "en", "3 days and 2 hours"),
            (3 * 86_400, "es", "3 días"),
            (61, "en", "2 minutes"),
            (-5, "en", "0 minutes"),
        ] {
            assert_eq!(words(tag).duration(seconds), written, "{seconds}");
        }
    }
}
