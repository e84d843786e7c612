//! Typed settings from three layers: the environment overrides the settings file, which overrides the
//! embedded `config/defaults.toml`, the reference of all settings. [`load`] reports all faults at once,
//! each with the source of the value, and never prints a secret.

mod api;
mod email;
mod layers;
mod mailbox;
mod names;
mod oauth;
mod redis_servers;
mod relays;
mod settings;
mod sms;
mod stream;
mod tls;
mod validate;
mod values;

use std::fmt;
use std::path::Path;

pub use crate::tls::TlsFiles;
pub use layers::{Environment, Origin};
pub use names::{Kind, NAMES, Name};
pub(crate) use oauth::ServiceAccount;
pub(crate) use redis_servers::{RedisServers, redis_servers};
pub use settings::{
    Api, ApiToken, BounceMailbox, Brand, Dkim, Email, EmailBackend, Endpoint, HttpLimits, Jwt,
    LogFormat, MailboxLogin, OAuth, OAuthGrant, PRE_SEND_BUDGET, RateLimit, Relay, Role, Secret,
    Settings, Smtp, SmtpTls, Stream, Twilio,
};
pub(crate) use values::{amqp_urls, log_levels};

/// Reads and checks the settings. The caller logs the warnings, because the log format is a setting too.
///
/// # Errors
/// All faults, including a `file` that can't be read.
pub fn load(file: Option<&Path>, env: &Environment) -> Result<(Settings, Vec<Warning>), Faults> {
    let mut report = Report::default();
    let layers = layers::Layers::read(file, env, &mut report);
    let settings = validate::settings(&layers, &mut report);
    if report.faults.is_empty() {
        Ok((settings, report.warnings))
    } else {
        Err(Faults(report.faults))
    }
}

/// A reason why usher can't start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Canonical name of the setting, or the unknown key of the file.
    pub setting: String,
    /// Source of the value, as [`Origin`] prints it.
    pub origin: String,
    /// Never holds a secret.
    pub reason: String,
    /// `None` for a secret, or if there is no value.
    pub value: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.setting, self.origin, self.reason)?;
        match &self.value {
            // Debug escapes line breaks, so that each fault stays on one line.
            Some(value) => write!(f, ", got {value:?}"),
            None => Ok(()),
        }
    }
}

/// All faults, printed one per line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<Fault>);

/// A setting that is allowed but risky, or ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Canonical name of the setting.
    pub setting: String,
    /// Never holds a secret.
    pub reason: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.reason)
    }
}

#[derive(Default)]
struct Report {
    faults: Vec<Fault>,
    warnings: Vec<Warning>,
}

impl Report {
    fn fault(
        &mut self,
        setting: &str,
        origin: impl fmt::Display,
        reason: impl Into<String>,
        value: Option<String>,
    ) {
        self.faults.push(Fault {
            setting: setting.to_owned(),
            origin: origin.to_string(),
            reason: reason.into(),
            value,
        });
    }

    fn warn(&mut self, setting: &str, reason: impl Into<String>) {
        self.warnings.push(Warning { setting: setting.to_owned(), reason: reason.into() });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn from_env(vars: &[(&str, &str)]) -> Result<(Settings, Vec<Warning>), Faults> {
        load(None, &vars.iter().copied().collect())
    }

    fn faults(vars: &[(&str, &str)]) -> String {
        from_env(vars).unwrap_err().to_string()
    }

    fn warned(warnings: &[Warning], setting: &str) -> bool {
        warnings.iter().any(|w| w.setting == setting)
    }

    const REAL_SMTP: [(&str, &str); 2] =
        [("SMTP_HOST", "mx.example.com"), ("FROM_EMAIL", "box@example.com")];

    fn smtp(more: &[(&str, &str)]) -> (Smtp, Vec<Warning>) {
        let (settings, warnings) = from_env(&[&REAL_SMTP, more].concat()).unwrap();
        let [relay] = settings.email.backend.relays() else {
            panic!("expected SMTP, got {:?}", settings.email.backend)
        };
        (relay.smtp.clone(), warnings)
    }

    #[test]
    fn the_defaults_alone_simulate_mail_and_warn_of_the_public_pepper_only() {
        let (settings, warnings) = from_env(&[]).unwrap();
        assert!(matches!(settings.email.backend, EmailBackend::Simulated));
        assert_eq!(settings.email.from_address, "noreply@localhost.localdomain");
        assert_eq!(settings.brand.name, "Movie Ticket Booking System");
        assert_eq!(settings.contact_emails, ["noreply@localhost.localdomain"]);
        assert_eq!(settings.rabbitmq.url.expose(), "amqp://localhost:5672/%2f");
        assert_eq!(settings.mongodb_database, "usher");
        assert_eq!(settings.retry_schedule, [5, 25, 125, 600, 3600].map(Duration::from_secs));
        assert_eq!(settings.http_listen, "127.0.0.1:8002".parse().ok());
        assert_eq!(
            warnings.iter().map(|w| w.setting.as_str()).collect::<Vec<_>>(),
            ["USHER_PEPPER"]
        );
    }

    #[test]
    fn every_fault_is_reported_on_its_own_line_without_secrets() {
        let text = faults(&[
            ("EMAIL_PORT", "0"),
            ("RABBITMQ_URL", "http://u:hunter2@h"),
            ("DEFAULT_CURRENCY", "usd"),
            ("TIMEZONE", "Mars/Olympus"),
            ("INSTANCE_TTL", "10s"),
            ("ADMIN_EMAILS", "a@example.com, nobody"),
        ]);
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains(
            "SMTP_PORT (environment EMAIL_PORT): must be a whole number from 1 to 65535, got \"0\""
        ));
        assert!(text.contains("3 x INSTANCE_RENEWAL 5s = 15s"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_message_may_not_be_held_for_longer_than_the_broker_allows() {
        let text = faults(&[&REAL_SMTP[..], &[("SMTP_DOT_TIMEOUT", "40m")]].concat());
        assert!(text.contains("30m is not more than 2m before the body"), "{text}");
        assert!(text.contains("+ SMTP_DOT_TIMEOUT 40m = 42m"), "{text}");
        let more = [("SMTP_DOT_TIMEOUT", "40m"), ("ACK_TIMEOUT", "60m")];
        let (settings, _) = from_env(&[&REAL_SMTP[..], &more].concat()).unwrap();
        assert_eq!(settings.hold, Duration::from_secs(9 * 60));
    }

    #[test]
    fn debug_of_settings_holds_no_secret() {
        let vars = [
            ("SMTP_USERNAME", "me@example.com"),
            ("SMTP_PASSWORD", "hunter2"),
            ("REDIS_PASSWORD", "hunter2"),
            ("MONGODB_URI", "mongodb://u:hunter2@h/db"),
            ("USHER_PEPPER", "hunter2"),
            ("DKIM_SELECTOR", "s"),
            ("DKIM_PRIVATE_KEY", "hunter2"),
        ];
        let (settings, warnings) = from_env(&vars).unwrap();
        assert!(!format!("{settings:?}{warnings:?}").contains("hunter2"));
        let [relay] = settings.email.backend.relays() else {
            panic!("a login alone implies a server")
        };
        assert_eq!(relay.smtp.server, "smtp.gmail.com");
        assert_eq!(settings.email.from_address, "me@example.com");
    }

    #[test]
    fn the_older_tls_switch_maps_only_when_smtp_tls_is_unset() {
        assert_eq!(smtp(&[]).0.tls, SmtpTls::Starttls);
        assert_eq!(smtp(&[("EMAIL_USE_TLS", "false")]).0.tls, SmtpTls::None);
        assert_eq!(smtp(&[("SMTP_USE_TLS", "1"), ("SMTP_PORT", "465")]).0.tls, SmtpTls::Implicit);
        let (smtp, warnings) = smtp(&[("SMTP_TLS", "implicit"), ("SMTP_USE_TLS", "no")]);
        assert_eq!(smtp.tls, SmtpTls::Implicit);
        assert!(warned(&warnings, "SMTP_USE_TLS"));
    }

    #[test]
    fn risky_smtp_settings_warn() {
        let login = [("SMTP_USER", "me"), ("SMTP_PASSWORD", "pw"), ("SMTP_TLS", "none")];
        assert!(warned(&smtp(&login).1, "SMTP_TLS"));
        assert!(!warned(
            &smtp(&[&login[..], &[("SMTP_SERVER", "127.0.0.1")]].concat()).1,
            "SMTP_TLS"
        ));
        assert!(warned(&smtp(&[("SMTP_VERIFY_SSL", "off")]).1, "SMTP_VERIFY_SSL"));
        let signed = [("DKIM_SELECTOR", "s"), ("DKIM_PRIVATE_KEY", "k")];
        let ses =
            [("SMTP_HOST", "email-smtp.eu-west-1.amazonaws.com"), ("FROM_EMAIL", "a@example.com")];
        let (_, warnings) = from_env(&[&ses[..], &signed[..]].concat()).unwrap();
        assert!(warned(&warnings, "DKIM_SELECTOR"));
        assert!(!warned(&smtp(&signed).1, "DKIM_SELECTOR"));
        assert!(warned(&smtp(&[]).1, "DRAIN_TIMEOUT"));
        assert!(!warned(&smtp(&[("DRAIN_TIMEOUT", "10m")]).1, "DRAIN_TIMEOUT"));
    }

    #[test]
    fn half_a_login_or_signature_and_a_missing_sender_or_server_are_faults() {
        assert!(faults(&[("SMTP_USERNAME", "me")]).starts_with("SMTP_PASSWORD (not set)"));
        let oauth = |more: &[(&str, &str)]| {
            let names = [("SMTP_AUTH", "oauth2"), ("SMTP_USERNAME", "me@example.com")];
            from_env(&[&names[..], more].concat())
        };
        let text = oauth(&[("SMTP_SERVER", "mx.example.com")]).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 3, "token URL, client id, secret: {text}");
        let microsoft = [
            ("SMTP_OAUTH_PROVIDER", "microsoft365"),
            ("SMTP_OAUTH_TENANT", "contoso.example"),
            ("SMTP_OAUTH_CLIENT_ID", "1234"),
            ("SMTP_OAUTH_CLIENT_SECRET", "hunter2"),
        ];
        let (settings, _) = oauth(&microsoft).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        let smtp = &settings.email.backend.relays()[0].smtp;
        assert_eq!(smtp.server, "smtp.office365.com");
        assert!(smtp.oauth.as_ref().unwrap().token_url.contains("/contoso.example/"));
        let plain = oauth(&[&microsoft[..], &[("SMTP_TLS", "none")]].concat());
        assert!(plain.unwrap_err().to_string().starts_with("SMTP_TLS"));
        assert!(faults(&[("DKIM_SELECTOR", "s")]).starts_with("DKIM_PRIVATE_KEY (not set)"));
        assert_eq!(
            faults(&[("DKIM_PRIVATE_KEY", "hunter2")]),
            "DKIM_SELECTOR (not set): must be set, because DKIM_PRIVATE_KEY is"
        );
        assert!(faults(&[("SMTP_SERVER", "mx.example.com")]).starts_with("FROM_EMAIL (not set)"));
        assert!(faults(&[("SIMULATE", "never")]).starts_with("SMTP_SERVER (not set)"));
        let unreadable = faults(&[("SMTP_USERNAME", "me"), ("SMTP_PASSWORD_FILE", "/no/such")]);
        assert_eq!(
            unreadable.lines().count(),
            1,
            "no fault that only follows from another: {unreadable}"
        );
    }

    fn from_file(text: &str, vars: &[(&str, &str)]) -> Result<(Settings, Vec<Warning>), Faults> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(Some(file.path()), &vars.iter().copied().collect())
    }

    #[test]
    fn relays_are_tables_of_their_own_beside_the_default_one() {
        let file = "
            [[relay]]
            name = 'backup'
            server = 'mx.example.net'
            port = 465
            tls = 'implicit'
            from_email = 'cine@example.net'
            dot_timeout = '11m'
            [[relay]]
            name = 'first'
            order = 0
            weight = 3
            routes = ['booking-confirmed']
            server = 'mx.example.org'";
        let (settings, _) =
            from_file(file, &[&REAL_SMTP[..], &[("SMTP_PORT", "26")]].concat()).unwrap();
        let relays = settings.email.backend.relays();
        let brief: Vec<_> =
            relays.iter().map(|one| (one.name.as_str(), one.order, one.smtp.port)).collect();
        assert_eq!(brief, [("default", 0, 26), ("first", 0, 587), ("backup", 1, 465)]);
        assert_eq!(relays[2].from_address.as_deref(), Some("cine@example.net"));
        assert_eq!((&relays[2].from_name, &relays[1].from_address), (&None, &None));
        assert_eq!((relays[0].weight, relays[1].weight), (1, 3));
        assert_eq!(relays[1].routes, ["booking-confirmed"]);
        assert_eq!(relays[1].smtp.dot_timeout, Duration::from_secs(600), "the default");
        // The longest transaction counts.
        let hold = (30 * 60 - 2 * 60 - 11 * 60) / 2;
        assert_eq!(settings.hold, Duration::from_secs(hold));
        // Mail goes out by relays alone, too.
        let sender = [("FROM_EMAIL", "box@example.com")];
        assert_eq!(from_file(file, &sender).unwrap().0.email.backend.relays().len(), 2);
        assert!(from_file(file, &[]).unwrap_err().to_string().starts_with("FROM_EMAIL (not set)"));
    }

    #[test]
    fn faults_of_relays_are_reported_together_under_their_names() {
        let file = "
            relays = 1
            [[relay]]
            name = 'backup'
            server = 'mx.example.net'
            port = 0
            pasword = 'hunter2'
            username = 'me'
            [[relay]]
            name = 'backup'
            server = 'mx.example.org'
            ca_file = '/no/such'
            [[relay]]
            order = 2
            [[relay]]
            name = 'default'
            server = 'mx.example.org'
            password_file = '/no/such'
            username = 'me'";
        let text = from_file(file, &REAL_SMTP).unwrap_err().to_string();
        for line in [
            "relays (",
            "relay backup, port (",
            "relay backup, pasword (",
            "is `password` meant?",
            "relay backup, password (not set): must be set, because username is",
            "relay backup, name (",
            "relay backup, ca_file (",
            "relay #3, name (not set): must be set",
            "relay #3, server (not set): must be set",
            "relay default, name (",
            "relay default, password (",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let text = from_file("relay = 'backup'", &[]).unwrap_err().to_string();
        assert!(text.contains("must be [[relay]] tables"), "{text}");
        let risky = "[[relay]]\nname = 'b'\nserver = 'mx.example.org'\nverify_ssl = false";
        let (_, warnings) = from_file(risky, &REAL_SMTP).unwrap();
        assert!(warned(&warnings, "relay b, verify_ssl"));
    }

    #[test]
    fn a_rate_is_spread_over_its_period() {
        let rate = |text: &str| {
            let rate = smtp(&[("SMTP_RATE", text)]).0.rate.unwrap();
            (rate.count, rate.period.as_millis())
        };
        assert_eq!(rate("14/s"), (1, 72));
        assert_eq!(rate("30/min"), (1, 2000));
        assert_eq!(rate("500 / 1s"), (50, 100));
        assert_eq!(rate("1000/s"), (100, 100));
        assert_eq!(rate("3600/h"), (1, 1000));
        for text in ["14", "0/s", "1001/s", "5/fortnight", "1/0s", "-1/s"] {
            let wrong = faults(&[&REAL_SMTP[..], &[("SMTP_RATE", text)]].concat());
            assert!(wrong.starts_with("SMTP_RATE (environment SMTP_RATE): must be"), "{wrong}");
        }
    }

    #[test]
    fn other_backends_need_no_server_and_always_overrules_all() {
        let (settings, _) =
            from_env(&[("EMAIL_BACKEND", "file"), ("SMTP_USERNAME", "me")]).unwrap();
        assert!(
            matches!(settings.email.backend, EmailBackend::File(path) if path == Path::new("./mail"))
        );
        let always =
            [&REAL_SMTP[..], &[("SIMULATE", "always"), ("EMAIL_BACKEND", "console")]].concat();
        assert!(matches!(from_env(&always).unwrap().0.email.backend, EmailBackend::Simulated));
    }

    #[test]
    fn redis_is_composed_of_parts_unless_a_url_is_given() {
        let parts = [("REDIS_HOST", "cache"), ("REDIS_PASSWORD", "a%2/@b"), ("REDIS_DB", "3")];
        let (settings, _) = from_env(&parts).unwrap();
        assert_eq!(settings.redis.url.expose(), "redis://:a%252%2F%40b@cache:6379/3");
        let (settings, warnings) =
            from_env(&[&parts[..], &[("REDIS_URL", "rediss://other:1")]].concat()).unwrap();
        assert_eq!(settings.redis.url.expose(), "rediss://other:1");
        assert!(warned(&warnings, "REDIS_URL"));
    }

    #[test]
    fn streams_are_off_until_a_server_is_named() {
        let stream = |vars: &[(&str, &str)]| from_env(vars).unwrap().0.stream;
        assert!(stream(&[("STREAM_KEYS", "a")]).is_none());
        let url = ("STREAM_URL", "redis://cache");
        assert_eq!(stream(&[url]).unwrap().keys, ["email:notifications"]);
        assert_eq!(stream(&[url, ("STREAM_KEYS", "a, b:c")]).unwrap().keys, ["a", "b:c"]);
        assert!(faults(&[url, ("STREAM_KEYS", ",")]).contains("is a list without an item"));
        assert!(faults(&[("STREAM_URL", "http://cache")]).starts_with("STREAM_URL"));
        let unencrypted = faults(&[url, ("STREAM_CA_FILE", "/no/such")]);
        assert!(unencrypted.contains("needs STREAM_URL with rediss://"), "{unencrypted}");
    }

    #[test]
    fn retries_are_cut_to_the_maximum() {
        let retries = |max| from_env(&[("SMTP_MAX_RETRIES", max)]).unwrap();
        assert!(retries("0").0.retry_schedule.is_empty());
        assert_eq!(retries("2").0.retry_schedule, [5, 25].map(Duration::from_secs));
        assert!(warned(&retries("9").1, "SMTP_MAX_RETRIES"));
        assert!(faults(&[("RETRY_SCHEDULE", "5s,25h")]).contains("from 1ms to 1d"));
    }

    #[test]
    fn no_reminders_is_an_empty_value_or_off() {
        let before = |vars: &[(&str, &str)]| from_env(vars).unwrap().0.reminder_before;
        assert_eq!(before(&[]), Some(Duration::from_secs(3 * 3600)));
        assert_eq!(before(&[("REMINDER_BEFORE", "90m")]), Some(Duration::from_secs(5400)));
        assert_eq!(before(&[("REMINDER_BEFORE", "")]), None);
        assert_eq!(before(&[("REMINDER_BEFORE", " off ")]), None);
        assert!(faults(&[("REMINDER_BEFORE", "soon")]).contains("REMINDER_BEFORE"));
    }

    #[test]
    fn names_and_addresses_fall_back_in_the_documented_order() {
        let vars = [
            ("FROM_NAME", "Kino"),
            ("EMAIL_REPLY_TO", "help@kino.es"),
            ("ADMIN_EMAILS", "a@kino.es,b@kino.es"),
        ];
        let (settings, _) = from_env(&vars).unwrap();
        assert_eq!(
            (settings.brand.name.as_str(), settings.brand.support_email.as_str()),
            ("Kino", "help@kino.es")
        );
        assert_eq!(settings.contact_emails, ["a@kino.es", "b@kino.es"]);
        assert_eq!(from_env(&[("HTTP_LISTEN", "off")]).unwrap().0.http_listen, None);
    }

    #[test]
    fn the_api_is_off_until_it_is_asked_for_and_never_open_to_others() {
        let api = |vars: &[(&str, &str)]| from_env(vars).unwrap().0.api;
        let elsewhere = ("HTTP_LISTEN", "0.0.0.0:8002");
        let tokens = ("API_TOKENS", "a-token-of-20-letters");
        assert!(api(&[]).is_none());
        assert!(api(&[elsewhere]).is_none(), "probes need no token");
        assert!(api(&[("HTTP_API", "on")]).unwrap().is_open());
        assert!(!api(&[tokens]).unwrap().is_open());
        assert!(api(&[tokens, elsewhere]).is_some());
        assert!(api(&[tokens, ("HTTP_API", "off")]).is_none());
        let open = faults(&[elsewhere, ("HTTP_API", "on")]);
        assert!(open.contains("HTTP_API") && open.contains("0.0.0.0:8002"), "{open}");
        assert!(faults(&[("HTTP_LISTEN", "off"), ("HTTP_API", "on")]).contains("HTTP_LISTEN"));
    }

    #[test]
    fn what_opens_the_api_is_checked_and_never_shown() {
        let elsewhere = ("HTTP_LISTEN", "0.0.0.0:8002");
        let hash = format!("sha256:{}", "0a".repeat(32));
        let two = format!("a-token-of-20-letters, {hash}");
        let (settings, _) = from_env(&[("API_TOKENS", &two)]).unwrap();
        assert_eq!(settings.api.unwrap().tokens.len(), 2);
        let roles =
            format!("support:a-token-of-20-letters, operator:{hash}, another-token-of-26-letters");
        let (settings, _) = from_env(&[("API_TOKENS", &roles)]).unwrap();
        let roles: Vec<Option<Role>> =
            settings.api.unwrap().tokens.iter().map(|token| token.role).collect();
        assert_eq!(roles, [Some(Role::Support), Some(Role::Operator), None]);
        let two_roles = format!("support:{hash}, operator:{hash}");
        assert!(faults(&[("API_TOKENS", &two_roles)]).contains("two roles"));
        let of_nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(faults(&[("API_TOKENS", of_nothing)]).contains("hash of an empty token"));
        let mut blank = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut blank, &b" \n".repeat(20)).unwrap();
        let blank = blank.path().display().to_string();
        for name in ["API_TOKENS_FILE", "JWT_SECRET_FILE", "USHER_PEPPER_FILE"] {
            let text = faults(&[(name, &blank), ("HTTP_API", "on"), elsewhere]);
            assert!(text.contains("is empty"), "{name}: {text}");
        }
        for bad in [
            "hunter2",
            "sha256:00",
            "a-token-of-20-letters;hunter2",
            "admin:a-token-with-hunter2-in-it",
            "support:hunter2",
        ] {
            let text = faults(&[("API_TOKENS", bad)]);
            assert!(text.starts_with("API_TOKENS") && !text.contains("hunter2"), "{text}");
        }
        for list in [" , ", ",", ",,,"] {
            for name in ["API_TOKENS", "ADMIN_EMAILS", "TRUSTED_PROXIES", "CORS_ALLOWED_ORIGINS"] {
                let text = faults(&[(name, list), ("HTTP_API", "on"), elsewhere]);
                assert!(text.contains(&format!("{name} ")), "{name}={list:?}: {text}");
            }
        }
        let text = faults(&[("JWT_SECRET", "hunter2")]);
        assert_eq!(text.lines().count(), 3, "too short, no issuer, no audience: {text}");
        assert!(!text.contains("hunter2"), "{text}");
        let names = [("JWT_ISSUER", "https://id.example.com"), ("JWT_AUDIENCE", "usher")];
        let bad = [&names[..], &[("JWT_PUBLIC_KEY", "no PEM")]].concat();
        assert!(faults(&bad).starts_with("JWT_PUBLIC_KEY"));
        assert!(faults(&[("CORS_ALLOWED_ORIGINS", "*")]).contains("CORS_ALLOWED_ORIGINS"));
    }
}
