//! The header `Idempotency-Key`: a request with the same key is processed once
//! (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use crate::api::problem::Problem;

/// Longest request id of a caller, in bytes.
const LONGEST: usize = 255;

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
                let detail =
                    format!("Idempotency-Key must be 1 to {LONGEST} characters without blanks");
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
        }
    }
}

/// A structured field's string is quoted (RFC 9651 section 3.3.3), but many clients omit the
/// quotes.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}
