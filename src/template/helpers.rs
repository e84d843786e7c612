//! The helpers that templates may call: `money`, `list` and `date`. They return values, so that
//! what they give is escaped like any other value.

use handlebars::{
    Context, Handlebars, Helper, HelperDef, RenderContext, RenderError, RenderErrorReason,
    ScopedJson,
};
use jiff::{Timestamp, civil, tz::TimeZone};
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::Value;

use super::Globals;

/// An empty registry in strict mode that knows the helpers.
pub(super) fn registry(globals: &Globals) -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    let default_currency = globals.currency.clone();
    registry.register_helper(
        "money",
        Box::new(Function(move |parameters: &[&Value], locale: &str| {
            let currency = parameters.get(1).and_then(|value| value.as_str()).unwrap_or_default();
            let currency = if currency.is_empty() { &default_currency } else { currency };
            Ok(money(&plain(parameters.first())?, currency, locale))
        })),
    );
    registry.register_helper(
        "list",
        Box::new(Function(|parameters: &[&Value], locale: &str| {
            let items = parameters.first().and_then(|value| value.as_array());
            let items = items.ok_or("is not a list")?.iter().map(|item| plain(Some(&item)));
            Ok(list(&items.collect::<Result<Vec<_>, _>>()?, locale))
        })),
    );
    let zone = globals.zone.clone();
    registry.register_helper(
        "date",
        Box::new(Function(move |parameters: &[&Value], locale: &str| {
            Ok(date(&plain(parameters.first())?, &zone, locale))
        })),
    );
    registry
}

/// A helper that is a function of its parameters and the mail's locale.
struct Function<F>(F);

impl<F> HelperDef for Function<F>
where
    F: Fn(&[&Value], &str) -> Result<String, &'static str> + Send + Sync,
{
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let fault = |reason: String| {
            RenderErrorReason::Other(format!("helper {:?}: {reason}", helper.name()))
        };
        // Strict mode looks at what a template prints, not at what it gives to a helper.
        if let Some(missing) = helper.params().iter().find(|parameter| parameter.is_value_missing())
        {
            let name = missing.relative_path().map_or("its parameter", String::as_str);
            return Err(fault(format!("{name} is not declared")).into());
        }
        let parameters: Vec<&Value> =
            helper.params().iter().map(handlebars::PathAndJson::value).collect();
        let locale = context.data().get("locale").and_then(Value::as_str).unwrap_or("en");
        let text = (self.0)(&parameters, locale).map_err(|reason| fault(reason.to_owned()))?;
        Ok(ScopedJson::Derived(Value::String(text)))
    }
}

fn plain(value: Option<&&Value>) -> Result<String, &'static str> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Bool(flag)) => Ok(flag.to_string()),
        Some(Value::Null) => Ok(String::new()),
        _ => Err("takes a text or a number"),
    }
}

/// An amount as people write it: `$25.50`, `$45.000`, `12,00 €`. The amount is never a float:
/// its digits are taken from the JSON as they stand. Text that is no number stays as it is.
fn money(amount: &str, currency: &str, locale: &str) -> String {
    let Ok(amount) = amount.trim().parse::<Decimal>() else { return amount.to_owned() };
    let currency = currency.to_ascii_uppercase();
    // ISO 4217 minor units; pesos of Colombia and Chile are written without cents.
    let decimals = match currency.as_str() {
        "CLP" | "COP" | "JPY" | "KRW" | "PYG" => 0,
        _ => 2,
    };
    // Amounts with cents are shown with them, whatever is usual.
    let decimals = if amount.fract().is_zero() { decimals } else { 2 };
    let rounded = amount.round_dp_with_strategy(decimals, RoundingStrategy::MidpointAwayFromZero);
    let digits = format!("{:.*}", decimals as usize, rounded.abs());
    let (whole, cents) = digits.split_once('.').unwrap_or((&digits, ""));
    // Spanish groups with a dot, but for the countries that write as in English.
    let english = locale == "en" || matches!(currency.as_str(), "USD" | "MXN");
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

/// `A1`, `A1 and A2`, `A1, A2 y B5`.
fn list(items: &[String], locale: &str) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => {
            let sounds_like_i =
                last.starts_with(['i', 'I', 'í', 'Í']) || last.to_lowercase().starts_with("hi");
            let and = match locale {
                "es" if sounds_like_i => "e",
                "es" => "y",
                _ => "and",
            };
            format!("{} {and} {last}", most.join(", "))
        }
    }
}

const MONTHS_ES: [&str; 12] = [
    "enero",
    "febrero",
    "marzo",
    "abril",
    "mayo",
    "junio",
    "julio",
    "agosto",
    "septiembre",
    "octubre",
    "noviembre",
    "diciembre",
];

/// An ISO 8601 time in words; any other text as it stands. A time with an offset is shown in the
/// installation's zone, one without as it was written.
fn date(text: &str, zone: &TimeZone, locale: &str) -> String {
    let text = text.trim();
    let written = if let Ok(instant) = text.parse::<Timestamp>() {
        instant.to_zoned(zone.clone()).datetime()
    } else if let Ok(time) = text.parse::<civil::DateTime>() {
        time
    } else {
        return text.to_owned();
    };
    let has_time = text.contains(['T', 't', ' ']);
    let day = if locale == "es" {
        let month = MONTHS_ES[usize::from(written.month().unsigned_abs()) - 1];
        format!("{} de {month} de {}", written.day(), written.year())
    } else {
        written.strftime("%B %-d, %Y").to_string()
    };
    match (has_time, locale) {
        (false, _) => day,
        (true, "es") => format!("{day}, {}", written.strftime("%H:%M")),
        (true, _) => format!("{day}, {}", written.strftime("%-I:%M %p")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("free", "USD", "en", "free"),
        ] {
            assert_eq!(money(amount, currency, locale), written);
        }
    }

    #[test]
    fn lists_end_with_and() {
        let seats = |seats: &[&str], locale| {
            list(&seats.iter().map(|seat| (*seat).to_owned()).collect::<Vec<_>>(), locale)
        };
        assert_eq!(seats(&[], "en"), "");
        assert_eq!(seats(&["A1"], "en"), "A1");
        assert_eq!(seats(&["A1", "A2", "B5"], "es"), "A1, A2 y B5");
        assert_eq!(seats(&["A1", "I2"], "es"), "A1 e I2");
        assert_eq!(seats(&["A1", "A2"], "en"), "A1 and A2");
    }

    #[test]
    fn times_are_words_and_other_text_stays() {
        let bogota = TimeZone::get("America/Bogota").unwrap();
        assert_eq!(date("2024-12-15 7:30 PM", &bogota, "es"), "2024-12-15 7:30 PM");
        assert_eq!(date("2024-12-15T19:30:00", &bogota, "es"), "15 de diciembre de 2024, 19:30");
        assert_eq!(date("2024-12-16T00:30:00Z", &bogota, "en"), "December 15, 2024, 7:30 PM");
        assert_eq!(date("2024-12-15", &bogota, "en"), "December 15, 2024");
    }
}
