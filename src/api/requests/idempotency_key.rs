//! The header `Idempotency-Key`, by which a request can be sent again without being two
//! (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use crate::api::problem::Problem;

/// What a caller may call a request.
const LONGEST: usize = 255;

/// The key, if there is one.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut all = parts.headers.get_all("idempotency-key").iter();
        let Some(line) = all.next() else { return Ok(Self(None)) };
        let is_plain = |key: &&str| {
            (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let key = line.to_str().ok().map(unquoted).filter(is_plain);
        match (key, all.next()) {
            (Some(key), None) => Ok(Self(Some(key.to_owned()))),
            _ => {
                let detail = format!(
                    "Idempotency-Key has to be one text of 1 to {LONGEST} characters without blanks"
                );
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
        }
    }
}

/// A structured field's string has quotes around it (RFC 9651 3.3.3); many leave them out.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}
