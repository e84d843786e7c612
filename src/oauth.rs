//! Access tokens for a login by XOAUTH2 or OAUTHBEARER (RFC 6749): by a client's secret, an assertion
//! (RFC 7523), a refresh token, or a Google service account.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use url::form_urlencoded;

use crate::{
    config::{OAuth, OAuthGrant, Secret, ServiceAccount},
    redaction::mask_secrets,
    tls::{self, Pem, Renewed, TlsFiles},
};

const CLIENT_KEY: &str = "SMTP_OAUTH_CLIENT_KEY";
const SERVICE_ACCOUNT: &str = "SMTP_OAUTH_SERVICE_ACCOUNT";

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// How long before its end a token is replaced, unless it lives shorter.
const EARLY: Duration = Duration::from_secs(300);
/// How long a token lives whose answer does not say so.
const SHORT_LIFE: u64 = 300;
/// How far clocks may differ (RFC 7523 leaves it to the server; Microsoft's and Google's allow 5 minutes).
const CLOCK_LEEWAY: u64 = 300;

/// The answer of XOAUTH2, before base64 (<https://developers.google.com/workspace/gmail/imap/xoauth2-protocol>).
pub(crate) fn xoauth2(username: &str, token: &str) -> String {
    format!("user={username}\x01auth=Bearer {token}\x01\x01")
}

/// Asks the token endpoint, and keeps the token while it lives.
pub(crate) struct TokenSource {
    settings: OAuth,
    timeout: Duration,
    http: Renewed<HttpClient>,
    token: Mutex<Option<Token>>,
    /// Held while the endpoint is asked: one asks for all.
    asking: tokio::sync::Mutex<()>,
    /// A newer refresh token that the endpoint gave, and for which one.
    refresh_token: Mutex<Option<(Secret, Secret)>>,
}

#[derive(Clone)]
struct Token {
    value: Arc<Secret>,
    fresh_until: Instant,
    ends: Instant,
}

type HttpClient = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

struct Key {
    pair: RsaKeyPair,
    /// SHA-256 of the certificate, by which Microsoft knows the key.
    thumbprint: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<Value>,
    refresh_token: Option<String>,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    error_description: String,
}

impl TokenSource {
    /// `ca`: a file of authorities that the token endpoint may have beside the system's.
    pub(crate) fn new(
        settings: OAuth,
        timeout: Duration,
        ca: Option<PathBuf>,
    ) -> Result<Self, String> {
        match &settings.grant {
            OAuthGrant::ClientKey(pem) => drop(Key::read(pem.expose(), CLIENT_KEY)?),
            OAuthGrant::ServiceAccount(file) => {
                drop(Key::read(&account_of(file)?.private_key, SERVICE_ACCOUNT)?);
            }
            OAuthGrant::ClientSecret(_) | OAuthGrant::RefreshToken { .. } => {}
        }
        let client = |pem: &Pem| {
            let tls = tls::client_config(true, pem);
            let tls = tls.map_err(|error| format!("SMTP_OAUTH_TOKEN_URL: {error}"))?;
            let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
            let connector = connector.https_or_http().enable_http1().build();
            Ok(legacy::Client::builder(TokioExecutor::new()).build(connector))
        };
        let http = Renewed::new("oauth", TlsFiles { ca, ..TlsFiles::default() }, client)?;
        let (token, asking, refresh_token) =
            (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { settings, timeout, http, token, asking, refresh_token })
    }

    pub(crate) fn username(&self) -> &str {
        &self.settings.username
    }

    /// A token; another one than `refused`, which the mail server did not take.
    pub(crate) async fn token(&self, refused: Option<&Secret>) -> Result<Arc<Secret>, String> {
        let usable = |token: &Token, until: Instant| {
            until > Instant::now() && refused.is_none_or(|refused| *refused != *token.value)
        };
        if let Some(token) = self.kept().filter(|token| usable(token, token.fresh_until)) {
            return Ok(token.value);
        }
        let still_good = self.kept().filter(|token| usable(token, token.ends));
        let asking = match &still_good {
            // Somebody asks for the next one already.
            Some(token) => match self.asking.try_lock() {
                Ok(asking) => asking,
                Err(_) => return Ok(token.value.clone()),
            },
            None => self.asking.lock().await,
        };
        if let Some(token) = self.kept().filter(|token| usable(token, token.fresh_until)) {
            return Ok(token.value);
        }
        let asked = self.ask().await;
        drop(asking);
        match (asked, still_good) {
            (Ok(token), _) => Ok(token),
            (Err(reason), Some(token)) => {
                tracing::warn!(reason, "no new token yet, the last one goes on");
                Ok(token.value)
            }
            (Err(reason), None) => Err(reason),
        }
    }

    async fn ask(&self) -> Result<Arc<Secret>, String> {
        let url = &self.settings.token_url;
        let form = self.form()?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::from(form))
            .map_err(|error| format!("SMTP_OAUTH_TOKEN_URL: {error}"))?;
        let answered = timeout(self.timeout, async {
            let (head, body) = self
                .http
                .current()
                .request(request)
                .await
                .map_err(|error| chain(&error))?
                .into_parts();
            let body = Limited::new(body, MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok::<_, String>((head, body.to_bytes()))
        });
        let down = |reason: String| format!("the token endpoint {url} is down: {reason}");
        let (head, body) = match answered.await {
            Ok(answered) => answered.map_err(down)?,
            Err(_) => return Err(down(format!("no answer within {:?}", self.timeout))),
        };
        if head.status.is_server_error() || head.status == StatusCode::TOO_MANY_REQUESTS {
            return Err(down(format!("it answered {}", head.status)));
        }
        if !head.status.is_success() {
            let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
            let date = head.headers.get(header::DATE).and_then(|date| date.to_str().ok());
            return Err(self.explain(&refusal, head.status, date));
        }
        // What the answer says may be the token, so nothing of it is repeated.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| format!("the token endpoint {url} answered without an access token"))?;
        let life = match &answer.expires_in {
            Some(Value::Number(seconds)) => seconds.as_u64(),
            Some(Value::String(seconds)) => seconds.parse().ok(),
            _ => None,
        };
        let life = Duration::from_secs(life.unwrap_or(SHORT_LIFE));
        let now = Instant::now();
        let value = Arc::new(Secret::new(answer.access_token));
        let fresh_until = now + life - EARLY.min(life / 5);
        *self.locked() = Some(Token { value: value.clone(), fresh_until, ends: now + life });
        if let (Some(next), OAuthGrant::RefreshToken { token, .. }) =
            (answer.refresh_token, &self.settings.grant)
        {
            *self.refresh_token.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((token.current(), Secret::new(next)));
        }
        Ok(value)
    }

    fn form(&self) -> Result<String, String> {
        let OAuth { client_id, scope, token_url, username, .. } = &self.settings;
        let mut form = form_urlencoded::Serializer::new(String::new());
        match &self.settings.grant {
            OAuthGrant::ClientSecret(secret) => {
                form.append_pair("grant_type", "client_credentials");
                form.append_pair("client_id", client_id)
                    .append_pair("client_secret", secret.current().expose());
            }
            OAuthGrant::ClientKey(pem) => {
                let key = Key::read(pem.current().expose(), CLIENT_KEY)?;
                let claims = json!({"iss": client_id, "sub": client_id, "aud": token_url, "jti": uuid::Uuid::new_v4()});
                form.append_pair("grant_type", "client_credentials")
                    .append_pair("client_id", client_id);
                form.append_pair(
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                );
                form.append_pair("client_assertion", &key.assertion(claims, None)?);
            }
            OAuthGrant::RefreshToken { token, client_secret } => {
                let token = token.current();
                let newer =
                    self.refresh_token.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // An operator's new one counts more.
                let newer = newer.filter(|(of, _)| *of == token).map(|(_, newer)| newer);
                form.append_pair("grant_type", "refresh_token").append_pair("client_id", client_id);
                form.append_pair("refresh_token", newer.as_ref().unwrap_or(&token).expose());
                if let Some(secret) = client_secret {
                    form.append_pair("client_secret", secret.current().expose());
                }
            }
            OAuthGrant::ServiceAccount(file) => {
                let account = account_of(&file.current())?;
                let key = Key::read(&account.private_key, SERVICE_ACCOUNT)?;
                let claims = json!({
                    "iss": account.client_email, "sub": username, "aud": token_url, "scope": scope,
                });
                form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                form.append_pair(
                    "assertion",
                    &key.assertion(claims, Some(&account.private_key_id))?,
                );
                return Ok(form.finish());
            }
        }
        if let Some(scope) = scope {
            form.append_pair("scope", scope);
        }
        Ok(form.finish())
    }

    /// A refusal in words that name what to do. The codes are those of Microsoft's documentation
    /// (<https://learn.microsoft.com/entra/identity-platform/reference-error-codes>); Google has words.
    fn explain(&self, refusal: &Refusal, status: StatusCode, date: Option<&str>) -> String {
        let error = refusal.error.as_str().unwrap_or("no reason");
        let description = refusal.error_description.split(['\r', '\n']).next().unwrap_or_default();
        let description = mask_secrets(description, &self.secrets());
        let has = |words: &[&str]| words.iter().any(|word| description.contains(word));
        let what = if let Some(ahead) =
            date.and_then(clock_ahead).filter(|ahead| ahead.unsigned_abs() > CLOCK_LEEWAY)
        {
            format!("the clock is wrong: this host is {ahead} s ahead of the token endpoint")
        } else if has(&["AADSTS700024", "reasonable timeframe"]) {
            "the clock is wrong, the token endpoint says".to_owned()
        } else if has(&["AADSTS7000222"]) {
            "the client secret has expired: make a new one (SMTP_OAUTH_CLIENT_SECRET)".to_owned()
        } else if has(&["AADSTS700082", "AADSTS70008", "AADSTS50173", "expired or revoked"]) {
            "the refresh token has expired or was revoked (SMTP_OAUTH_REFRESH_TOKEN)".to_owned()
        } else if has(&["AADSTS90002", "AADSTS900023"]) {
            "there is no such tenant (SMTP_OAUTH_TENANT)".to_owned()
        } else if error == "invalid_scope"
            || has(&["AADSTS70011", "AADSTS1002012", "AADSTS65001", "scopes requested"])
        {
            "the scope is missing or not granted (SMTP_OAUTH_SCOPE)".to_owned()
        } else if matches!(error, "invalid_client" | "unauthorized_client") {
            "the client is not known, or its secret or key is wrong (SMTP_OAUTH_CLIENT_*)"
                .to_owned()
        } else {
            "the token endpoint gives no token".to_owned()
        };
        format!("{what}: {status} {error} {description}").trim_end().to_owned()
    }

    fn secrets(&self) -> Vec<String> {
        let mut secrets = match &self.settings.grant {
            OAuthGrant::ClientSecret(secret) => vec![secret],
            OAuthGrant::RefreshToken { token, client_secret } => {
                std::iter::once(token).chain(client_secret).collect()
            }
            OAuthGrant::ClientKey(_) | OAuthGrant::ServiceAccount(_) => Vec::new(),
        };
        secrets.retain(|secret| !secret.expose().is_empty());
        secrets.into_iter().map(|secret| secret.current().expose().to_owned()).collect()
    }

    fn kept(&self) -> Option<Token> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Option<Token>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn account_of(file: &Secret) -> Result<ServiceAccount, String> {
    ServiceAccount::parse(file.expose()).map_err(|reason| format!("{SERVICE_ACCOUNT}: {reason}"))
}

impl Key {
    /// The reasons never show anything of the text.
    fn read(pem: &str, setting: &str) -> Result<Self, String> {
        let pair = match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(format!("{setting}: must hold an RSA key in PEM without a password")),
        };
        let pair = pair.map_err(|error| {
            format!("{setting}: must hold RSA with 2048 to 4096 bits ({error})")
        })?;
        let certificate =
            CertificateDer::pem_slice_iter(pem.as_bytes()).next().and_then(Result::ok);
        let thumbprint = certificate.map(|der| URL_SAFE_NO_PAD.encode(Sha256::digest(der)));
        Ok(Self { pair, thumbprint })
    }

    /// A signed JWT (RFC 7515). Microsoft wants PS256 and the certificate's thumbprint, Google RS256.
    fn assertion(&self, mut claims: Value, key_id: Option<&str>) -> Result<String, String> {
        let now = now();
        claims["iat"] = now.into();
        claims["nbf"] = now.into();
        claims["exp"] = (now + 600).into();
        let (mut head, padding): (_, &dyn RsaEncoding) = match &self.thumbprint {
            Some(thumbprint) => {
                (json!({"typ": "JWT", "alg": "PS256", "x5t#S256": thumbprint}), &RSA_PSS_SHA256)
            }
            None => (json!({"typ": "JWT", "alg": "RS256"}), &RSA_PKCS1_SHA256),
        };
        if let Some(key_id) = key_id {
            head["kid"] = key_id.into();
        }
        let input = [&head, &claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(padding, &SystemRandom::new(), input.as_bytes(), &mut signature)
            .map_err(|_| "the key signs nothing: its parts do not fit together")?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// So many seconds is this clock ahead of a `Date` (RFC 9110 5.6.7).
fn clock_ahead(date: &str) -> Option<i64> {
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    Some(jiff::Timestamp::now().as_second() - theirs)
}

/// hyper's own words are `client error (Connect)`; the reason is below.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        words = format!("{words}: {error}");
        below = error.source();
    }
    words
}
