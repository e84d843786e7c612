//! Values as people write them in one locale: times, amounts, durations, lists and plurals.
//!
//! A variable is turned into words by its type before a template sees it, so that every template
//! just prints it, those in the database too.

use std::{
    borrow::Cow,
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

use crate::event::{Time, currency};

/// The ways of writing of all locales that were asked for.
pub(super) struct Locales {
    default: String,
    /// By language of the template and tag.
    made: RwLock<HashMap<(String, String), Arc<LocaleFormatter>>>,
}

/// Most locales that are kept; a language has fewer regions.
const MAX_LOCALES: usize = 64;

/// Longest tag that is looked at, in bytes (RFC 5646 section 4.4.1); of a longer one the language.
const MAX_TAG_BYTES: usize = 35;

impl Locales {
    /// `default` is a tag such as `es-CO`, for events that name none, or none that there are
    /// templates for.
    pub(super) fn new(default: &str) -> Self {
        Self { default: default.to_owned(), made: RwLock::default() }
    }

    /// The way of writing for a tag among the languages that there are: `pt-BR`, else `pt`, else the default's
    /// (RFC 4647 section 3.4). A language without a region takes the default's, if that is of the same language.
    pub(super) fn choose(
        &self,
        tag: Option<&str>,
        exists: impl Fn(&str) -> bool,
    ) -> Option<Arc<LocaleFormatter>> {
        let asked = tag.and_then(canonical).map(|tag| {
            let has_region = self.default.strip_prefix(&tag).is_some_and(|it| it.starts_with('-'));
            if has_region { self.default.clone() } else { tag }
        });
        asked.iter().chain([&self.default]).find_map(|tag| {
            let language = fallbacks(tag).find(|language| exists(language))?;
            Some(self.formatter(language, tag))
        })
    }

    /// The way of writing of a tag, for a template in this language.
    pub(super) fn formatter(&self, language: &str, tag: &str) -> Arc<LocaleFormatter> {
        let key = (language.to_owned(), tag.to_owned());
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(words) = made {
            return words;
        }
        let own = LocaleFormatter::new(language, tag);
        let words = own.or_else(|| LocaleFormatter::new(language, language));
        // English is among the data that the binary carries.
        let words = words.or_else(|| LocaleFormatter::new(language, "en"));
        let words = Arc::new(words.unwrap_or_else(|| unreachable!()));
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if made.len() < MAX_LOCALES {
            made.insert(key, words.clone());
        }
        words
    }
}

/// A tag as BCP 47 writes it: `es-MX` for `es_mx`. Of one that can't be read the language.
pub(super) fn canonical(tag: &str) -> Option<String> {
    let language = tag.split(['-', '_']).next()?;
    let whole = Some(tag).filter(|tag| tag.len() <= MAX_TAG_BYTES);
    let whole = whole.and_then(|tag| tag.replace('_', "-").parse::<Locale>().ok());
    whole.or_else(|| language.parse().ok()).map(|locale| locale.to_string())
}

/// `pt-BR`, `pt`.
pub(super) fn fallbacks(tag: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(tag), |tag| tag.rsplit_once('-').map(|(shorter, _)| shorter))
}

/// One locale's ways of writing.
pub(super) struct LocaleFormatter {
    /// The language of the templates.
    pub(super) language: String,
    /// The whole tag, such as `es-CO`.
    pub(super) tag: String,
    /// Whether it is written from right to left.
    pub(super) is_rtl: bool,
    locale: Locale,
    day: DateTimeFormatter<YMD>,
    time: DateTimeFormatter<YMDET>,
    instant: DateTimeFormatter<Combo<YMDET, LocalizedOffsetShort>>,
    list: ListFormatter,
    plural: PluralRules,
}

impl LocaleFormatter {
    /// For a tag whose language there are templates in.
    pub(super) fn new(language: &str, tag: &str) -> Option<Self> {
        let locale: Locale = tag.parse().ok()?;
        let minutes = YMDET::long().with_time_precision(TimePrecision::Minute);
        let zoned = minutes.with_zone(LocalizedOffsetShort);
        Some(Self {
            language: language.to_owned(),
            tag: locale.to_string(),
            is_rtl: is_rtl(&locale),
            day: DateTimeFormatter::try_new((&locale).into(), YMD::long()).ok()?,
            time: DateTimeFormatter::try_new((&locale).into(), minutes).ok()?,
            instant: DateTimeFormatter::try_new((&locale).into(), zoned).ok()?,
            list: ListFormatter::try_new_and((&locale).into(), ListFormatterOptions::default())
                .ok()?,
            plural: PluralRules::try_new_cardinal((&locale).into()).ok()?,
            locale,
        })
    }

    /// A value whose direction does not reach beyond it, as Unicode's isolates do (UAX #9), where that can matter: in a
    /// mail from right to left, or if the value has such letters. Addresses stay as they are, for mail programs make
    /// links of them.
    pub(super) fn isolated<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let is_address = text.starts_with("https://") || text.starts_with("http://");
        if text.is_empty() || is_address || !self.is_rtl && !text.chars().any(turns_direction) {
            return Cow::Borrowed(text);
        }
        let mut isolated = String::with_capacity(text.len() + 6);
        isolated.push(FSI);
        // The value's own isolates end within it, and it can't end ours.
        let mut open = 0;
        for letter in text.chars() {
            match letter {
                '\u{2066}'..=FSI => open += 1,
                PDI if open == 0 => continue,
                PDI => open -= 1,
                _ => {}
            }
            isolated.push(letter);
        }
        isolated.extend(std::iter::repeat_n(PDI, open + 1));
        Cow::Owned(isolated)
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
        if time.offset().is_zero() {
            return format!("{} UTC", self.civil(time.datetime()));
        }
        let zoned = ZonedDateTime::<Iso, TimeZoneInfo<AtTime>>::convert_from(time);
        plain_spaces(&self.instant.format(&zoned).to_string())
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
                    // The zone is written as beside a whole time: `GMT-5`, `-5 GMT`.
                    let whole = self.instant(&time);
                    let zone = whole.strip_prefix(&self.civil(time.datetime()))?;
                    Some(format!("{written}{zone}"))
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
        let names = units(self.locale.id.language.as_str());
        // Whole days up to two are said in hours, as people do: 24 hours.
        let parts = if days <= 2 && minutes == 0 && hours == 0 {
            [0, days * 24, minutes]
        } else {
            [days, hours, if days > 0 { 0 } else { minutes }]
        };
        let parts = parts.iter().zip(names).filter(|(number, _)| **number > 0);
        let written = |number: i64, names: &[&str]| {
            let (_, place) = self.plural(&number.to_string());
            let name = match names {
                [one, _] if self.is_one(number) => one,
                [_, other] => other,
                names => names.get(place).or(names.last()).unwrap_or(&""),
            };
            name.replace('#', &self.number(&number.to_string()))
        };
        let parts: Vec<String> = parts.map(|(number, names)| written(*number, names)).collect();
        if parts.is_empty() { written(0, names[2]) } else { self.list(&parts) }
    }

    /// An amount: `$25.50`, `$45.000`, `12,00 €`, `US$25,50` where `$` is another currency. The digits of a text count as they
    /// stand, those of a JSON number as serde_json reads it, an `f64`. Text that is no number stays as it is.
    pub(super) fn money(&self, amount: &str, currency: &str, house: &str) -> String {
        let written = amount.trim();
        let number = written.parse().or_else(|_| Decimal::from_scientific(written));
        let Ok(amount) = number else { return amount.to_owned() };
        let code = currency::read(currency);
        let currency = code.map_or_else(|| currency.trim().to_ascii_uppercase(), str::to_owned);
        // Amounts with cents are shown with them, whatever is usual.
        let decimals = currency::decimals(&currency);
        let decimals = if amount.fract().is_zero() { decimals } else { decimals.max(2) };
        let rounded =
            amount.round_dp_with_strategy(decimals, RoundingStrategy::MidpointAwayFromZero);
        let digits = format!("{:.*}", decimals as usize, rounded.abs());
        let number = self.grouped(&digits, &currency);
        let sign = if rounded.is_sign_negative() && !rounded.is_zero() { "-" } else { "" };
        let symbol = self.symbol(&currency, house);
        let symbol = symbol.as_ref();
        // A sign of dollars stands before the number in Spanish too.
        let language = self.locale.id.language.as_str();
        let is_before = matches!(language, "en" | "zh" | "ja" | "ko" | "hi" | "tr")
            || language == "pt" && self.locale.id.region.is_none_or(|it| it.as_str() == "BR")
            || language == "es" && symbol != "€" && symbol != currency;
        let gap = if symbol == currency || language == "pt" { " " } else { "" };
        if is_before && symbol != currency {
            format!("{sign}{symbol}{gap}{number}")
        } else {
            // Its number stands first, whatever the sign's letters are.
            let mark = if self.is_rtl { String::from(RLM) } else { String::new() };
            format!("{mark}{sign}{number} {symbol}")
        }
    }

    /// Digits with the groups and the point of the locale; in Spanish without a region, of the country of the
    /// currency: `$25.50`, `$45.000`.
    fn grouped(&self, digits: &str, currency: &str) -> String {
        let mut locale = self.locale.clone();
        if locale.id.region.is_none() && locale.id.language.as_str() == "es" {
            locale.id.region = currency.get(..2).and_then(|region| region.parse().ok());
        }
        let read = Digits::try_from_str(digits);
        let formatter = DecimalFormatter::try_new((&locale).into(), Default::default());
        match (read, formatter) {
            (Ok(read), Ok(formatter)) => plain_spaces(&formatter.format(&read).to_string()),
            _ => digits.to_owned(),
        }
    }

    /// The sign of a currency, by CLDR: the short one where it is the locale's own, else one that can't be
    /// taken for another's. A locale without a region has the currency of its events, `house`, as its own.
    fn symbol<'a>(&self, currency: &'a str, house: &str) -> Cow<'a, str> {
        let is_own = match &self.locale.id.region {
            Some(region) => currency::is_used_in(currency, region.as_str()),
            None => currency == house,
        };
        let symbol = currency::symbol(currency, is_own);
        match (self.locale.id.language.as_str(), symbol.strip_suffix('$')) {
            // French writes `$US`.
            ("fr", Some(country)) if country != "R" => format!("${country}").into(),
            ("ar", _) => currency::arabic_symbol(currency).unwrap_or(symbol).into(),
            _ => symbol.into(),
        }
    }
}

/// Days, hours and minutes: the form for one and for others, else one for each category, with `#` for the number. Where
/// they are not known, the signs of the SI, which all languages have.
fn units(language: &str) -> [&'static [&'static str]; 3] {
    match language {
        "en" => [&["# day", "# days"], &["# hour", "# hours"], &["# minute", "# minutes"]],
        "es" => [&["# día", "# días"], &["# hora", "# horas"], &["# minuto", "# minutos"]],
        "pt" => [&["# dia", "# dias"], &["# hora", "# horas"], &["# minuto", "# minutos"]],
        "fr" => [&["# jour", "# jours"], &["# heure", "# heures"], &["# minute", "# minutes"]],
        "it" => [&["# giorno", "# giorni"], &["# ora", "# ore"], &["# minuto", "# minuti"]],
        "ca" => [&["# dia", "# dies"], &["# hora", "# hores"], &["# minut", "# minuts"]],
        "de" => [&["# Tag", "# Tage"], &["# Stunde", "# Stunden"], &["# Minute", "# Minuten"]],
        "nl" => [&["# dag", "# dagen"], &["# uur", "# uur"], &["# minuut", "# minuten"]],
        // One and two are said by the word alone.
        "ar" => [
            &["# يوم", "يوم واحد", "يومان", "# أيام", "# يومًا", "# يوم"],
            &["# ساعة", "ساعة واحدة", "ساعتان", "# ساعات", "# ساعة", "# ساعة"],
            &["# دقيقة", "دقيقة واحدة", "دقيقتان", "# دقائق", "# دقيقة", "# دقيقة"],
        ],
        _ => [&["# d"], &["# h"], &["# min"]],
    }
}

/// Begins what is isolated, in the direction of its first letter; ends it.
pub(super) const FSI: char = '\u{2068}';
pub(super) const PDI: char = '\u{2069}';
/// A mark from right to left.
const RLM: char = '\u{200f}';

/// By its script, else by its language.
fn is_rtl(locale: &Locale) -> bool {
    const SCRIPTS: [&str; 6] = ["Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm"];
    const LANGUAGES: [&str; 10] = ["ar", "he", "fa", "ur", "ps", "sd", "ug", "yi", "dv", "ckb"];
    match locale.id.script {
        Some(script) => SCRIPTS.contains(&script.as_str()),
        None => LANGUAGES.contains(&locale.id.language.as_str()),
    }
}

/// Letters from right to left, and marks that turn what follows.
fn turns_direction(letter: char) -> bool {
    matches!(u32::from(letter),
        0x590..=0x8ff | 0x200f | 0x202a..=0x202e | 0x2066..=0x2069
        | 0xfb1d..=0xfdff | 0xfe70..=0xfefc | 0x1_0800..=0x1_0fff | 0x1_e800..=0x1_efff)
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
        LocaleFormatter::new(tag, tag).unwrap()
    }

    #[test]
    fn regional_locales_fall_back_to_their_language() {
        let locales = Locales::new("es-CO");
        let long = format!("en-US-x-{}", "a-".repeat(40));
        let of = |tag| {
            let exists = |language: &str| ["en", "es", "pt", "pt-PT"].contains(&language);
            let words = locales.choose(tag, exists).unwrap();
            (words.language.clone(), words.tag.clone())
        };
        for (tag, language, written) in [
            (None, "es", "es-CO"),
            (Some("es"), "es", "es-CO"),
            (Some("es_MX"), "es", "es-MX"),
            (Some("en"), "en", "en"),
            (Some("EN-us"), "en", "en-US"),
            (Some(&*long), "en", "en"),
            (Some("pt_br"), "pt", "pt-BR"),
            (Some("pt-PT"), "pt-PT", "pt-PT"),
            (Some("fr"), "es", "es-CO"),
            (Some("es-<script>"), "es", "es-CO"),
            (Some("<script>"), "es", "es-CO"),
        ] {
            assert_eq!(of(tag), (language.to_owned(), written.to_owned()), "{tag:?}");
        }
        assert!(locales.choose(Some("en"), |_| false).is_none());
    }

    #[test]
    fn money_is_written_as_people_do() {
        for (amount, currency, locale, written) in [
            ("25.5", "USD", "en", "$25.50"),
            ("25.50", "USD", "es", "$25.50"),
            ("45000", "COP", "es-CO", "$45.000"),
            ("45000", "COP", "es", "45.000 COP"),
            ("45000", "COP", "en", "45,000 COP"),
            ("45000.5", "COP", "es-CO", "$45.000,50"),
            ("500", "USD", "es-MX", "US$500.00"),
            ("500", "MXN", "es-MX", "$500.00"),
            ("500", "MXN", "en", "MX$500.00"),
            ("500", "ARS", "es-MX", "500.00 ARS"),
            ("500", "ARS", "es-AR", "$500,00"),
            ("500", "USD", "en-CA", "US$500.00"),
            ("500", "USD", "es-EC", "$500,00"),
            ("1234567.891", "EUR", "es", "1.234.567,89 €"),
            ("12", " eur ", "fr", "12,00 €"),
            ("12", "978", "en", "€12.00"),
            ("1234.5", "BRL", "pt-BR", "R$ 1.234,50"),
            ("-3", "GBP", "en", "-£3.00"),
            ("0.005", "USD", "en", "$0.01"),
            ("12", "XYZ", "en", "12.00 XYZ"),
            ("1.5", "KWD", "en", "1.500 KWD"),
            ("2", "BHD", "en", "2.000 BHD"),
            ("1500", "XOF", "en", "1,500 XOF"),
            ("free", "USD", "en", "free"),
            ("25.5", "USD", "fr-FR", "25,50 $US"),
            ("25.5", "BRL", "fr-FR", "25,50 R$"),
            ("25.5", "USD", "ar-MA", "\u{200f}25,50 US$"),
            ("1234.5", "SAR", "ar-SA", "\u{200f}١٬٢٣٤٫٥٠ ر.س."),
        ] {
            assert_eq!(words(locale).money(amount, currency, "USD"), written);
        }
        assert_eq!(words("es").money("45000", "COP", "COP"), "$45.000");
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
            ("2024-12-15T19:30:00Z", "fr", "dimanche 15 décembre 2024 à 14:30 UTC-5"),
            ("", "en", ""),
            ("next Friday", "en", "next Friday"),
        ] {
            assert_eq!(words(tag).time(text, Some(&bogota)), written);
        }
        let clock = words("pt-BR").clock("2024-12-15T19:30:00Z", "long", Some(&bogota));
        assert_eq!(clock, "14:30 -5 GMT");
        for (tag, written) in [
            ("en", "Sunday, December 15, 2024 at 7:30 PM UTC"),
            ("ar", "الأحد، 15 ديسمبر 2024 في 7:30 م UTC"),
        ] {
            assert_eq!(words(tag).time("2024-12-15T19:30:00Z", None), written);
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
            (3_660, "fr", "1 heure et 1 minute"),
            (2 * 86_400 + 60 * 60, "pt-BR", "2 dias e 1 hora"),
            (3_600, "fi", "1 h"),
            (-5, "en", "0 minutes"),
            (3_600, "ar", "ساعة واحدة"),
            (7_200 + 180, "ar", "ساعتان و3 دقائق"),
            (3 * 86_400 + 11 * 3_600, "ar-EG", "٣ أيام و١١ ساعة"),
            (2 * 86_400, "ar-MA", "48 ساعة"),
        ] {
            assert_eq!(words(tag).duration(seconds), written, "{seconds}");
        }
    }
}
