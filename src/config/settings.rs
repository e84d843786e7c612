//! Which settings there are: their names, and the types the rest of the daemon sees. Names in
//! parentheses are the settings a field comes from.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::ledger::RateLimit;

/// How a setting is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value.
    Plain,
    /// Comma-separated; in the file also an array of strings.
    List,
    /// One value that is never printed; `<NAME>_FILE` names a file that holds it.
    Secret,
}

/// The names of one setting, as in the environment; in the file they are lower case.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// The name used in messages and documentation.
    pub canonical: &'static str,
    /// Older names, read when the canonical one is unset; the first one set counts.
    pub aliases: &'static [&'static str],
    /// How it is written.
    pub kind: Kind,
}

impl Name {
    pub(super) fn all(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.canonical).chain(self.aliases.iter().copied())
    }
}

const fn name(canonical: &'static str, kind: Kind, aliases: &'static [&'static str]) -> Name {
    Name { canonical, aliases, kind }
}

/// Every setting there is. `config/defaults.toml` and `.env.example` explain them.
pub const NAMES: &[Name] = {
    use Kind::{List, Plain, Secret};
    &[
        name("RABBITMQ_URL", Secret, &[]),
        name("REDIS_URL", Secret, &[]),
        name("REDIS_HOST", Plain, &[]),
        name("REDIS_PORT", Plain, &[]),
        name("REDIS_PASSWORD", Secret, &[]),
        name("REDIS_DB", Plain, &[]),
        name("MONGODB_URI", Secret, &[]),
        name("EMAIL_BACKEND", Plain, &[]),
        name("EMAIL_FILE_PATH", Plain, &[]),
        name("SIMULATE", Plain, &[]),
        name("ENABLE_EMAIL_NOTIFICATIONS", Plain, &[]),
        name("FROM_EMAIL", Plain, &["EMAIL_FROM_ADDRESS", "DEFAULT_FROM_EMAIL"]),
        name("FROM_NAME", Plain, &["EMAIL_FROM_NAME"]),
        name("EMAIL_REPLY_TO", Plain, &[]),
        name("SMTP_SERVER", Plain, &["SMTP_HOST", "EMAIL_HOST"]),
        name("SMTP_PORT", Plain, &["EMAIL_PORT"]),
        name("SMTP_TLS", Plain, &[]),
        name("SMTP_USE_TLS", Plain, &["EMAIL_USE_TLS"]),
        name("SMTP_VERIFY_SSL", Plain, &[]),
        name("SMTP_CA_FILE", Plain, &[]),
        name("SMTP_USERNAME", Plain, &["SMTP_USER", "EMAIL_HOST_USER"]),
        name("SMTP_PASSWORD", Secret, &["EMAIL_HOST_PASSWORD"]),
        name("SMTP_TIMEOUT", Plain, &[]),
        name("SMTP_DOT_TIMEOUT", Plain, &[]),
        name("SMTP_CONNECTIONS", Plain, &[]),
        name("ADMIN_EMAILS", List, &[]),
        name("CONTACT_EMAILS", List, &[]),
        name("RETRY_SCHEDULE", List, &[]),
        name("SMTP_MAX_RETRIES", Plain, &[]),
        name("DEDUP_WINDOW", Plain, &[]),
        name("DEDUP_WINDOW_DERIVED", Plain, &[]),
        name("PREFETCH", Plain, &[]),
        name("RATE_LIMIT_PER_RECIPIENT", Plain, &[]),
        name("AUDIT_RETENTION", Plain, &[]),
        name("DRAIN_TIMEOUT", Plain, &[]),
        name("ACK_TIMEOUT", Plain, &[]),
        name("INSTANCE_TTL", Plain, &[]),
        name("INSTANCE_RENEWAL", Plain, &[]),
        name("USHER_PEPPER", Secret, &[]),
        name("DEFAULT_LOCALE", Plain, &[]),
        name("DEFAULT_CURRENCY", Plain, &[]),
        name("TIMEZONE", Plain, &[]),
        name("BRAND_NAME", Plain, &[]),
        name("BRAND_LOGO_URL", Plain, &[]),
        name("BRAND_WEBSITE_URL", Plain, &[]),
        name("BRAND_SUPPORT_EMAIL", Plain, &[]),
        name("BRAND_SUPPORT_URL", Plain, &[]),
        name("BRAND_COLOR", Plain, &[]),
        name("ROUTES_FILE", Plain, &[]),
        name("TEMPLATES_DIR", Plain, &[]),
        name("HTTP_LISTEN", Plain, &[]),
        name("LOG_FORMAT", Plain, &[]),
    ]
};

/// A value that must not reach a log: `Debug` hides it and there is no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Marks `value` as secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Everything an operator can choose, checked; made by [`load`](super::load) only.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The broker (`RABBITMQ_URL`), scheme `amqp` or `amqps`. An empty path is stored as `/%2f`,
    /// the vhost `/`: clients disagree on what an empty path means.
    pub rabbitmq_url: Secret,
    /// The ledger's Redis (`REDIS_URL`, else composed of `REDIS_HOST`, `_PORT`, `_PASSWORD` and
    /// `_DB`).
    pub redis_url: Secret,
    /// The audit's MongoDB (`MONGODB_URI`), scheme `mongodb` or `mongodb+srv`.
    pub mongodb_uri: Secret,
    /// The database named in the path of [`mongodb_uri`](Self::mongodb_uri), else `usher`.
    pub mongodb_database: String,
    /// How mail leaves and in whose name.
    pub email: Email,
    /// Who receives mail meant for the operators (`ADMIN_EMAILS`); empty: customer mail only.
    pub admin_emails: Vec<String>,
    /// Who receives contact requests (`CONTACT_EMAILS`, else the admins, else the sender); never
    /// empty.
    pub contact_emails: Vec<String>,
    /// The wait before each retry of a delivery, so its length is the number of retries
    /// (`RETRY_SCHEDULE`, cut to `SMTP_MAX_RETRIES`); empty: no retries.
    pub retry_schedule: Vec<Duration>,
    /// How long a delivery is remembered so that it is not sent twice (`DEDUP_WINDOW`).
    pub dedup_window: Duration,
    /// The same for events without an id of their own, where two equal bodies may both be meant
    /// (`DEDUP_WINDOW_DERIVED`).
    pub dedup_window_derived: Duration,
    /// Unacknowledged messages the broker may have out to one consumer (`PREFETCH`), at least 1.
    pub prefetch: u16,
    /// Most mails to one recipient, security codes aside (`RATE_LIMIT_PER_RECIPIENT`); `None`: no limit.
    pub rate_limit: Option<RateLimit>,
    /// How long audit records are kept (`AUDIT_RETENTION`).
    pub audit_retention: Duration,
    /// How long SIGTERM waits for what is in flight (`DRAIN_TIMEOUT`).
    pub drain_timeout: Duration,
    /// How long a delivery may wait for a mail server before its message goes back to the broker: what is left of
    /// `ACK_TIMEOUT` after the longest transaction.
    pub hold: Duration,
    /// How long an instance counts as alive after its last sign of life (`INSTANCE_TTL`); at least
    /// three renewals.
    pub instance_ttl: Duration,
    /// How often an instance gives that sign (`INSTANCE_RENEWAL`).
    pub instance_renewal: Duration,
    /// Key of the HMAC behind delivery ids (`USHER_PEPPER`); a public value unless set.
    pub pepper: Secret,
    /// Language of mail whose event names none (`DEFAULT_LOCALE`): `es`, `en` or a tag that starts
    /// so, such as `es-MX`.
    pub locale: String,
    /// ISO 4217 code for amounts whose event names none (`DEFAULT_CURRENCY`).
    pub currency: String,
    /// IANA zone in which times are printed (`TIMEZONE`); known to jiff.
    pub timezone: String,
    /// What mail looks like (`BRAND_*`).
    pub brand: Brand,
    /// Routes that replace the embedded ones (`ROUTES_FILE`).
    pub routes_file: Option<PathBuf>,
    /// Templates that replace the embedded ones (`TEMPLATES_DIR`).
    pub templates_dir: Option<PathBuf>,
    /// Where health, metrics and the API listen (`HTTP_LISTEN`); `None` when `off`.
    pub http_listen: Option<SocketAddr>,
    /// Shape of the log lines (`LOG_FORMAT`).
    pub log_format: LogFormat,
}

/// How mail leaves and in whose name.
#[derive(Debug, Clone)]
pub struct Email {
    /// Where mail goes (`EMAIL_BACKEND`, `SIMULATE` and `SMTP_*`, resolved).
    pub backend: EmailBackend,
    /// Whether mail is sent at all (`ENABLE_EMAIL_NOTIFICATIONS`); otherwise deliveries end as
    /// `suppressed`.
    pub enabled: bool,
    /// Sender address (`FROM_EMAIL`, else an `SMTP_USERNAME` that is an address); only cheaply
    /// checked here.
    pub from_address: String,
    /// Sender's display name (`FROM_NAME`).
    pub from_name: String,
    /// Where answers go (`EMAIL_REPLY_TO`); `None`: to the sender.
    pub reply_to: Option<String>,
}

/// Where mail goes.
#[derive(Debug, Clone)]
pub enum EmailBackend {
    /// To a mail server.
    Smtp(Smtp),
    /// Into this directory (`EMAIL_FILE_PATH`), one `.eml` file each.
    File(PathBuf),
    /// To standard output.
    Console,
    /// Nowhere, recorded as simulated.
    Simulated,
}

/// A mail server and how to talk to it.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// Host name or IP address, without a port (`SMTP_SERVER`).
    pub server: String,
    /// TCP port (`SMTP_PORT`).
    pub port: u16,
    /// Encryption of the connection (`SMTP_TLS`, else `SMTP_USE_TLS`).
    pub tls: SmtpTls,
    /// Whether the server's certificate is checked (`SMTP_VERIFY_SSL`).
    pub verify: bool,
    /// PEM file of certificate authorities to trust besides the system's (`SMTP_CA_FILE`).
    pub ca_file: Option<PathBuf>,
    /// User name and password (`SMTP_USERNAME`, `SMTP_PASSWORD`); `None`: no login.
    pub credentials: Option<(String, Secret)>,
    /// Time allowed for connecting and for each reply but the last (`SMTP_TIMEOUT`).
    pub timeout: Duration,
    /// Time allowed for the reply to the end of the message (`SMTP_DOT_TIMEOUT`); RFC 5321,
    /// 4.5.3.2.6 asks for ten minutes, since giving up earlier leaves unknown whether the mail went
    /// out.
    pub dot_timeout: Duration,
    /// Most connections open at once (`SMTP_CONNECTIONS`), 1 to 1000.
    pub connections: usize,
}

/// Encryption of an SMTP connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SmtpTls {
    /// Plain at first, then STARTTLS, which is required: a server without it is refused.
    #[default]
    Starttls,
    /// TLS from the first byte, usually port 465.
    Implicit,
    /// No encryption.
    None,
}

/// What mail looks like.
#[derive(Debug, Clone)]
pub struct Brand {
    /// Name in headings and footers (`BRAND_NAME`, else `FROM_NAME`).
    pub name: String,
    /// Logo (`BRAND_LOGO_URL`), `http` or `https`.
    pub logo_url: Option<String>,
    /// Home page (`BRAND_WEBSITE_URL`), `http` or `https`.
    pub website_url: Option<String>,
    /// Whom customers may write to (`BRAND_SUPPORT_EMAIL`, else `EMAIL_REPLY_TO`, else the sender).
    pub support_email: String,
    /// Help page (`BRAND_SUPPORT_URL`), `http` or `https`.
    pub support_url: Option<String>,
    /// Accent colour (`BRAND_COLOR`) as `#rrggbb`.
    pub colour: String,
}

/// Shape of the log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// [`Human`](Self::Human) on a terminal, else [`Json`](Self::Json).
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a line of `text` sets `name`, commented out or not.
    fn has_line(text: &str, name: &str, equals: &str) -> bool {
        let line = format!("{name}{equals}");
        text.lines().any(|l| l.trim_start_matches(['#', ' ']).starts_with(&line))
    }

    #[test]
    fn the_reference_and_the_example_mention_every_name() {
        let defaults = include_str!("../../config/defaults.toml");
        let example = include_str!("../../.env.example");
        let readme = include_str!("../../README.md");
        for name in NAMES {
            let key = name.canonical.to_ascii_lowercase();
            assert!(has_line(defaults, &key, " = "), "defaults.toml lacks {key}");
            assert!(
                has_line(example, name.canonical, "="),
                ".env.example lacks {}",
                name.canonical
            );
            let row = format!("| `{}`", name.canonical);
            assert!(readme.contains(&row), "README.md lacks {}", name.canonical);
            for alias in name.aliases {
                assert!(
                    defaults.contains(alias) && example.contains(alias),
                    "{alias} is not mentioned"
                );
            }
        }
    }
}
