//! Masks secrets and mail addresses in texts that are logged, recorded or shown.

pub fn mask_secrets(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

/// Masks an address for logs: `u***@example.com`.
pub fn mask_address(address: &str) -> String {
    match address.split_once('@') {
        Some((local, domain)) => {
            let first = local.chars().next().map(String::from).unwrap_or_default();
            // A malformed address may have anything after the @.
            let domain: String =
                domain.chars().filter(|c| c.is_alphanumeric() || matches!(c, '.' | '-')).collect();
            format!("{first}***@{domain}")
        }
        None => "***".to_owned(),
    }
}

/// Masks every address in a text.
pub fn mask_addresses(text: &str) -> String {
    let words = text.split_inclusive([' ', '<', '>', '(', ')', ',', ';', ':', '"', '\'']);
    let masked = words.map(|word| {
        let end = word.trim_end_matches([' ', '<', '>', '(', ')', ',', ';', ':', '"', '\'']);
        // A lone @ identifies nobody.
        if !end.contains('@') || end == "@" {
            return word.to_owned();
        }
        format!("{}{}", mask_address(end), &word[end.len()..])
    });
    masked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_masked() {
        assert_eq!(mask_address("user@example.com"), "u***@example.com");
        assert_eq!(mask_address("Ñandú@example.com"), "Ñ***@example.com");
        assert_eq!(mask_address("no address"), "***");
        assert_eq!(mask_address("a@b\r\nBcc: x@y"), "a***@bBccxy");
    }

    #[test]
    fn addresses_in_texts_are_masked() {
        assert_eq!(
            mask_addresses("550 5.1.1 <user@example.com>: no such user, ask root@example.org"),
            "550 5.1.1 <u***@example.com>: no such user, ask r***@example.org"
        );
        assert_eq!(mask_addresses("no address, it has no @"), "no address, it has no @");
    }

    #[test]
    fn secrets_are_masked_by_value() {
        assert_eq!(
            mask_secrets("code 123456, again 123456", &["123456".into()]),
            "code ***, again ***"
        );
    }
}
