//! Authentication by bearer token, which browsers keep in a cookie. Without any token configured,
//! only clients on this machine are served.

pub(super) mod client;
mod jwt;
pub(super) mod session;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use self::jwt::Tokens;
use super::{ApiState, problem::Problem};
use crate::config::{Api, ApiToken, Role};

/// The cookie with a browser's token.
pub(crate) const COOKIE: &str = "usher_token";

/// Authenticates requests.
pub struct Guard {
    tokens: Vec<ApiToken>,
    jwt: Option<Tokens>,
    origins: Vec<String>,
    is_open: bool,
}

/// The authenticated client of a request, in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Distinguishes callers; contains nothing secret.
    pub name: Arc<str>,
    /// When the token expires, if it does.
    pub until: Option<Timestamp>,
    /// `None`: it may do everything.
    pub role: Option<Role>,
}

impl Guard {
    pub fn new(settings: &Api) -> Self {
        Self {
            tokens: settings.tokens.clone(),
            jwt: settings.jwt.as_ref().map(Tokens::new),
            origins: settings.origins.clone(),
            is_open: settings.is_open(),
        }
    }

    /// Whether no token is required.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The caller with this token.
    pub(crate) fn caller(&self, token: &str) -> Result<Caller, Problem> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        // Compares with every token completely, so that timing reveals nothing.
        let known = self.tokens.iter().fold(None, |known, one| {
            if bool::from(one.digest.ct_eq(&digest)) { Some(one.role) } else { known }
        });
        if let Some(role) = known {
            let name = format!("token {}", hex::encode(&digest[..4])).into();
            return Ok(Caller { name, until: None, role });
        }
        let jwt = self.jwt.as_ref().ok_or_else(Problem::unauthorized)?;
        let claims = jwt.claims(token).ok_or_else(Problem::unauthorized)?;
        if let Some(claim) = jwt.role_claim().filter(|_| claims.role.is_none()) {
            let detail = format!(
                "the token's claim {claim} has none of the roles support, auditor, operator"
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let until = Some(claims.until());
        Ok(Caller { name: format!("jwt {}", claims.sub).into(), until, role: claims.role })
    }

    fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
        if self.is_open {
            self.check_origin(headers, false)?;
            return Ok(Caller { name: "loopback".into(), until: None, role: None });
        }
        if headers.contains_key(header::AUTHORIZATION) {
            return self.caller(bearer(headers).ok_or_else(Problem::unauthorized)?);
        }
        let caller = self.caller(cookie(headers).ok_or_else(Problem::unauthorized)?)?;
        // Any page can make a browser send a cookie along.
        let reads =
            matches!(*method, Method::GET | Method::HEAD) && !headers.contains_key(header::UPGRADE);
        self.check_origin(headers, !reads)?;
        Ok(caller)
    }

    /// The request has to come from usher's own page or a listed origin. Only browsers send an
    /// origin.
    pub(crate) fn check_origin(&self, headers: &HeaderMap, needed: bool) -> Result<(), Problem> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return if needed { Err(forbidden_origin()) } else { Ok(()) };
        };
        let origin = origin.to_str().map_err(|_| forbidden_origin())?;
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        // TLS may end before usher, so that the scheme is unknown.
        let place = origin.split_once("://").map(|(_, place)| place);
        let is_known =
            (place.is_some() && place == host) || self.origins.iter().any(|one| one == origin);
        if is_known { Ok(()) } else { Err(forbidden_origin()) }
    }
}

fn forbidden_origin() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "this origin is not allowed")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut cookies =
        lines.flat_map(|line| line.split(';')).filter_map(|one| one.trim().split_once('='));
    cookies.find(|(name, _)| *name == COOKIE).map(|(_, token)| token)
}

/// A layer that authenticates the caller.
pub(crate) async fn require(
    State(api): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = api.guard.admit(request.method(), request.headers())?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// A layer that refuses callers whose role is lower. It stands inside of [`require`].
pub(crate) async fn require_role(
    State(needed): State<Role>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    match caller.role.filter(|role| *role < needed) {
        Some(role) => {
            let detail =
                format!("the role {} may not do this; it needs {}", role.as_str(), needed.as_str());
            Err(Problem::new(StatusCode::FORBIDDEN, detail))
        }
        None => Ok(next.run(request).await),
    }
}

/// A layer for the mode without tokens: rejects other host names than localhost, which DNS
/// rebinding could have pointed here.
pub(crate) async fn require_loopback(
    State(api): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if api.guard.is_open && !is_loopback(request.headers()) {
        let detail = "without tokens, only localhost is served";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    Ok(next.run(request).await)
}

fn is_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use jiff::Timestamp;
    use ring::hmac;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{ApiToken, Jwt, Secret};

    const TOKEN: &str = "a-token-of-20-letters";
    const SECRET: &str = "a secret of at least 32 bytes, as RFC 7518 has it";

    fn guard() -> Guard {
        guard_with(None)
    }

    fn guard_with(role_claim: Option<&str>) -> Guard {
        let jwt = Jwt {
            secret: Some(Secret::new(SECRET)),
            public_key: None,
            issuer: "https://id.example.com".into(),
            audience: "usher".into(),
            role_claim: role_claim.map(Into::into),
        };
        let known = ApiToken { digest: Sha256::digest(TOKEN).into(), role: None };
        let tokens = vec![ApiToken { digest: [7; 32], role: Some(Role::Support) }, known];
        let origins = vec!["https://tickets.example.com".to_owned()];
        Guard::new(&Api { tokens, jwt: Some(jwt), origins, ..Api::default() })
    }

    fn signed(header: &Value, claims: &Value, secret: &str) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let part = |value: &Value| encode(value.to_string().as_bytes());
        let text = format!("{}.{}", part(header), part(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("{text}.{}", encode(hmac::sign(&key, text.as_bytes()).as_ref()))
    }

    fn headers(all: &[(header::HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_jwt_counts_if_everything_about_it_does() {
        let (guard, now) = (guard(), Timestamp::now().as_second());
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let good = json!({"sub": "ana", "iss": "https://id.example.com", "aud": "usher", "exp": now + 600});
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            claims
        };
        let caller = guard.caller(&signed(&header, &good, SECRET)).ok();
        assert_eq!(caller.map(|caller| (caller.name, caller.role)), Some(("jwt ana".into(), None)));
        for bad in [
            with("iss", "https://other.example.com".into()),
            with("aud", "somebody else".into()),
            with("exp", (now - 600).into()),
            with("exp", "tomorrow".into()),
            with("exp", Value::Null),
            with("nbf", (now + 600).into()),
            with("sub", Value::Null),
            json!({"sub": "ana"}),
        ] {
            assert!(guard.caller(&signed(&header, &bad, SECRET)).is_err(), "{bad}");
        }
        assert!(guard.caller(&signed(&header, &good, "another")).is_err());
        for alg in ["none", "HS512", "RS256"] {
            assert!(guard.caller(&signed(&json!({"alg": alg}), &good, SECRET)).is_err(), "{alg}");
        }
    }

    #[test]
    fn a_jwt_has_the_highest_role_that_its_claim_names() {
        let role = |claim: &str, roles: Value| {
            let mut claims = json!({
                "sub": "ana", "iss": "https://id.example.com", "aud": "usher",
                "exp": Timestamp::now().as_second() + 600,
            });
            claims["roles"] = roles.clone();
            claims["realm"] = json!({"roles": roles});
            let token = signed(&json!({"alg": "HS256"}), &claims, SECRET);
            guard_with(Some(claim)).caller(&token).ok().and_then(|caller| caller.role)
        };
        assert_eq!(role("roles", json!("support")), Some(Role::Support));
        assert_eq!(role("roles", json!(["support", "x", "operator"])), Some(Role::Operator));
        assert_eq!(role("roles", json!("support auditor")), Some(Role::Auditor));
        assert_eq!(role("/realm/roles", json!(["auditor"])), Some(Role::Auditor));
        for none in [json!("admin"), json!(["Operator"]), json!({"operator": true}), Value::Null] {
            assert_eq!(role("roles", none.clone()), None, "{none}");
        }
        assert_eq!(role("other", json!("operator")), None);
    }

    #[test]
    fn a_cookie_counts_only_for_pages_of_ones_own() {
        let guard = guard();
        let cookie = format!("other=1; {COOKIE}={TOKEN}");
        let asked = |method: &Method, more: &[(header::HeaderName, &str)]| {
            let own = [(header::HOST, "usher.example.com"), (header::COOKIE, cookie.as_str())];
            guard.admit(method, &headers(&[&own[..], more].concat())).is_ok()
        };
        let origin = |origin| (header::ORIGIN, origin);
        assert!(asked(&Method::GET, &[]));
        assert!(!asked(&Method::POST, &[]));
        assert!(!asked(&Method::GET, &[(header::UPGRADE, "websocket")]));
        for known in ["https://usher.example.com", "https://tickets.example.com"] {
            assert!(asked(&Method::POST, &[origin(known)]), "{known}");
        }
        for unknown in ["https://example.com", "null", "http://tickets.example.com"] {
            assert!(!asked(&Method::GET, &[origin(unknown)]), "{unknown}");
        }
        let bearer = format!("Bearer {TOKEN}");
        let own = headers(&[(header::AUTHORIZATION, &bearer), origin("https://example.com")]);
        assert!(guard.admit(&Method::POST, &own).is_ok(), "no page can send this by itself");
        let wrong = [(header::AUTHORIZATION, "Bearer wrong"), (header::COOKIE, cookie.as_str())];
        assert!(guard.admit(&Method::GET, &headers(&wrong)).is_err());
    }

    #[test]
    fn without_tokens_only_loopback_is_answered() {
        let host = |host| is_loopback(&headers(&[(header::HOST, host)]));
        for own in ["localhost", "LOCALHOST:8002", "127.0.0.1:8002", "[::1]:8002", "[::1]"] {
            assert!(host(own), "{own}");
        }
        for other in
            ["example.com", "localhost.example.com", "10.0.0.1:8002", "", "127.0.0.1.nip.io"]
        {
            assert!(!host(other), "{other}");
        }
        assert!(!is_loopback(&HeaderMap::new()));
        let open = Guard::new(&Api::default());
        let page = [(header::HOST, "localhost:8002"), (header::ORIGIN, "https://example.com")];
        assert!(open.admit(&Method::GET, &headers(&page[..1])).is_ok());
        assert!(open.admit(&Method::GET, &headers(&page)).is_err());
    }
}
