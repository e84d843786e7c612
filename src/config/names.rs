//! The names of all settings.

/// Form of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value.
    Plain,
    /// One value, which may be empty.
    MayBeEmpty,
    /// Comma-separated values; in the file also an array of strings.
    List,
    /// One value that is never printed. `<NAME>_FILE` may name a file that holds it.
    Secret,
}

/// Names of one setting in the environment; in the file they are lower case.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    pub canonical: &'static str,
    /// Other names, used if the canonical one is unset; the first that is set counts.
    pub aliases: &'static [&'static str],
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

/// All settings. `config/defaults.toml` and `.env.example` explain them.
pub const NAMES: &[Name] = {
    use Kind::{List, MayBeEmpty, Plain, Secret};
    &[
        name("RABBITMQ_URL", Secret, &[]),
        name("RABBITMQ_CA_FILE", Plain, &[]),
        name("RABBITMQ_CERT_FILE", Plain, &[]),
        name("RABBITMQ_KEY_FILE", Plain, &[]),
        name("REDIS_URL", Secret, &[]),
        name("REDIS_HOST", Plain, &[]),
        name("REDIS_PORT", Plain, &[]),
        name("REDIS_PASSWORD", Secret, &[]),
        name("REDIS_DB", Plain, &[]),
        name("REDIS_CA_FILE", Plain, &[]),
        name("REDIS_CERT_FILE", Plain, &[]),
        name("REDIS_KEY_FILE", Plain, &[]),
        name("STREAM_URL", Secret, &[]),
        name("STREAM_KEYS", List, &[]),
        name("STREAM_CA_FILE", Plain, &[]),
        name("STREAM_CERT_FILE", Plain, &[]),
        name("STREAM_KEY_FILE", Plain, &[]),
        name("MONGODB_URI", Secret, &[]),
        name("MONGODB_CA_FILE", Plain, &[]),
        name("MONGODB_CERT_FILE", Plain, &[]),
        name("EMAIL_BACKEND", Plain, &[]),
        name("EMAIL_FILE_PATH", Plain, &[]),
        name("SIMULATE", Plain, &[]),
        name("ENABLE_EMAIL_NOTIFICATIONS", Plain, &[]),
        name("FROM_EMAIL", Plain, &["EMAIL_FROM_ADDRESS", "DEFAULT_FROM_EMAIL"]),
        name("FROM_NAME", Plain, &["EMAIL_FROM_NAME"]),
        name("EMAIL_REPLY_TO", Plain, &[]),
        name("BOUNCE_ADDRESS", Plain, &[]),
        name("BOUNCE_IMAP_URL", Secret, &[]),
        name("BOUNCE_IMAP_CA_FILE", Plain, &[]),
        name("BOUNCE_IMAP_CERT_FILE", Plain, &[]),
        name("BOUNCE_IMAP_KEY_FILE", Plain, &[]),
        name("DKIM_SELECTOR", Plain, &[]),
        name("DKIM_DOMAIN", Plain, &[]),
        name("DKIM_PRIVATE_KEY", Secret, &[]),
        name("SMTP_SERVER", Plain, &["SMTP_HOST", "EMAIL_HOST"]),
        name("SMTP_PORT", Plain, &["EMAIL_PORT"]),
        name("SMTP_TLS", Plain, &[]),
        name("SMTP_USE_TLS", Plain, &["EMAIL_USE_TLS"]),
        name("SMTP_VERIFY_SSL", Plain, &[]),
        name("SMTP_CA_FILE", Plain, &[]),
        name("SMTP_CERT_FILE", Plain, &[]),
        name("SMTP_KEY_FILE", Plain, &[]),
        name("SMTP_USERNAME", Plain, &["SMTP_USER", "EMAIL_HOST_USER"]),
        name("SMTP_PASSWORD", Secret, &["EMAIL_HOST_PASSWORD"]),
        name("SMTP_TIMEOUT", Plain, &[]),
        name("SMTP_DOT_TIMEOUT", Plain, &[]),
        name("SMTP_IDEMPOTENCY_HEADER", Plain, &[]),
        name("SMTP_IDEMPOTENCY_WINDOW", Plain, &[]),
        name("SMTP_CONNECTIONS", Plain, &[]),
        name("SMTP_MAILS_PER_CONNECTION", Plain, &[]),
        name("SMTP_RATE", Plain, &[]),
        name("SMTP_PIPELINING", Plain, &[]),
        name("SMTP_EHLO_NAME", Plain, &[]),
        name("SMTP_AUTH", Plain, &[]),
        name("SMTP_OAUTH_PROVIDER", Plain, &[]),
        name("SMTP_OAUTH_TENANT", Plain, &[]),
        name("SMTP_OAUTH_TOKEN_URL", Plain, &[]),
        name("SMTP_OAUTH_CLIENT_ID", Plain, &[]),
        name("SMTP_OAUTH_CLIENT_SECRET", Secret, &[]),
        name("SMTP_OAUTH_CLIENT_KEY", Secret, &[]),
        name("SMTP_OAUTH_SCOPE", Plain, &[]),
        name("SMTP_OAUTH_REFRESH_TOKEN", Secret, &[]),
        name("SMTP_OAUTH_SERVICE_ACCOUNT", Secret, &[]),
        name("TWILIO_ACCOUNT_SID", Plain, &[]),
        name("TWILIO_AUTH_TOKEN", Secret, &[]),
        name("TWILIO_FROM", Plain, &[]),
        name("TWILIO_BASE_URL", Plain, &[]),
        name("TWILIO_TIMEOUT", Plain, &[]),
        name("TWILIO_CONNECTIONS", Plain, &[]),
        name("ADMIN_EMAILS", List, &[]),
        name("CONTACT_EMAILS", List, &[]),
        name("RETRY_SCHEDULE", List, &[]),
        name("SMTP_MAX_RETRIES", Plain, &[]),
        name("DEDUP_WINDOW", Plain, &[]),
        name("DEDUP_WINDOW_DERIVED", Plain, &[]),
        name("PREFETCH", Plain, &[]),
        name("RATE_LIMIT_PER_RECIPIENT", Plain, &[]),
        name("AUDIT_RETENTION", Plain, &[]),
        name("CHECKPOINT_KEY", Secret, &[]),
        name("CHECKPOINT_INTERVAL", Plain, &[]),
        name("CHECKPOINT_FILE", Plain, &[]),
        name("SUPPRESS_AFTER", MayBeEmpty, &[]),
        name("STATUS_EVENTS", Plain, &[]),
        name("DRAIN_TIMEOUT", Plain, &[]),
        name("ACK_TIMEOUT", Plain, &[]),
        name("INSTANCE_TTL", Plain, &[]),
        name("INSTANCE_RENEWAL", Plain, &[]),
        name("USHER_PEPPER", Secret, &[]),
        name("DEFAULT_LOCALE", Plain, &[]),
        name("DEFAULT_CURRENCY", Plain, &[]),
        name("TIMEZONE", Plain, &[]),
        name("REMINDER_BEFORE", MayBeEmpty, &[]),
        name("GEOIP_FILE", Plain, &[]),
        name("BRAND_NAME", Plain, &[]),
        name("BRAND_LOGO_URL", Plain, &[]),
        name("BRAND_WEBSITE_URL", Plain, &[]),
        name("BRAND_SUPPORT_EMAIL", Plain, &[]),
        name("BRAND_SUPPORT_URL", Plain, &[]),
        name("BRAND_SECURITY_URL", Plain, &[]),
        name("BRAND_COLOR", Plain, &[]),
        name("ROUTES_FILE", Plain, &[]),
        name("TEMPLATES_DIR", Plain, &[]),
        name("HTTP_LISTEN", Plain, &[]),
        name("HTTP_MAX_CONNECTIONS", Plain, &[]),
        name("HTTP_MAX_HEADER_BYTES", Plain, &[]),
        name("HTTP_HEADER_TIMEOUT", Plain, &[]),
        name("HTTP_WRITE_TIMEOUT", Plain, &[]),
        name("HTTP_API", Plain, &[]),
        name("API_TOKENS", Secret, &[]),
        name("JWT_SECRET", Secret, &[]),
        name("JWT_PUBLIC_KEY", Secret, &[]),
        name("JWT_ISSUER", Plain, &[]),
        name("JWT_AUDIENCE", Plain, &[]),
        name("JWT_ROLE_CLAIM", Plain, &[]),
        name("CORS_ALLOWED_ORIGINS", List, &[]),
        name("CONTACT_RATE_LIMIT", MayBeEmpty, &[]),
        name("TRUSTED_PROXIES", List, &[]),
        name("RECEIPTS_SES_TOPICS", List, &[]),
        name("RECEIPTS_SES_CERTIFICATES", List, &[]),
        name("LOG_FORMAT", Plain, &[]),
        name("LOG_LEVEL", Plain, &[]),
    ]
};

/// Settings that only a `[[relay]]` table of the file has, beside those of [`NAMES`] that it shares.
const RELAY_NAMES: &[Name] = &[
    name("RELAY_NAME", Kind::Plain, &[]),
    name("RELAY_ORDER", Kind::Plain, &[]),
    name("RELAY_WEIGHT", Kind::Plain, &[]),
    name("RELAY_ROUTES", Kind::List, &[]),
];

/// Settings that no `[[relay]]` table has.
const NOT_OF_RELAYS: [&str; 6] = [
    "SMTP_MAX_RETRIES",
    "SMTP_USE_TLS",
    "BOUNCE_IMAP_URL",
    "BOUNCE_IMAP_CA_FILE",
    "BOUNCE_IMAP_CERT_FILE",
    "BOUNCE_IMAP_KEY_FILE",
];

/// Settings of a `[[relay]]` table.
pub(super) fn relay_names() -> impl Iterator<Item = &'static Name> {
    let shared = NAMES.iter().filter(|name| {
        let prefixes = ["SMTP_", "FROM_", "BOUNCE_"];
        prefixes.iter().any(|prefix| name.canonical.starts_with(prefix))
            && !NOT_OF_RELAYS.contains(&name.canonical)
    });
    shared.chain(RELAY_NAMES)
}

/// The key of a setting in a `[[relay]]` table.
pub(super) fn relay_key(canonical: &str) -> String {
    let prefixes = ["SMTP_", "RELAY_"];
    let short = prefixes.into_iter().find_map(|prefix| canonical.strip_prefix(prefix));
    short.unwrap_or(canonical).to_ascii_lowercase()
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
        let table = include_str!("../../docs/settings.md");
        for name in NAMES {
            let key = name.canonical.to_ascii_lowercase();
            assert!(has_line(defaults, &key, " = "), "defaults.toml lacks {key}");
            assert!(
                has_line(example, name.canonical, "="),
                ".env.example lacks {}",
                name.canonical
            );
            let row = format!("| `{}`", name.canonical);
            assert!(table.contains(&row), "docs/settings.md lacks {}", name.canonical);
            for alias in name.aliases {
                assert!(
                    defaults.contains(alias) && example.contains(alias),
                    "{alias} is not mentioned"
                );
            }
        }
    }
}
