//! Turns text into typed values. A reason for refusal never repeats the value, which may be secret.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{
    redis_servers::redis_servers,
    settings::{RateLimit, Secret},
};
use crate::duration;

use ipnet::IpNet;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::Url;

pub(super) type Parsed<T> = Result<T, String>;

pub(super) fn duration_in(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| match duration::parse(text)? {
        found if range.contains(&found) => Ok(found),
        _ => {
            let [from, to] = [range.start(), range.end()].map(|end| duration::format(*end));
            Err(format!("must be from {from} to {to}"))
        }
    }
}

/// `None` for an empty value or `off`.
pub(super) fn or_none<T>(value: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Option<T>> {
    move |text| match text.is_empty() || text.eq_ignore_ascii_case("off") {
        true => Ok(None),
        false => value(text).map(Some),
    }
}

/// `10/1h`: a maximum within a period.
pub(super) fn rate_limit(text: &str) -> Parsed<RateLimit> {
    let parts = text.split_once('/').and_then(|(count, period)| {
        let count = count.trim().parse::<u32>().ok().filter(|count| *count > 0)?;
        let period = duration::parse(period.trim()).ok().filter(|period| !period.is_zero())?;
        Some(RateLimit { count, period })
    });
    parts.ok_or_else(|| "must be a number and a period, such as 10/1h".to_owned())
}

/// `14/s`, `30/min`: mail within a period, spread evenly. At most a tenth of a second's mail goes at once, so
/// that a server which counts by the second never sees more than its limit and that.
pub(super) fn send_rate(text: &str) -> Parsed<RateLimit> {
    let rate = text.split_once('/').and_then(|(count, period)| {
        let count = count.trim().parse::<u32>().ok().filter(|count| *count > 0)?;
        let period = period.trim();
        let one = if period.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "1" };
        let period = duration::parse(&format!("{one}{period}")).ok()?;
        let interval = u32::try_from(period.as_millis()).ok()?.div_ceil(count);
        // Milliseconds are as fine as the ledger counts.
        let is_possible = u128::from(count) <= period.as_millis();
        let burst = 100_u32.checked_div(interval)?.max(1);
        let interval = Duration::from_millis(interval.into());
        is_possible.then_some(RateLimit { count: burst, period: interval * burst })
    });
    rate.ok_or_else(|| "must be such as 14/s, 30/min or 500/h, and at most 1000/s".to_owned())
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

pub(super) fn number<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Parsed<T> {
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {} to {}", range.start(), range.end())),
    }
}

pub(super) fn one_of<T: Copy>(choices: &[(&'static str, T)]) -> impl Fn(&str) -> Parsed<T> {
    move |text| {
        let chosen = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            format!("must be one of {}", names.join(", "))
        })
    }
}

/// Comma-separated items. Empty ones are skipped, so a trailing comma is fine; a list without any item is a
/// fault, because the operator meant to set one.
pub(super) fn list<T>(item: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Vec<T>> {
    move |text| {
        let mut items = text.split(',').map(str::trim).filter(|text| !text.is_empty()).peekable();
        if items.peek().is_none() && !text.is_empty() {
            return Err("is a list without an item".to_owned());
        }
        items.map(|text| item(text).map_err(|reason| format!("each item {reason}"))).collect()
    }
}

/// Text for mail headers and log lines, where a line break would start another line.
pub(super) fn line(text: &str) -> Parsed<String> {
    match text.contains(char::is_control) {
        true => Err("must not contain control characters".to_owned()),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    line(text).map(PathBuf::from)
}

pub(super) fn secret(text: &str) -> Parsed<Secret> {
    Ok(Secret::new(text))
}

/// A rough check; the mail channel checks addresses in full.
pub(super) fn mail_address(text: &str) -> Parsed<String> {
    let stray = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '<' | '>');
    match text.split_once('@') {
        Some((local, domain))
            if [local, domain].iter().all(|side| !side.is_empty() && !side.contains(stray)) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("must be a bare mail address such as box@example.com".to_owned()),
    }
}

/// A domain name in A-labels, as in DNS (RFC 5890, 2.3.2.1).
pub(super) fn domain(text: &str) -> Parsed<String> {
    idna::domain_to_ascii_strict(text)
        .map_err(|_| "must be a domain name such as example.com".to_owned())
}

/// What EHLO says: a full name, or an address in brackets (RFC 5321 4.1.1.1).
pub(super) fn ehlo_name(text: &str) -> Parsed<String> {
    let literal = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_literal = literal.is_some_and(|literal| match literal.strip_prefix("IPv6:") {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => literal.parse::<std::net::Ipv4Addr>().is_ok(),
    });
    if is_literal {
        return Ok(text.to_owned());
    }
    let name = idna::domain_to_ascii_strict(text).ok().filter(|name| name.contains('.'));
    name.ok_or_else(|| "must be a full name such as mail.example.com, or [192.0.2.1]".to_owned())
}

/// A header that usher does not write anyway.
pub(super) fn own_header(text: &str) -> Parsed<String> {
    const WRITTEN: [&str; 14] = [
        "from",
        "to",
        "cc",
        "bcc",
        "sender",
        "subject",
        "date",
        "message-id",
        "reply-to",
        "return-path",
        "mime-version",
        "auto-submitted",
        "x-auto-response-suppress",
        "dkim-signature",
    ];
    let name = text.to_ascii_lowercase();
    let is_name = (1..=60).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !is_name || name.starts_with("content-") || WRITTEN.contains(&name.as_str()) {
        return Err(
            "must be the name of a header of its own, such as Resend-Idempotency-Key".to_owned()
        );
    }
    Ok(text.to_owned())
}

pub(super) fn host(text: &str) -> Parsed<String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    match text.parse::<IpAddr>().is_ok() || text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("must be a host name or IP address without scheme and port".to_owned()),
    }
}

/// Whether traffic to `host` stays on this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn url(text: &str, schemes: &[&str]) -> Parsed<Url> {
    let url = Url::parse(text).map_err(|e| {
        format!("is not a URL ({e}); special characters in a password must be percent-encoded")
    })?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!("must start with {}://", schemes.join(":// or ")));
    }
    match url.host_str() {
        Some(host) if !host.is_empty() => Ok(url),
        _ => Err("must name a host".to_owned()),
    }
}

pub(super) fn web_url(text: &str) -> Parsed<String> {
    url(text, &["https", "http"]).map(String::from)
}

/// An IP address, or a network in CIDR notation.
pub(super) fn network(text: &str) -> Parsed<IpNet> {
    let address = text.parse().map(|address: IpAddr| IpNet::from(address));
    address
        .or_else(|_| text.parse())
        .map_err(|_| "must be an IP address or a network such as 10.0.0.0/8".to_owned())
}

/// Origin of a web page (RFC 6454, 6.2).
pub(super) fn origin(text: &str) -> Parsed<String> {
    let url = url(text, &["https", "http"])?;
    match url.origin().ascii_serialization() {
        origin if origin == text => Ok(origin),
        _ => Err("must be an origin such as https://example.com, without a path".to_owned()),
    }
}

/// RabbitMQ's URL with all of its hosts, which share login, path and options.
pub(super) fn amqp_url(text: &str) -> Parsed<Secret> {
    amqp_urls(text).map(|urls| match urls.as_slice() {
        [only] => Secret::new(only.clone()),
        _ => Secret::new(text),
    })
}

/// RabbitMQ's URL, one for each host.
pub(crate) fn amqp_urls(text: &str) -> Parsed<Vec<Url>> {
    let mut urls = urls_of_hosts(text, &["amqp", "amqps"])?;
    for url in &mut urls {
        if matches!(url.path(), "" | "/") {
            url.set_path("/%2f");
        }
    }
    Ok(urls)
}

/// One URL for each host of a URL that may list several, separated by commas, each with or without a port.
pub(super) fn urls_of_hosts(text: &str, schemes: &[&str]) -> Parsed<Vec<Url>> {
    let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    let url_of_host =
        |host: &str| url(&format!("{scheme}://{login}{}{path}", host.trim()), schemes);
    hosts.split(',').map(url_of_host).collect()
}

pub(super) fn redis_url(text: &str) -> Parsed<Secret> {
    redis_servers(text).map(|_| Secret::new(text))
}

/// Key of a stream. Key and entry id make the event id, whose length is limited.
pub(super) fn stream_key(text: &str) -> Parsed<String> {
    match text.len() > 200 {
        true => Err("must not be longer than 200 bytes".to_owned()),
        false => line(text),
    }
}

/// Builds a Redis URL. `host` was checked by [`host`].
pub(super) fn redis_of_parts(
    host: &str,
    port: u16,
    password: Option<&Secret>,
    db: u32,
) -> Parsed<Secret> {
    let host = match host.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => host.to_owned(),
    };
    let mut url = url(&format!("redis://{host}:{port}/{db}"), &["redis"])?;
    // `set_password` takes `%` for the beginning of an escape.
    let password = password.map(|password| password.expose().replace('%', "%25"));
    url.set_password(password.as_deref()).map_err(|()| "cannot hold a password".to_owned())?;
    Ok(Secret::new(url))
}

/// A MongoDB URI and the database in its path. It may list several hosts with ports, which is not a URL.
pub(super) fn mongodb_uri(text: &str) -> Parsed<(Secret, Option<String>)> {
    let rest = ["mongodb://", "mongodb+srv://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.ok_or("must start with mongodb:// or mongodb+srv://")?;
    let before_query = rest.split('?').next().unwrap_or(rest);
    let place = before_query.rsplit('@').next().unwrap_or(before_query);
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    if hosts.is_empty() {
        return Err("must name a host".to_owned());
    }
    if database.contains(|c: char| c.is_control() || r#"/\. "$*<>:|%"#.contains(c)) {
        return Err("names a database with characters MongoDB does not allow".to_owned());
    }
    let database = (!database.is_empty()).then(|| database.to_owned());
    Ok((Secret::new(text), database))
}

pub(super) fn listen(text: &str) -> Parsed<Option<SocketAddr>> {
    match text.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) if text.eq_ignore_ascii_case("off") => Ok(None),
        Err(_) => Err("must be an IP address and port such as 127.0.0.1:8002, or off".to_owned()),
    }
}

pub(super) fn locale(text: &str) -> Parsed<String> {
    let tag = text.parse::<icu_locale_core::Locale>();
    match tag.is_ok() && !text.contains('_') {
        true => Ok(text.to_owned()),
        false => Err("must be a language tag such as es or es-MX".to_owned()),
    }
}

pub(super) fn currency(text: &str) -> Parsed<String> {
    match text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        true => Ok(text.to_owned()),
        false => Err("must be a currency code of three capital letters such as USD".to_owned()),
    }
}

pub(super) fn timezone(text: &str) -> Parsed<String> {
    match jiff::tz::TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err("must be an IANA time zone in this system's database, such as America/Bogota"
                .to_owned())
        }
    }
}

/// Log levels by module, such as `info,usher::broker=debug`.
pub(crate) fn log_levels(text: &str) -> Parsed<String> {
    // A misspelt level would be taken for a module, and everything else would be silent.
    let is_level_or_module = |part: &str| {
        let module = part.split('=').next().unwrap_or_default();
        part.contains('[')
            || part.parse::<LevelFilter>().is_ok()
            || (module.chars().all(|c| c.is_alphanumeric() || "_:-".contains(c))
                && (part.contains(['=', ':']) || part.starts_with("usher")))
    };
    let mut parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    if let Some(part) = parts.find(|part| !is_level_or_module(part)) {
        return Err(format!(
            "{part:?} is neither a level (off, error, warn, info, debug, trace) nor a module with a \
             level, such as hyper=debug"
        ));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) fn colour(text: &str) -> Parsed<String> {
    match text.strip_prefix('#') {
        Some(hex) if hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(text.to_owned())
        }
        _ => Err("must be a colour such as #1f3a5f".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_vhost_becomes_the_default_one_and_the_rest_is_kept() {
        let stored = |text| amqp_urls(text).map(|urls| urls[0].to_string());
        assert_eq!(stored("amqp://h").as_deref(), Ok("amqp://h/%2f"));
        assert_eq!(
            stored("amqps://u:p%40@h:1/?heartbeat=5").as_deref(),
            Ok("amqps://u:p%40@h:1/%2f?heartbeat=5")
        );
        assert_eq!(stored("amqp://h/%2F").as_deref(), Ok("amqp://h/%2F"));
        assert_eq!(stored("amqp://h/films").as_deref(), Ok("amqp://h/films"));
        assert!(
            stored("amqp://").is_err()
                && stored("redis://h").is_err()
                && stored("localhost").is_err()
                && stored("amqp://a,,b").is_err()
                && stored("amqp://a,b:x").is_err()
        );
    }

    #[test]
    fn the_database_is_found_behind_several_hosts_and_options() {
        let database = |text| mongodb_uri(text).map(|(_, database)| database);
        assert_eq!(
            database("mongodb://u:p@a:1,b:2/films?replicaSet=r"),
            Ok(Some("films".to_owned()))
        );
        assert_eq!(database("mongodb+srv://cluster.example.net/?w=1"), Ok(None));
        assert!(database("mongodb:///films").is_err() && database("mongodb://h/a.b").is_err());
    }

    #[test]
    fn redis_parts_may_hold_an_ipv6_address() {
        let url = redis_of_parts("::1", 7000, None, 0).unwrap();
        assert_eq!(url.expose(), "redis://[::1]:7000/0");
    }

    #[test]
    fn addresses_hosts_and_tags_are_checked() {
        assert!(mail_address("box@example.com").is_ok());
        for text in ["", "box", "@x", "x@", "a@b@c", "Box <a@b>", "a@b\n", "a b@c"] {
            assert!(mail_address(text).is_err(), "{text:?}");
        }
        assert_eq!(domain("Bücher.example").as_deref(), Ok("xn--bcher-kva.example"));
        assert!(domain("s1.mail").is_ok() && domain("20260101").is_ok());
        assert!(domain("a b").is_err() && domain("a;b").is_err() && domain("a..b").is_err());
        assert_eq!(ehlo_name("Büro.example").as_deref(), Ok("xn--bro-hoa.example"));
        assert!(ehlo_name("[192.0.2.1]").is_ok() && ehlo_name("[IPv6:::1]").is_ok());
        for text in ["", "localhost", "mx example.com", "192.0.2.300]", "[::1]", "a.b\r\nMAIL"] {
            assert!(ehlo_name(text).is_err(), "{text:?}");
        }
        assert!(host("::1").is_ok() && host("mx-1.example.com").is_ok());
        assert!(host("mx:25").is_err() && host("smtp://mx").is_err());
        assert!(locale("es").is_ok() && locale("en-GB").is_ok());
        assert!(
            locale("español").is_err()
                && locale("fr").is_ok()
                && locale("es_MX").is_err()
                && locale("es-").is_err()
        );
        assert!(colour("#1f3A5f").is_ok() && colour("#fff").is_err() && currency("EUR").is_ok());
        assert!(timezone("America/Bogota").is_ok() && timezone("Mars/Olympus").is_err());
    }

    #[test]
    fn a_misspelt_log_level_is_a_fault() {
        for levels in
            ["info", "DEBUG", "off", "info,usher::delivery=debug", "usher", "warn,hyper=trace"]
        {
            assert!(log_levels(levels).is_ok(), "{levels}");
        }
        for levels in ["inof", "info,debgu", "usher=debgu", "info;usher=debug"] {
            assert!(log_levels(levels).is_err(), "{levels}");
        }
    }
}
