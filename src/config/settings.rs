//! The typed settings. Names in parentheses are the settings that a field is read from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use crate::tls::TlsFiles;

/// Longest time between the claim of a delivery and the body of its mail. After that usher gives up the
/// connection. Not a setting, because only a stalled mail server or ledger comes close to it.
pub const PRE_SEND_BUDGET: Duration = Duration::from_secs(120);

/// A value that must not be logged: `Debug` hides it, and there is no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    value: String,
    /// The file that it was read from (`…_FILE`).
    file: Option<PathBuf>,
}

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self { value: value.into(), file: None }
    }

    pub(super) fn of_file(self, file: Option<PathBuf>) -> Self {
        Self { file, ..self }
    }

    pub fn expose(&self) -> &str {
        &self.value
    }

    /// As its file has it now: secrets are replaced while usher runs. The last one while the file can't be
    /// read, and where there is none.
    #[must_use]
    pub fn current(&self) -> Self {
        let read = self.file.as_deref().map(read_secret);
        let value = read.and_then(Result::ok).unwrap_or_else(|| self.value.clone());
        Self { value, file: self.file.clone() }
    }
}

/// # Errors
/// The file can't be read, or holds nothing.
pub(super) fn read_secret(path: &Path) -> Result<String, String> {
    let content = std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let content = content.strip_suffix('\n').unwrap_or(&content);
    match content.strip_suffix('\r').unwrap_or(content) {
        blank if blank.trim().is_empty() => Err(format!("{} is empty", path.display())),
        secret => Ok(secret.to_owned()),
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// All settings, checked by [`load`](super::load).
#[derive(Debug, Clone)]
pub struct Settings {
    /// RabbitMQ (`RABBITMQ_URL`), scheme `amqp` or `amqps`. An empty path becomes `/%2f`, the vhost `/`,
    /// because clients disagree on what an empty path means.
    pub rabbitmq: Endpoint,
    /// Redis of the ledger (`REDIS_URL`, else built from `REDIS_HOST`, `_PORT`, `_PASSWORD` and `_DB`),
    /// scheme `redis` or `rediss`.
    pub redis: Endpoint,
    /// MongoDB of the audit (`MONGODB_URI`), scheme `mongodb` or `mongodb+srv`.
    pub mongodb: Endpoint,
    /// Database in the path of [`mongodb`](Self::mongodb), else `usher`.
    pub mongodb_database: String,
    /// Redis Streams that are forwarded to RabbitMQ (`STREAM_URL`, `STREAM_KEYS`).
    pub stream: Option<Stream>,
    pub email: Email,
    /// Gateway for text messages (`TWILIO_*`); `None`: they are simulated.
    pub sms: Option<Twilio>,
    /// Recipients of mail for operators (`ADMIN_EMAILS`); empty: only customers get mail.
    pub admin_emails: Vec<String>,
    /// Recipients of contact requests (`CONTACT_EMAILS`, else the admins, else the sender); never empty.
    pub contact_emails: Vec<String>,
    /// Wait before each retry (`RETRY_SCHEDULE`, cut to `SMTP_MAX_RETRIES`); empty: no retries.
    pub retry_schedule: Vec<Duration>,
    /// How long the outcome of a delivery is remembered, so that it is not sent twice (`DEDUP_WINDOW`).
    pub dedup_window: Duration,
    /// The same for events without an id (`DEDUP_WINDOW_DERIVED`): two equal bodies may be two events.
    pub dedup_window_derived: Duration,
    /// Messages that each consumer may hold unacknowledged (`PREFETCH`), at least 1.
    pub prefetch: u16,
    /// Maximum of mails to one recipient, security codes excepted (`RATE_LIMIT_PER_RECIPIENT`).
    pub rate_limit: Option<RateLimit>,
    /// Soft bounces within a period after which an address is suppressed for as long (`SUPPRESS_AFTER`).
    pub suppress_after: Option<RateLimit>,
    /// How long audit records are kept (`AUDIT_RETENTION`).
    pub audit_retention: Duration,
    /// Ed25519 key in PEM that signs checkpoints (`CHECKPOINT_KEY`); `None`: records are not chained.
    pub checkpoint_key: Option<Secret>,
    /// How often checkpoints are signed (`CHECKPOINT_INTERVAL`).
    pub checkpoint_interval: Duration,
    /// File to which checkpoints are appended (`CHECKPOINT_FILE`).
    pub checkpoint_file: Option<PathBuf>,
    /// Whether the status of each delivery is published (`STATUS_EVENTS`).
    pub status_events: bool,
    /// How long usher finishes deliveries after SIGTERM (`DRAIN_TIMEOUT`).
    pub drain_timeout: Duration,
    /// How long a delivery may wait for the mail server before it is postponed: half of what the longest
    /// SMTP transaction leaves of `ACK_TIMEOUT`.
    pub hold: Duration,
    /// How long an instance counts as alive after its last heartbeat (`INSTANCE_TTL`); at least three
    /// renewals.
    pub instance_ttl: Duration,
    /// Interval of the heartbeat (`INSTANCE_RENEWAL`).
    pub instance_renewal: Duration,
    /// HMAC key of delivery ids and address hashes (`USHER_PEPPER`); the default is public.
    pub pepper: Secret,
    /// Locale of mail whose event has none (`DEFAULT_LOCALE`): a tag such as `es` or `es-MX`.
    pub locale: String,
    /// ISO 4217 code of amounts whose event has none (`DEFAULT_CURRENCY`).
    pub currency: String,
    /// IANA time zone of printed times (`TIMEZONE`), known to jiff; `None`: the offset of the time
    /// itself, else UTC.
    pub timezone: Option<String>,
    /// Time between reminder and showtime (`REMINDER_BEFORE`); `None`: no reminders.
    pub reminder_before: Option<Duration>,
    /// MaxMind database of cities, for the places of IP addresses (`GEOIP_FILE`).
    pub geoip_file: Option<PathBuf>,
    pub brand: Brand,
    /// Routes that replace the embedded ones (`ROUTES_FILE`).
    pub routes_file: Option<PathBuf>,
    /// Templates that replace the embedded ones (`TEMPLATES_DIR`).
    pub templates_dir: Option<PathBuf>,
    /// Address of health, metrics and API (`HTTP_LISTEN`); `None` for `off`.
    pub http_listen: Option<SocketAddr>,
    pub http_limits: HttpLimits,
    /// The HTTP API (`HTTP_API`); `None`: it is not served.
    pub api: Option<Api>,
    /// The mailbox that reports are read from (`BOUNCE_IMAP_*`).
    pub bounce_mailbox: Option<BounceMailbox>,
    pub log_format: LogFormat,
    /// Levels of the daemon's log by module (`LOG_LEVEL`); `RUST_LOG` comes before it.
    pub log_level: String,
    pub(crate) raw: RawSettings,
}

/// Each setting as it was found, to tell which have changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawSettings(pub(super) BTreeMap<String, Secret>);

impl RawSettings {
    /// Names of the settings whose values differ; those of relays are `relay NAME, KEY`.
    pub(crate) fn changed(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let differs = |name: &&String| self.0.get(*name) != other.0.get(*name);
        names.into_iter().filter(differs).cloned().collect()
    }
}

impl Settings {
    /// Time zone of printed times.
    pub fn zone(&self) -> Option<TimeZone> {
        // An unknown name is a fault of the settings.
        self.timezone.as_deref().and_then(|name| TimeZone::get(name).ok())
    }
}

/// What clients of the HTTP server may use.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Connections at the same time (`HTTP_MAX_CONNECTIONS`).
    pub connections: usize,
    /// Size of a request's head (`HTTP_MAX_HEADER_BYTES`), at least 8 192, which hyper requires.
    pub header_bytes: usize,
    /// How long the head of the next request may take, and its body (`HTTP_HEADER_TIMEOUT`).
    pub header_timeout: Duration,
    /// How long a client may take to read a response or a message (`HTTP_WRITE_TIMEOUT`).
    pub write_timeout: Duration,
}

/// At most this many mails to one recipient within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Mails within each period, which may go at once; at least 1.
    pub count: u32,
    pub period: Duration,
}

/// Address of a service.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// URL with login. Its scheme or options say whether the connection is encrypted.
    pub url: Secret,
    pub tls: TlsFiles,
}

/// A mailbox on an IMAP server.
#[derive(Debug, Clone)]
pub struct BounceMailbox {
    pub host: String,
    pub port: u16,
    pub username: String,
    pub login: MailboxLogin,
    pub mailbox: String,
    pub tls: TlsFiles,
}

/// What is shown to the IMAP server.
#[derive(Debug, Clone)]
pub enum MailboxLogin {
    Password(Secret),
    /// An access token for this mailbox, by what `SMTP_OAUTH_*` or those of a relay say.
    Token {
        oauth: Box<OAuth>,
        /// Authorities that the token endpoint may have beside the system's.
        ca: Option<PathBuf>,
    },
}

/// Redis Streams into which services write events.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Scheme `redis` or `rediss`.
    pub server: Endpoint,
    /// At least one.
    pub keys: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Email {
    /// From `EMAIL_BACKEND`, `SIMULATE` and `SMTP_*`.
    pub backend: EmailBackend,
    /// Whether mail is sent (`ENABLE_EMAIL_NOTIFICATIONS`); if not, deliveries end as `suppressed`.
    pub enabled: bool,
    /// Sender address (`FROM_EMAIL`, else an `SMTP_USERNAME` that is an address); the mail channel checks
    /// it in full.
    pub from_address: String,
    /// Sender's display name (`FROM_NAME`).
    pub from_name: String,
    /// Address for answers (`EMAIL_REPLY_TO`); `None`: the sender.
    pub reply_to: Option<String>,
    pub dkim: Option<Dkim>,
}

/// DKIM signature (RFC 6376). The public key is in DNS at `<selector>._domainkey.<domain>`.
#[derive(Debug, Clone)]
pub struct Dkim {
    /// Name of the key in DNS (`DKIM_SELECTOR`), in A-labels.
    pub selector: String,
    /// Signing domain (`DKIM_DOMAIN`), in A-labels; `None`: the sender's.
    pub domain: Option<String>,
    /// RSA or Ed25519 key in PEM (`DKIM_PRIVATE_KEY`); the mail channel checks it.
    pub private_key: Secret,
}

#[derive(Debug, Clone)]
pub enum EmailBackend {
    /// At least one, by their order.
    Smtp(Vec<Relay>),
    /// Directory for `.eml` files (`EMAIL_FILE_PATH`).
    File(PathBuf),
    /// Standard output.
    Console,
    /// Mail is recorded as simulated and not sent.
    Simulated,
}

impl EmailBackend {
    /// Empty unless mail goes out by SMTP.
    pub fn relays(&self) -> &[Relay] {
        match self {
            Self::Smtp(relays) => relays,
            _ => &[],
        }
    }

    /// The longest wait for the reply to the end of a message.
    pub(super) fn longest_dot_timeout(&self) -> Option<Duration> {
        self.relays().iter().map(|relay| relay.smtp.dot_timeout).max()
    }
}

/// A mail server that takes our mail. The `SMTP_*` settings are the one named `default`; a `[[relay]]` table
/// is another.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// The lowest that can be used is used.
    pub order: u16,
    /// Its share of the mail of all relays with this order, at least 1.
    pub weight: u16,
    /// The routes whose mail it takes; empty: all.
    pub routes: Vec<String>,
    /// Sender address (`from_email`); `None`: that of all mail.
    pub from_address: Option<String>,
    /// Sender's display name (`from_name`); `None`: that of all mail.
    pub from_name: Option<String>,
    /// Where reports about its mail go (`bounce_address`, for `default` `BOUNCE_ADDRESS`); `None`: to the sender.
    pub bounce_address: Option<String>,
    pub smtp: Smtp,
}

#[derive(Debug, Clone)]
pub struct Smtp {
    /// Host name or IP address, without a port (`SMTP_SERVER`).
    pub server: String,
    /// `SMTP_PORT`.
    pub port: u16,
    /// Encryption of the connection (`SMTP_TLS`, else `SMTP_USE_TLS`).
    pub tls: SmtpTls,
    /// Whether the server's certificate is checked (`SMTP_VERIFY_SSL`).
    pub verify: bool,
    /// The authorities are trusted besides the system's.
    pub tls_files: TlsFiles,
    /// User name and password (`SMTP_USERNAME`, `SMTP_PASSWORD`); `None`: no login.
    pub credentials: Option<(String, Secret)>,
    /// Time limit for connecting and for each reply but the last (`SMTP_TIMEOUT`).
    pub timeout: Duration,
    /// Time limit for the reply to the end of the message (`SMTP_DOT_TIMEOUT`). RFC 5321, 4.5.3.2.6 asks
    /// for ten minutes: a client that gives up earlier does not know whether the mail was sent.
    pub dot_timeout: Duration,
    /// Maximum of open connections (`SMTP_CONNECTIONS`), 1 to 1000.
    pub connections: usize,
    /// Mails after which a connection is replaced (`SMTP_MAILS_PER_CONNECTION`), at least 1.
    pub mails_per_connection: u32,
    /// Mail that may go out within a period, over all instances (`SMTP_RATE`).
    pub rate: Option<RateLimit>,
    /// Whether commands go out together where the server allows it (`SMTP_PIPELINING`).
    pub pipelining: bool,
    /// The name in EHLO (`SMTP_EHLO_NAME`); `None`: this host's if it is a full one, else its address.
    pub ehlo_name: Option<String>,
    /// The header that the server takes a mail's idempotency key from (`SMTP_IDEMPOTENCY_HEADER`).
    pub idempotency_header: Option<String>,
    /// How long the server knows a key (`SMTP_IDEMPOTENCY_WINDOW`).
    pub idempotency_window: Duration,
    /// A login by access token (`SMTP_AUTH=oauth2`).
    pub oauth: Option<Box<OAuth>>,
}

/// Where access tokens come from, and by what.
#[derive(Debug, Clone)]
pub struct OAuth {
    /// The mailbox (`SMTP_USERNAME`).
    pub username: String,
    /// `SMTP_OAUTH_TOKEN_URL`, else the provider's.
    pub token_url: String,
    /// `SMTP_OAUTH_CLIENT_ID`; empty for a service account.
    pub client_id: String,
    pub grant: OAuthGrant,
    /// `SMTP_OAUTH_SCOPE`, else the provider's.
    pub scope: Option<String>,
}

/// What a token is given for.
#[derive(Debug, Clone)]
pub enum OAuthGrant {
    ClientSecret(Secret),
    /// An RSA key in PEM, with its certificate where the provider knows the key by that.
    ClientKey(Secret),
    RefreshToken {
        token: Secret,
        client_secret: Option<Secret>,
    },
    /// Google's JSON file of a service account, which acts for the mailbox.
    ServiceAccount(Secret),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SmtpTls {
    /// STARTTLS on a plain connection; a server without it is not used.
    #[default]
    Starttls,
    /// TLS from the first byte, usually port 465.
    Implicit,
    None,
}

/// Account at a gateway for text messages.
#[derive(Debug, Clone)]
pub struct Twilio {
    pub account_sid: String,
    pub auth_token: Secret,
    /// Sender: a number, a name or a messaging service (`MG…`) (`TWILIO_FROM`).
    pub from: String,
    /// URL of the API (`TWILIO_BASE_URL`), `http` or `https`.
    pub base_url: String,
    /// Time limit for connecting and for the answer (`TWILIO_TIMEOUT`).
    pub timeout: Duration,
    /// Maximum of simultaneous requests (`TWILIO_CONNECTIONS`), 1 to 1000.
    pub connections: usize,
}

/// Access to the HTTP API.
#[derive(Debug, Clone, Default)]
pub struct Api {
    /// Bearer tokens (`API_TOKENS`).
    pub tokens: Vec<ApiToken>,
    /// JSON Web Tokens of an identity provider (`JWT_*`).
    pub jwt: Option<Jwt>,
    /// Origins of other web pages that may use the API (`CORS_ALLOWED_ORIGINS`).
    pub origins: Vec<String>,
    /// Maximum of contact requests from one IP address (`CONTACT_RATE_LIMIT`).
    pub contact_limit: Option<RateLimit>,
    /// Proxies whose `X-Forwarded-For` is trusted (`TRUSTED_PROXIES`).
    pub proxies: Vec<IpNet>,
    /// Topics of Amazon SNS whose notifications of SES are taken in (`RECEIPTS_SES_TOPICS`).
    pub ses_topics: Vec<String>,
    /// Certificates of SNS (`RECEIPTS_SES_CERTIFICATES`); empty: they are fetched.
    pub ses_certificates: Vec<PathBuf>,
}

impl Api {
    /// Whether no token is required. Such an API listens on loopback only.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.jwt.is_none()
    }
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// `None`: it may do everything.
    pub role: Option<Role>,
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiToken").field("role", &self.role).finish_non_exhaustive()
    }
}

/// What a caller of the API may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees what happens and finds mail; keeps read marks of its own.
    Support,
    /// Reads everything, also the text of mails.
    Auditor,
    /// Sends and changes.
    Operator,
}

impl Role {
    const ALL: [Self; 3] = [Self::Support, Self::Auditor, Self::Operator];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Support => "support",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// How JSON Web Tokens are verified.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// Key for HS256 (`JWT_SECRET`).
    pub secret: Option<Secret>,
    /// Key for RS256 in PEM (`JWT_PUBLIC_KEY`).
    pub public_key: Option<Secret>,
    pub issuer: String,
    pub audience: String,
    /// Claim with the caller's roles, or a JSON pointer to it (`JWT_ROLE_CLAIM`). `None`: tokens may do everything.
    pub role_claim: Option<String>,
}

/// Appearance of mail.
#[derive(Debug, Clone)]
pub struct Brand {
    /// Name in headings and footers (`BRAND_NAME`, else `FROM_NAME`).
    pub name: String,
    /// `BRAND_LOGO_URL`, `http` or `https`.
    pub logo_url: Option<String>,
    /// Home page (`BRAND_WEBSITE_URL`).
    pub website_url: Option<String>,
    /// Support address for customers (`BRAND_SUPPORT_EMAIL`, else `EMAIL_REPLY_TO`, else the sender).
    pub support_email: String,
    /// Help page (`BRAND_SUPPORT_URL`).
    pub support_url: Option<String>,
    /// Page on which users review the security of their account (`BRAND_SECURITY_URL`).
    pub security_url: Option<String>,
    /// Accent colour as `#rrggbb` (`BRAND_COLOR`).
    pub colour: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// [`Human`](Self::Human) on a terminal, else [`Json`](Self::Json).
    #[default]
    Auto,
    Human,
    /// One JSON object per line.
    Json,
}
