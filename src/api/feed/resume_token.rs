//! A place in the stream, as clients carry it.

use mongodb::{
    bson::{self, Bson, doc},
    change_stream::event::ResumeToken,
};

/// Longer than any that a server makes.
const MAX_CHARS: usize = 4096;

/// A resume token's only field, which is hexadecimal on every server: opaque, and only ever compared
/// for equality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in what a client sent, unless it can be none.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let fits = !text.is_empty() && text.len() <= MAX_CHARS && text.len().is_multiple_of(2);
        (is_hex && fits).then(|| Self(text.to_owned()))
    }

    /// As clients carry it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn of(token: &ResumeToken) -> Option<Self> {
        let token = bson::serialize_to_bson(token).ok()?;
        Self::parse(token.as_document()?.get_str("_data").ok()?)
    }

    pub(super) fn to_resume(&self) -> bson::error::Result<ResumeToken> {
        bson::deserialize_from_bson(Bson::Document(doc! {"_data": &self.0}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_the_driver_as_it_went_and_nonsense_is_none() {
        let token = Token::parse("8263fa0102").expect("a token");
        let resume = token.to_resume().expect("the driver's");
        assert_eq!(Token::of(&resume), Some(token));
        for nonsense in ["", "82z0", "823", "{}", &"82".repeat(MAX_CHARS)] {
            assert_eq!(Token::parse(nonsense), None, "{nonsense}");
        }
    }
}
