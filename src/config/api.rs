//! Settings of the HTTP API.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use super::{
    settings::{Api, ApiToken, HttpLimits, Jwt, Role, Secret},
    validate::{HOUR, MILLISECOND, Reader},
    values::{self as v, Parsed},
};

/// Shortest token, in characters.
const MIN_TOKEN_LENGTH: usize = 16;
/// Shortest key for HS256, in bytes: the length of the hash (RFC 7518, 3.2).
const MIN_SECRET_LENGTH: usize = 32;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Switch {
    #[default]
    Auto,
    On,
    Off,
}

/// Smallest buffer that hyper accepts.
const MIN_HEADER_BYTES: usize = 8_192;

pub(super) fn http_limits(r: &mut Reader) -> HttpLimits {
    let timeout = || v::duration_in(MILLISECOND..=HOUR);
    let header_bytes = r.read("HTTP_MAX_HEADER_BYTES", v::number(MIN_HEADER_BYTES..=1 << 20));
    HttpLimits {
        connections: r.value("HTTP_MAX_CONNECTIONS", v::number(8..=1_000_000)),
        header_bytes: header_bytes.unwrap_or(MIN_HEADER_BYTES),
        header_timeout: r.value("HTTP_HEADER_TIMEOUT", timeout()),
        write_timeout: r.value("HTTP_WRITE_TIMEOUT", timeout()),
    }
}

/// `None` if the API is not served.
pub(super) fn api(r: &mut Reader, listen: Option<SocketAddr>) -> Option<Api> {
    let choices = [("auto", Switch::Auto), ("on", Switch::On), ("off", Switch::Off)];
    let switch = r.value("HTTP_API", v::one_of(&choices));
    let tokens = r.value("API_TOKENS", v::list(token));
    if has_two_roles(&tokens) {
        r.fault("API_TOKENS", "has the same token with two roles");
    }
    let jwt = jwt(r);
    let origins = r.value("CORS_ALLOWED_ORIGINS", v::list(v::origin));
    let contact_limit = r.value("CONTACT_RATE_LIMIT", v::or_none(v::rate_limit));
    let proxies = r.value("TRUSTED_PROXIES", v::list(v::network));
    let ses_topics = r.value("RECEIPTS_SES_TOPICS", v::list(v::line));
    let ses_certificates = r.value("RECEIPTS_SES_CERTIFICATES", v::list(v::path));
    let has_topics = !ses_topics.is_empty();
    let api = Api { tokens, jwt, origins, contact_limit, proxies, ses_topics, ses_certificates };
    // A secret with a fault stops the start; that it opens the API is no second fault.
    let secrets = ["API_TOKENS", "JWT_SECRET", "JWT_PUBLIC_KEY"];
    let is_open = api.is_open() && !secrets.iter().any(|name| r.is_set(name));
    let is_served = switch == Switch::On || (switch == Switch::Auto && !is_open);
    if has_topics && !(is_served && listen.is_some()) {
        r.fault("RECEIPTS_SES_TOPICS", "needs the HTTP API (API_TOKENS, or HTTP_API is on)");
    }
    match (switch, listen) {
        (Switch::Off, _) => None,
        (Switch::Auto, _) if is_open => None,
        (Switch::Auto, listen) => listen.map(|_| api),
        (Switch::On, None) => {
            r.fault("HTTP_LISTEN", "must be an address, because HTTP_API is on");
            None
        }
        (Switch::On, Some(address)) => {
            if is_open && !address.ip().is_loopback() {
                let reason = format!(
                    "the API without API_TOKENS or JWT_* must listen on a loopback address, but HTTP_LISTEN is {address}"
                );
                r.fault("HTTP_API", reason);
            }
            Some(api)
        }
    }
}

/// `ROLE:TOKEN`, or a token that may do everything.
fn token(text: &str) -> Parsed<ApiToken> {
    let (role, token) = match text.split_once(':') {
        Some((role, token)) if role != "sha256" => {
            let role = Role::from_name(role.trim());
            (Some(role.ok_or("must begin with support:, auditor: or operator:")?), token.trim())
        }
        _ => (None, text),
    };
    Ok(ApiToken { digest: digest(token)?, role })
}

fn has_two_roles(tokens: &[ApiToken]) -> bool {
    let clash = |a: &ApiToken, b: &ApiToken| a.digest == b.digest && a.role != b.role;
    tokens.iter().any(|token| tokens.iter().any(|other| clash(token, other)))
}

fn digest(text: &str) -> Parsed<[u8; 32]> {
    if let Some(digest) = text.strip_prefix("sha256:") {
        let digest: Option<[u8; 32]> =
            hex::decode(digest).ok().and_then(|bytes| bytes.try_into().ok());
        let digest = digest.ok_or("must have 64 hex digits after sha256:")?;
        // What `sha256sum` prints for a variable that is not set.
        let of_nothing = ["", "\n"].map(|nothing| <[u8; 32]>::from(Sha256::digest(nothing)));
        return match of_nothing.contains(&digest) {
            true => Err("is the hash of an empty token".to_owned()),
            false => Ok(digest),
        };
    }
    // The characters of RFC 6750, 2.1; a cookie can hold them too.
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    match text.len() >= MIN_TOKEN_LENGTH && text.chars().all(is_allowed) {
        true => Ok(Sha256::digest(text).into()),
        false => Err(format!("must have at least {MIN_TOKEN_LENGTH} letters, digits or -._~+/=")),
    }
}

fn jwt(r: &mut Reader) -> Option<Jwt> {
    let secret = r.read("JWT_SECRET", |text| match text.len() >= MIN_SECRET_LENGTH {
        true => Ok(Secret::new(text)),
        false => Err(format!("must have at least {MIN_SECRET_LENGTH} bytes")),
    });
    let public_key = r.read("JWT_PUBLIC_KEY", |text| {
        let key = jsonwebtoken::DecodingKey::from_rsa_pem(text.as_bytes());
        key.map_err(|_| "must be an RSA public key in PEM")?;
        Ok(Secret::new(text))
    });
    let issuer = r.read("JWT_ISSUER", v::line);
    let audience = r.read("JWT_AUDIENCE", v::line);
    let role_claim = r.read("JWT_ROLE_CLAIM", v::line);
    let key = ["JWT_SECRET", "JWT_PUBLIC_KEY"].into_iter().find(|name| r.is_set(name));
    match key {
        Some(key) => super::email::check_together(r, &[key, "JWT_ISSUER", "JWT_AUDIENCE"]),
        None => {
            let set = [&issuer, &audience, &role_claim].map(Option::is_some);
            let names = ["JWT_ISSUER", "JWT_AUDIENCE", "JWT_ROLE_CLAIM"];
            if let Some((name, _)) = names.into_iter().zip(set).find(|(_, is_set)| *is_set) {
                let reason = "ignored, because neither JWT_SECRET nor JWT_PUBLIC_KEY is set";
                r.report.warn(name, reason);
            }
        }
    }
    if secret.is_none() && public_key.is_none() {
        return None;
    }
    Some(Jwt { secret, public_key, issuer: issuer?, audience: audience?, role_claim })
}
