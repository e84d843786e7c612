//! A login by access token: where tokens come from, and by what.

use serde::Deserialize;

use super::settings::{OAuth, OAuthGrant};
use super::validate::Reader;
use super::values as v;

/// What a provider's documents say, so that nobody has to copy it.
#[derive(Clone, Copy)]
enum Provider {
    Microsoft365,
    Gmail,
}

/// The file that Google gives for a service account.
#[derive(Deserialize)]
pub(crate) struct ServiceAccount {
    pub(crate) client_email: String,
    /// RSA in PEM.
    pub(crate) private_key: String,
    #[serde(default)]
    pub(crate) private_key_id: String,
    #[serde(default)]
    token_uri: String,
}

impl ServiceAccount {
    /// # Errors
    /// Never with anything of the text, which holds a key.
    pub(crate) fn parse(text: &str) -> v::Parsed<Self> {
        serde_json::from_str(text)
            .map_err(|_| "must be the JSON file of a Google service account".to_owned())
    }
}

/// With `SMTP_AUTH=oauth2`: the settings, where they are complete, and the provider's mail server.
pub(super) fn oauth(
    r: &mut Reader,
    username: Option<&String>,
) -> Option<(Option<OAuth>, Option<&'static str>)> {
    let provider = r.read(
        "SMTP_OAUTH_PROVIDER",
        v::one_of(&[("microsoft365", Provider::Microsoft365), ("gmail", Provider::Gmail)]),
    );
    let tenant = r.read("SMTP_OAUTH_TENANT", v::host);
    let token_url = r.read("SMTP_OAUTH_TOKEN_URL", token_url);
    let client_id = r.read("SMTP_OAUTH_CLIENT_ID", v::line);
    let client_secret = r.secret("SMTP_OAUTH_CLIENT_SECRET");
    let client_key = r.secret("SMTP_OAUTH_CLIENT_KEY");
    let scope = r.read("SMTP_OAUTH_SCOPE", v::line);
    let refresh_token = r.secret("SMTP_OAUTH_REFRESH_TOKEN");
    let account_file = r.secret("SMTP_OAUTH_SERVICE_ACCOUNT");
    let account = r.read("SMTP_OAUTH_SERVICE_ACCOUNT", ServiceAccount::parse);
    if !r.value("SMTP_AUTH", v::one_of(&[("password", false), ("oauth2", true)])) {
        return None;
    }
    let (url, default_scope, server) = match provider {
        Some(Provider::Microsoft365) => (
            tenant.map(|tenant| {
                format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token")
            }),
            Some("https://outlook.office365.com/.default"),
            Some("smtp.office365.com"),
        ),
        Some(Provider::Gmail) => (
            Some("https://oauth2.googleapis.com/token".to_owned()),
            Some("https://mail.google.com/"),
            Some("smtp.gmail.com"),
        ),
        None => (None, None, None),
    };
    let of_account =
        account.as_ref().map(|account| account.token_uri.clone()).filter(|uri| !uri.is_empty());
    let token_url = token_url.or(of_account).or(url);
    let scope = scope.or_else(|| default_scope.map(ToOwned::to_owned));
    let need = |r: &mut Reader, name: &str, why: &str| {
        if !r.is_set(name) {
            r.fault(name, format!("must be set, since SMTP_AUTH is oauth2{why}"));
        }
    };
    if username.is_none() {
        need(r, "SMTP_USERNAME", "");
    }
    if token_url.is_none() {
        need(
            r,
            "SMTP_OAUTH_TOKEN_URL",
            " (or SMTP_OAUTH_PROVIDER, with SMTP_OAUTH_TENANT for microsoft365)",
        );
    }
    let needs_client = account.is_none() && !r.is_set("SMTP_OAUTH_SERVICE_ACCOUNT");
    if needs_client && client_id.is_none() {
        need(r, "SMTP_OAUTH_CLIENT_ID", "");
    }
    let grant = match (account_file, refresh_token, client_key, client_secret) {
        (Some(account), ..) => Some(OAuthGrant::ServiceAccount(account)),
        (None, Some(token), _, client_secret) => {
            Some(OAuthGrant::RefreshToken { token, client_secret })
        }
        (None, None, Some(key), _) => Some(OAuthGrant::ClientKey(key)),
        (None, None, None, Some(secret)) => Some(OAuthGrant::ClientSecret(secret)),
        (None, None, None, None) => {
            if needs_client {
                need(
                    r,
                    "SMTP_OAUTH_CLIENT_SECRET",
                    " (or SMTP_OAUTH_CLIENT_KEY, SMTP_OAUTH_REFRESH_TOKEN or SMTP_OAUTH_SERVICE_ACCOUNT)",
                );
            }
            None
        }
    };
    let complete = || {
        Some(OAuth {
            username: username?.clone(),
            token_url: token_url?,
            client_id: client_id.unwrap_or_default(),
            grant: grant?,
            scope,
        })
    };
    Some((complete(), server))
}

/// The secret goes there, so it has to be encrypted or stay on this host.
fn token_url(text: &str) -> v::Parsed<String> {
    let url = v::web_url(text)?;
    let host = url::Url::parse(&url).ok().and_then(|url| url.host_str().map(ToOwned::to_owned));
    match url.starts_with("https:") || host.is_some_and(|host| v::is_loopback(&host)) {
        true => Ok(url),
        false => Err("must start with https://".to_owned()),
    }
}
