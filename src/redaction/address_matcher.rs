//! Finds a mail address in texts, JSON and message bodies.

use serde_json::Value;

use super::ERASED;

/// Matches an address regardless of case.
#[derive(Debug, Clone)]
pub struct AddressMatcher(String);

impl AddressMatcher {
    pub fn new(address: &str) -> Self {
        Self(address.trim().to_lowercase())
    }

    /// Whether the text contains the address. It does not match as part of a longer address.
    pub fn is_in(&self, text: &str) -> bool {
        // Most texts contain no address.
        if self.0.is_empty() || text.len() < self.0.len() || !text.contains('@') {
            return false;
        }
        let text = text.to_lowercase();
        text.match_indices(&self.0).any(|(at, found)| {
            let before = text[..at].chars().next_back();
            let mut after = text[at + found.len()..].chars();
            let next = after.next();
            // A full stop at the end of a sentence is not part of the domain.
            let goes_on = match next {
                Some('.' | '-') => after.next().is_some_and(char::is_alphanumeric),
                other => other.is_some_and(|c| c.is_alphanumeric() || c == '_'),
            };
            !before.is_some_and(is_of_a_name) && !goes_on
        })
    }

    pub fn is_within(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.is_in(text),
            Value::Array(items) => items.iter().any(|item| self.is_within(item)),
            Value::Object(fields) => {
                fields.iter().any(|(name, value)| self.is_in(name) || self.is_within(value))
            }
            _ => false,
        }
    }

    pub fn is_in_body(&self, body: &[u8]) -> bool {
        match crate::event::read_json(body) {
            Ok(value) => self.is_within(&value),
            Err(_) => self.is_in(&String::from_utf8_lossy(body)),
        }
    }

    /// The text with the address replaced by [`ERASED`].
    pub fn cut_from(&self, text: &str) -> String {
        let words = text.split_inclusive(char::is_whitespace);
        let kept =
            words.map(|word| if self.is_in(word) { format!("{ERASED} ") } else { word.to_owned() });
        kept.collect::<String>().trim_end().to_owned()
    }
}

/// Characters allowed before the @ (RFC 5322 section 3.2.3), except those that often surround an
/// address.
fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&*+-./?^_{|}~".contains(c)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_found_wherever_it_stands_and_is_no_part_of_another() {
        let ana = AddressMatcher::new(" Ana@Example.com");
        for text in [
            "ana@example.com",
            "550 <ANA@example.com>: no such user",
            "mailto:ana@example.com",
            "write to ana@example.com.",
            "'ana@example.com', bob@example.com",
            "juana@example.com,ana@example.com",
        ] {
            assert!(ana.is_in(text), "{text}");
        }
        for text in [
            "",
            "juana@example.com",
            "x.ana@example.com",
            "ana@example.com.co",
            "ana@example.community",
            "ana@example.com-pany.test",
            "ana at example.com",
        ] {
            assert!(!ana.is_in(text), "{text}");
        }
        assert!(ana.is_within(&json!({"a": [{"b": "Ana@example.com"}]})));
        assert!(ana.is_in_body(br#"{"to": "an\u0061@example.com"}"#));
        assert!(ana.is_in_body(b"no JSON, but ana@example.com"));
        assert_eq!(ana.cut_from("call from ana@example.com today"), "call from (erased) today");
    }
}
