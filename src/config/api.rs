//! Who may use the HTTP API, and whether it is served at all.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use super::{
    settings::{Api, ApiToken, Jwt, Secret},
    validate::Reader,
    values::{self as v, Parsed},
};

/// Shorter ones can be guessed.
const LEAST_TOKEN: usize = 16;
/// RFC 7518 3.2: as many bits as the hash.
const LEAST_SECRET: usize = 32;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Switch {
    #[default]
    Auto,
    On,
    Off,
}

/// The API; `None` when it is not served.
pub(super) fn api(r: &mut Reader, listen: Option<SocketAddr>) -> Option<Api> {
    let choices = [("auto", Switch::Auto), ("on", Switch::On), ("off", Switch::Off)];
    let switch = r.value("HTTP_API", v::one_of(&choices));
    let tokens = r.value("API_TOKENS", v::list(token));
    let jwt = jwt(r);
    let origins = r.value("CORS_ALLOWED_ORIGINS", v::list(v::origin));
    let contact_limit = r.value("CONTACT_RATE_LIMIT", v::or_none(v::rate_limit));
    let proxies = r.value("TRUSTED_PROXIES", v::list(v::network));
    let api = Api { tokens, jwt, origins, contact_limit, proxies };
    // A secret with a fault stops the start; that it opens the API is no second fault.
    let secrets = ["API_TOKENS", "JWT_SECRET", "JWT_PUBLIC_KEY"];
    let is_open = api.is_open() && !secrets.iter().any(|name| r.is_set(name));
    match (switch, listen) {
        (Switch::Off, _) => None,
        (Switch::Auto, _) if is_open => None,
        (Switch::Auto, listen) => listen.map(|_| api),
        (Switch::On, None) => {
            r.fault("HTTP_LISTEN", "must be an address, since HTTP_API is on");
            None
        }
        (Switch::On, Some(address)) => {
            if is_open && !address.ip().is_loopback() {
                let reason = format!(
                    "without API_TOKENS or JWT_* the API is for loopback only, and HTTP_LISTEN is {address}"
                );
                r.fault("HTTP_API", reason);
            }
            Some(api)
        }
    }
}

fn token(text: &str) -> Parsed<ApiToken> {
    if let Some(digest) = text.strip_prefix("sha256:") {
        let digest: Option<[u8; 32]> =
            hex::decode(digest).ok().and_then(|bytes| bytes.try_into().ok());
        return digest.map(ApiToken).ok_or_else(|| "must have 64 hex digits after sha256:".into());
    }
    // RFC 6750 2.1, and what a cookie can hold as well.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    match text.len() >= LEAST_TOKEN && text.chars().all(plain) {
        true => Ok(ApiToken(Sha256::digest(text).into())),
        false => Err(format!("must have at least {LEAST_TOKEN} letters, digits or -._~+/=")),
    }
}

fn jwt(r: &mut Reader) -> Option<Jwt> {
    let secret = r.read("JWT_SECRET", |text| match text.len() >= LEAST_SECRET {
        true => Ok(Secret::new(text)),
        false => Err(format!("must have at least {LEAST_SECRET} bytes")),
    });
    let public_key = r.read("JWT_PUBLIC_KEY", |text| {
        let key = jsonwebtoken::DecodingKey::from_rsa_pem(text.as_bytes());
        key.map_err(|_| "must be an RSA public key in PEM")?;
        Ok(Secret::new(text))
    });
    let issuer = r.read("JWT_ISSUER", v::line);
    let audience = r.read("JWT_AUDIENCE", v::line);
    let key = ["JWT_SECRET", "JWT_PUBLIC_KEY"].into_iter().find(|name| r.is_set(name));
    match key {
        Some(key) => super::email::check_together(r, &[key, "JWT_ISSUER", "JWT_AUDIENCE"]),
        None if issuer.is_some() || audience.is_some() => {
            r.report.warn("JWT_ISSUER", "ignored: there is neither JWT_SECRET nor JWT_PUBLIC_KEY");
        }
        None => {}
    }
    if secret.is_none() && public_key.is_none() {
        return None;
    }
    Some(Jwt { secret, public_key, issuer: issuer?, audience: audience? })
}
