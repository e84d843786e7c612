//! Masks secrets and mail addresses in texts that are logged, recorded or shown.

use std::ops::Range;

pub fn mask_secrets(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

/// Masks what follows a secret's name in a text that can't be parsed, such as JSON that was cut or stands in a
/// string, a form or XML. `None` if there is nothing to mask.
pub fn mask_named(text: &str, is_secret: impl Fn(&str) -> bool) -> Option<String> {
    let mut masked = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(from) = text[at..].find(is_of_a_field) {
        let name = &text[at + from..];
        let name = &name[..name.find(|c| !is_of_a_field(c)).unwrap_or(name.len())];
        at += from + name.len();
        let Some(value) = is_secret(name).then(|| value_after(&text[at..])).flatten() else {
            continue;
        };
        masked.push_str(&text[copied..at + value.start]);
        masked.push_str("***");
        at += value.end;
        copied = at;
    }
    masked.push_str(&text[copied..]);
    (copied > 0).then_some(masked)
}

fn is_of_a_field(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the value stands behind a field's name, if it is a single one.
fn value_after(text: &str) -> Option<Range<usize>> {
    let is_blank = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\');
    let separated = text.trim_start_matches(is_blank).strip_prefix([':', '=', '>'])?;
    let value = separated.trim_start_matches(is_blank);
    let opening = &separated[..separated.len() - value.len()];
    let quote = opening.chars().next_back().filter(|c| matches!(c, '"' | '\''));
    let length = match quote {
        Some(quote) if opening.contains('\\') => value.find(&format!("\\{quote}")),
        Some(quote) => {
            value.match_indices(quote).map(|(at, _)| at).find(|at| !value[..*at].ends_with('\\'))
        }
        None if value.starts_with(['{', '[']) => return None,
        None => value.find(|c: char| c.is_whitespace() || ",;&}]<\"".contains(c)),
    };
    let length = length.unwrap_or(value.len());
    let start = text.len() - value.len();
    (length > 0 && value[..length] != *"***").then_some(start..start + length)
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
    fn secrets_are_masked_by_name_where_nothing_can_be_parsed() {
        for (text, masked) in [
            (r#"{"code": "12\"34", "x": 1"#, r#"{"code": "***", "x": 1"#),
            (
                r#"{"a": "{\"code\": \"1234\", \"b\": 2}"}"#,
                r#"{"a": "{\"code\": \"***\", \"b\": 2}"}"#,
            ),
            ("{'code':1234,'x':2", "{'code':***,'x':2"),
            ("a=1&code=1234&b=2", "a=1&code=***&b=2"),
            ("<code>1234</code>", "<code>***</code>"),
            ("code : ñandú\nx", "code : ***\nx"),
            (r#"{"code": "1234"#, r#"{"code": "***"#),
        ] {
            assert_eq!(mask_named(text, |name| name == "code").as_deref(), Some(masked), "{text}");
        }
        for text in [
            "",
            "code",
            "code:",
            "a code 12",
            r#"{"code": {"a": 1}}"#,
            r#"{"code": "***"}"#,
            "decode=1",
        ] {
            assert_eq!(mask_named(text, |name| name == "code"), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_masked_by_value() {
        assert_eq!(
            mask_secrets("code 123456, again 123456", &["123456".into()]),
            "code ***, again ***"
        );
    }
}
