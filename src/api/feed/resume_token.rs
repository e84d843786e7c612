//! A position in the change stream, as clients carry it.

/// Longer than the tokens of any server.
const MAX_CHARS: usize = 4096;

/// The only field of a resume token, hexadecimal on every server. It is opaque and only compared
/// for equality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Parses a client's token.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let fits = !text.is_empty() && text.len() <= MAX_CHARS && text.len().is_multiple_of(2);
        (is_hex && fits).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hexadecimal_of_a_sane_length_is_a_token() {
        assert_eq!(Token::parse("8263fa0102").expect("a token").as_str(), "8263fa0102");
        for nonsense in ["", "82z0", "823", "{}", &"82".repeat(MAX_CHARS)] {
            assert_eq!(Token::parse(nonsense), None, "{nonsense}");
        }
    }
}
