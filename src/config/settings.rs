//! The settings as the rest of the daemon sees them. Names in
//! parentheses are the settings a field comes from.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use crate::tls::TlsFiles;

/// How long the claim on a delivery may be held before its body goes out; after that the connection is given up. No
/// setting: nothing but a stalled server or ledger gets near it.
pub const PRE_SEND_BUDGET: Duration = Duration::from_secs(120);

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
    pub rabbitmq: Endpoint,
    /// The ledger's Redis (`REDIS_URL`, else composed of `REDIS_HOST`, `_PORT`, `_PASSWORD` and
    /// `_DB`), scheme `redis` or `rediss`.
    pub redis: Endpoint,
    /// The audit's MongoDB (`MONGODB_URI`), scheme `mongodb` or `mongodb+srv`.
    pub mongodb: Endpoint,
    /// The database named in the path of [`mongodb`](Self::mongodb), else `usher`.
    pub mongodb_database: String,
    /// Redis Streams that are forwarded to RabbitMQ (`STREAM_URL`, `STREAM_KEYS`); `None`: none are.
    pub stream: Option<Stream>,
    /// How mail leaves and in whose name.
    pub email: Email,
    /// How text messages leave (`TWILIO_*`); `None`: they are simulated.
    pub sms: Option<Twilio>,
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
    /// How long a delivery may wait for a mail server before it is put off: half of what is left of
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
    /// IANA zone in which times are printed (`TIMEZONE`), known to jiff; `None`: on the clock they
    /// were written by, else UTC.
    pub timezone: Option<String>,
    /// How long before a showtime its reminder goes out (`REMINDER_BEFORE`); `None`: there is none.
    pub reminder_before: Option<Duration>,
    /// MaxMind database of cities for the places of IP addresses (`GEOIP_FILE`).
    pub geoip_file: Option<PathBuf>,
    /// What mail looks like (`BRAND_*`).
    pub brand: Brand,
    /// Routes that replace the embedded ones (`ROUTES_FILE`).
    pub routes_file: Option<PathBuf>,
    /// Templates that replace the embedded ones (`TEMPLATES_DIR`).
    pub templates_dir: Option<PathBuf>,
    /// Where health, metrics and the API listen (`HTTP_LISTEN`); `None` when `off`.
    pub http_listen: Option<SocketAddr>,
    /// The API beside health and metrics (`HTTP_API`); `None`: it is not served.
    pub api: Option<Api>,
    /// Shape of the log lines (`LOG_FORMAT`).
    pub log_format: LogFormat,
}

impl Settings {
    /// The zone in which times are printed.
    pub fn zone(&self) -> Option<TimeZone> {
        // Known, or it would have been a fault.
        self.timezone.as_deref().and_then(|name| TimeZone::get(name).ok())
    }
}

/// At most this many mails to one recipient within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Mails within each period, which may go at once; at least 1.
    pub count: u32,
    pub period: Duration,
}

/// A service and how to reach it.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// Its URL, login and all; says whether the connection is encrypted.
    pub url: Secret,
    /// What an encrypted connection is made with.
    pub tls: TlsFiles,
}

/// Redis Streams that services write events into.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Their Redis, scheme `redis` or `rediss`.
    pub server: Endpoint,
    /// Their keys; at least one.
    pub keys: Vec<String>,
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
    /// How mail is signed; `None`: not at all.
    pub dkim: Option<Dkim>,
}

/// A DKIM signature (RFC 6376). Its public key is at `<selector>._domainkey.<domain>`.
#[derive(Debug, Clone)]
pub struct Dkim {
    /// Which of the domain's keys this is (`DKIM_SELECTOR`), in A-labels.
    pub selector: String,
    /// The signing domain (`DKIM_DOMAIN`), in A-labels; `None`: the sender's.
    pub domain: Option<String>,
    /// An RSA or Ed25519 key in PEM (`DKIM_PRIVATE_KEY`); the mail channel judges it.
    pub private_key: Secret,
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
    /// Certificates; the authority is trusted besides the system's.
    pub tls_files: TlsFiles,
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

/// An account at a gateway for text messages.
#[derive(Debug, Clone)]
pub struct Twilio {
    /// The account (`TWILIO_ACCOUNT_SID`).
    pub account_sid: String,
    /// Its password (`TWILIO_AUTH_TOKEN`).
    pub auth_token: Secret,
    /// The number, name or messaging service (`MG…`) that messages come from (`TWILIO_FROM`).
    pub from: String,
    /// Where the API is (`TWILIO_BASE_URL`), `http` or `https`.
    pub base_url: String,
    /// Time allowed for connecting and for the answer (`TWILIO_TIMEOUT`).
    pub timeout: Duration,
    /// Most requests at once (`TWILIO_CONNECTIONS`), 1 to 1000.
    pub connections: usize,
}

/// Who may use the API.
#[derive(Debug, Clone, Default)]
pub struct Api {
    /// Bearer tokens (`API_TOKENS`).
    pub tokens: Vec<ApiToken>,
    /// Signed tokens of somebody else's making (`JWT_*`).
    pub jwt: Option<Jwt>,
    /// Web origins besides its own whose pages may use it (`CORS_ALLOWED_ORIGINS`).
    pub origins: Vec<String>,
    /// Most contact requests from one address (`CONTACT_RATE_LIMIT`); `None`: no limit.
    pub contact_limit: Option<RateLimit>,
    /// Who is believed when they say for whom they ask (`TRUSTED_PROXIES`).
    pub proxies: Vec<IpNet>,
}

impl Api {
    /// Whether no token is asked for; then it is on loopback only.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.jwt.is_none()
    }
}

/// A bearer token, of which only the SHA-256 is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken(pub [u8; 32]);

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(***)")
    }
}

/// Which JSON Web Tokens count.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The key of HS256 (`JWT_SECRET`).
    pub secret: Option<Secret>,
    /// The key of RS256 (`JWT_PUBLIC_KEY`), in PEM.
    pub public_key: Option<Secret>,
    /// Who has to have made them (`JWT_ISSUER`).
    pub issuer: String,
    /// Whom they have to be for (`JWT_AUDIENCE`).
    pub audience: String,
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
    /// Where users review their account's security (`BRAND_SECURITY_URL`), `http` or `https`.
    pub security_url: Option<String>,
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
