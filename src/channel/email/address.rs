//! Mail addresses, including internationalised ones.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use lettre::Address;

use crate::text::is_invisible;

/// Checks an address by RFC 5321 and RFC 6531: `local@domain`, without display name or brackets.
///
/// # Errors
/// The reason, without the address.
pub fn check_recipient(address: &str) -> Result<(), String> {
    parse(address).map(drop)
}

/// The address as it is sent. Its domain is in A-labels (RFC 5890 2.3.2.1), which every server
/// understands. A local part beyond ASCII has no such form and needs SMTPUTF8.
pub(super) fn parse(address: &str) -> Result<Address, String> {
    // The address is personal data and stays out of the reason.
    if address.chars().any(char::is_control) {
        return Err("invalid address: it has a control character".to_owned());
    }
    // RFC 5321 lets a quoted local part have them; they end a path for servers that do not look for quotes.
    if address.contains(['<', '>']) {
        return Err("invalid address: it has an angle bracket".to_owned());
    }
    // Copied along from a web page or a document.
    if let Some(c) = address.chars().find(|c| is_invisible(*c)) {
        return Err(format!(
            "invalid address: it has an invisible character (U+{:04X})",
            u32::from(c)
        ));
    }
    // RFC 5321 4.5.3.1: a path has at most 256 octets, its angle brackets included, and a local part
    // at most 64.
    let too_long = |length| Err(format!("invalid address: {length} bytes, more than 254"));
    // An A-label needs at least a byte for each character, which has four at most.
    if address.len() > 4 * 254 {
        return too_long(address.len());
    }
    let (local, domain) = address.rsplit_once('@').ok_or("invalid address: it has no @")?;
    let domain = match domain.is_ascii() {
        true => Cow::Borrowed(domain),
        false => idna::domain_to_ascii_strict(domain)
            .map_err(|_| "invalid address: its domain is no internationalized one")?
            .into(),
    };
    if domain.starts_with('[') && !is_literal(&domain) {
        return Err("invalid address: what is in brackets is no IP address".to_owned());
    }
    let length = local.len() + 1 + domain.len();
    if length > 254 {
        return too_long(length);
    }
    if local.len() > 64 {
        return Err(format!("invalid address: {} bytes before the @, more than 64", local.len()));
    }
    // RFC 6531 3.3 allows every character beyond ASCII, lettre only letters, without the combining marks
    // of many scripts. lettre checks a letter that it accepts in place of each.
    let stand_in = |c: char| if c.is_ascii() || c.is_whitespace() { c } else { 'é' };
    Address::new(local.chars().map(stand_in).collect::<String>(), &domain)
        .map_err(|error| format!("invalid address: {error}"))?;
    Ok(Address::new_dangerous(local, domain))
}

/// An IP address in place of a domain: `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3; no other
/// kind was ever registered).
fn is_literal(domain: &str) -> bool {
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    literal.is_some_and(|literal| match literal.split_at_checked("IPv6:".len()) {
        Some((tag, ip)) if tag.eq_ignore_ascii_case("IPv6:") => ip.parse::<Ipv6Addr>().is_ok(),
        _ => literal.parse::<Ipv4Addr>().is_ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_could_break_a_command_are_refused() {
        for address in [
            "",
            "nobody",
            "a@b@c",
            "a b@example.com",
            "a@example.com\r\nBcc: x@example.com",
            "<a@example.com>",
            "A <a@example.com>",
            "a@example.com, b@example.com",
            "a@",
            "@example.com",
            "a@exa mple.com",
            "ñ\u{a0}@example.com",
            "ñ>@example.com",
            "ñ\u{85}@example.com",
            "a\u{200b}@example.com",
            "\u{feff}a@example.com",
            // Characters that look like an @ or become one.
            "a@b＠example.com",
            "a@b℀.example",
            "a@-bücher.example",
            // Found by fuzzing: in brackets lettre takes nearly everything for a domain.
            "a@[0||<|1]",
            "a@[>]",
            // Found by fuzzing: quotes hide brackets.
            "\"a@example.com,om<b,om<\"@example.com",
            "\"a>\"@example.com",
            "a@[example.com]",
            "a@[127.0.0.1",
            "a@[127.0.0.1]]",
            "a@[IPv6:nonsense]",
        ] {
            assert!(check_recipient(address).is_err(), "{address:?}");
        }
        assert!(check_recipient(&format!("{}@example.com", "a".repeat(65))).is_err());
        assert!(check_recipient(&format!("{}@example.com", "ñ".repeat(33))).is_err());
        assert!(check_recipient(&format!("a@{}com", "example.".repeat(32))).is_err());
        // 150 bytes as typed, more than 254 in A-labels.
        let domain = "bücherübersichtsgrößen.".repeat(9);
        assert!(check_recipient(&format!("a@{domain}example")).is_err());
    }

    #[test]
    fn domains_travel_as_a_labels_and_local_parts_as_they_are() {
        for (given, travels) in [
            ("user@example.com", "user@example.com"),
            ("o'hara+x@sub.Example.com", "o'hara+x@sub.Example.com"),
            ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
            ("user@bücher.example", "user@xn--bcher-kva.example"),
            ("user@BÜCHER.example", "user@xn--bcher-kva.example"),
            ("user@bu\u{308}cher.example", "user@xn--bcher-kva.example"),
            ("user@faß.example", "user@xn--fa-hia.example"),
            ("a@例え。テスト", "a@xn--r8jz45g.xn--zckzah"),
            ("ñandú@bücher.example", "ñandú@xn--bcher-kva.example"),
            ("संपर्क@डाटामेल.भारत", "संपर्क@xn--c2bd4bq1db8d.xn--h2brj9c"),
            ("نجيب.ب@example.com", "نجيب.ب@example.com"),
            ("🎬@example.com", "🎬@example.com"),
            ("a@[127.0.0.1]", "a@[127.0.0.1]"),
            ("a@[ipv6:2001:db8::1]", "a@[ipv6:2001:db8::1]"),
        ] {
            assert_eq!(parse(given).unwrap().to_string(), travels);
        }
    }
}
