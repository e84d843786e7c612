//! Turns raw values into [`Settings`], and checks rules about several of them.

use std::time::Duration;

use super::{
    Report, api, email,
    layers::{Layers, Origin},
    mailbox,
    names::{Kind, NAMES, Name},
    settings::{
        Brand, Email, EmailBackend, Endpoint, LogFormat, PRE_SEND_BUDGET, Secret, Settings,
    },
    sms, stream, tls, values as v,
};
use crate::duration;

/// The pepper in `defaults.toml`.
const PUBLIC_PEPPER: &str = "usher-public-pepper";
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// MongoDB stores the age of a TTL index as seconds in 31 bits.
const LONGEST_RETENTION: Duration = Duration::from_secs(24_855 * 86_400);

/// Reads and checks every setting. A faulty one gets a placeholder, so that the rest is still checked;
/// then the caller drops the result.
pub(super) fn settings(layers: &Layers, report: &mut Report) -> Settings {
    let r = &mut Reader { layers, report };
    let url = r.value("RABBITMQ_URL", v::amqp_url);
    let rabbitmq = Endpoint { tls: tls::files_for(r, "RABBITMQ", &url), url };
    let url = redis_url(r);
    let redis = Endpoint { tls: tls::files_for(r, "REDIS", &url), url };
    let (url, database) = r.value("MONGODB_URI", v::mongodb_uri);
    let mongodb = Endpoint { tls: tls::files_for(r, "MONGODB", &url), url };
    let email = email::email(r);
    let bounce_mailbox = mailbox::mailbox(r, email.backend.relays());
    let admin_emails = r.value("ADMIN_EMAILS", v::list(v::mail_address));
    let contact_emails: Vec<String> = r.value("CONTACT_EMAILS", v::list(v::mail_address));
    let contact_emails = [contact_emails, admin_emails.clone()]
        .into_iter()
        .find(|addresses| !addresses.is_empty())
        .unwrap_or_else(|| vec![email.from_address.clone()]);
    let (instance_ttl, instance_renewal) = instance_times(r);
    let pepper = r.value("USHER_PEPPER", v::secret);
    // Compared by value, because a settings file may be a copy of defaults.toml.
    if pepper.expose() == PUBLIC_PEPPER {
        r.report.warn(
            "USHER_PEPPER",
            "not set: delivery ids are keyed with a public value, so they can be guessed",
        );
    }
    let http_listen = r.value("HTTP_LISTEN", v::listen);
    Settings {
        rabbitmq,
        redis,
        mongodb,
        mongodb_database: database.unwrap_or_else(|| "usher".to_owned()),
        drain_timeout: drain_timeout(r, &email.backend),
        hold: hold(r, &email.backend),
        geoip_file: r.read("GEOIP_FILE", v::path),
        brand: brand(r, &email),
        sms: sms::sms(r),
        stream: stream::stream(r),
        email,
        admin_emails,
        contact_emails,
        retry_schedule: retry_schedule(r),
        dedup_window: r.value("DEDUP_WINDOW", v::duration_in(SECOND..=366 * DAY)),
        dedup_window_derived: r.value("DEDUP_WINDOW_DERIVED", v::duration_in(SECOND..=366 * DAY)),
        prefetch: r.value("PREFETCH", v::number(1..=u16::MAX)),
        rate_limit: r.read("RATE_LIMIT_PER_RECIPIENT", v::rate_limit),
        suppress_after: r.value("SUPPRESS_AFTER", v::or_none(v::rate_limit)),
        audit_retention: r.value("AUDIT_RETENTION", v::duration_in(SECOND..=LONGEST_RETENTION)),
        checkpoint_key: r.read("CHECKPOINT_KEY", v::secret),
        checkpoint_interval: r.value("CHECKPOINT_INTERVAL", v::duration_in(SECOND..=7 * DAY)),
        checkpoint_file: r.read("CHECKPOINT_FILE", v::path),
        status_events: r.value("STATUS_EVENTS", v::boolean),
        instance_ttl,
        instance_renewal,
        pepper,
        locale: r.value("DEFAULT_LOCALE", v::locale),
        currency: r.value("DEFAULT_CURRENCY", v::currency),
        timezone: r.read("TIMEZONE", v::timezone),
        reminder_before: r.value("REMINDER_BEFORE", v::or_none(v::duration_in(SECOND..=366 * DAY))),
        routes_file: r.read("ROUTES_FILE", v::path),
        templates_dir: r.read("TEMPLATES_DIR", v::path),
        api: api::api(r, http_listen),
        bounce_mailbox,
        http_listen,
        http_limits: api::http_limits(r),
        log_format: r.value(
            "LOG_FORMAT",
            v::one_of(&[
                ("auto", LogFormat::Auto),
                ("human", LogFormat::Human),
                ("json", LogFormat::Json),
            ]),
        ),
        log_level: r.value("LOG_LEVEL", v::log_levels),
        raw: layers.raw(),
    }
}

fn redis_url(r: &mut Reader) -> Secret {
    let host = r.read("REDIS_HOST", v::host);
    let port = r.read("REDIS_PORT", v::number(1..=u16::MAX));
    let password = r.read("REDIS_PASSWORD", v::secret);
    let db = r.read("REDIS_DB", v::number(0..=u32::MAX));
    let parts = ["REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB"];
    let parts: Vec<_> = parts.into_iter().filter(|part| r.is_set(part)).collect();
    if parts.is_empty() {
        return r.value("REDIS_URL", v::redis_url);
    }
    if r.is_set("REDIS_URL") {
        r.report.warn("REDIS_URL", format!("overrides {}", parts.join(", ")));
        return r.value("REDIS_URL", v::redis_url);
    }
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    let url = v::redis_of_parts(&host, port.unwrap_or(6379), password.as_ref(), db.unwrap_or(0));
    url.unwrap_or_else(|reason| {
        r.fault("REDIS_HOST", reason);
        Secret::default()
    })
}

fn drain_timeout(r: &mut Reader, backend: &EmailBackend) -> Duration {
    let drain = r.read("DRAIN_TIMEOUT", v::duration_in(Duration::ZERO..=HOUR));
    if let (Some(drain), Some(dot)) = (drain, backend.longest_dot_timeout())
        && drain < dot
    {
        let (drain, dot) = (duration::format(drain), duration::format(dot));
        let reason = format!(
            "{drain} is shorter than SMTP_DOT_TIMEOUT {dot}: \
             a mail that waits for its reply at that time is parked"
        );
        r.report.warn("DRAIN_TIMEOUT", reason);
    }
    drain.unwrap_or_default()
}

fn retry_schedule(r: &mut Reader) -> Vec<Duration> {
    let step = v::list(v::duration_in(MILLISECOND..=DAY));
    let schedule = r.read("RETRY_SCHEDULE", |text| match step(text)? {
        steps if (1..=20).contains(&steps.len()) => Ok(steps),
        _ => Err("must have 1 to 20 steps; SMTP_MAX_RETRIES=0 turns retries off".to_owned()),
    });
    let max = r.read("SMTP_MAX_RETRIES", v::number(0..=1000));
    let (Some(mut schedule), Some(max)) = (schedule.clone(), max) else {
        return schedule.unwrap_or_default();
    };
    if max > schedule.len() {
        let reason = format!(
            "{max} is more than the {} steps of RETRY_SCHEDULE, which are all used",
            schedule.len()
        );
        r.report.warn("SMTP_MAX_RETRIES", reason);
    }
    schedule.truncate(max);
    schedule
}

/// RabbitMQ closes the channel of a consumer that holds a message for longer than `consumer_timeout`. The
/// longest wait and the longest SMTP transaction together have to stay below that.
fn hold(r: &mut Reader, backend: &EmailBackend) -> Duration {
    let ack = r.value("ACK_TIMEOUT", v::duration_in(SECOND..=24 * HOUR));
    let Some(dot) = backend.longest_dot_timeout() else { return ack / 2 };
    let transaction = PRE_SEND_BUDGET + dot;
    if ack <= transaction {
        let [a, p, d, t] = [ack, PRE_SEND_BUDGET, dot, transaction].map(duration::format);
        let reason = format!(
            "{a} is not more than {p} before the body + SMTP_DOT_TIMEOUT {d} = {t}: \
             the broker would take the message back while the mail is being sent"
        );
        r.fault("ACK_TIMEOUT", reason);
        return Duration::ZERO;
    }
    // The other half is for the records, the republished message and the acknowledgement.
    (ack - transaction) / 2
}

fn instance_times(r: &mut Reader) -> (Duration, Duration) {
    let ttl = r.read("INSTANCE_TTL", v::duration_in(SECOND..=HOUR));
    let renewal = r.read("INSTANCE_RENEWAL", v::duration_in(MILLISECOND..=HOUR));
    if let (Some(ttl), Some(renewal)) = (ttl, renewal)
        && ttl < 3 * renewal
    {
        let [t, n, least] = [ttl, renewal, 3 * renewal].map(duration::format);
        let reason = format!(
            "{t} is less than 3 x INSTANCE_RENEWAL {n} = {least}: \
             an instance must survive two lost renewals"
        );
        r.fault("INSTANCE_TTL", reason);
    }
    (ttl.unwrap_or_default(), renewal.unwrap_or_default())
}

fn brand(r: &mut Reader, email: &Email) -> Brand {
    let support_email =
        r.read("BRAND_SUPPORT_EMAIL", v::mail_address).or_else(|| email.reply_to.clone());
    Brand {
        name: r.read("BRAND_NAME", v::line).unwrap_or_else(|| email.from_name.clone()),
        logo_url: r.read("BRAND_LOGO_URL", v::web_url),
        website_url: r.read("BRAND_WEBSITE_URL", v::web_url),
        support_email: support_email.unwrap_or_else(|| email.from_address.clone()),
        support_url: r.read("BRAND_SUPPORT_URL", v::web_url),
        security_url: r.read("BRAND_SECURITY_URL", v::web_url),
        colour: r.value("BRAND_COLOR", v::colour),
    }
}

/// Reads settings one by one, and reports faults.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    pub(super) report: &'a mut Report,
}

impl Reader<'_> {
    /// Whether the operator set a value, usable or not.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.layers.get(name).is_some_and(|found| found.origin != Origin::Default)
    }

    /// `None` if there is no value, or its fault was reported.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> v::Parsed<T>,
    ) -> Option<T> {
        let text = self.layers.get(name)?.text.as_deref()?;
        let parsed = match text.contains(char::REPLACEMENT_CHARACTER) {
            true => Err("is not UTF-8".to_owned()),
            // Only a password may begin or end with blanks on purpose.
            false => parse(if is_secret(name) { text } else { text.trim() }),
        };
        parsed.map_err(|reason| self.fault(name, reason)).ok()
    }

    /// A secret, which knows the file that it is from.
    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        let file = self.layers.get(name).and_then(|found| found.file.clone());
        self.read(name, v::secret).map(|secret| secret.of_file(file))
    }

    /// The same for a setting with a value in `defaults.toml`, or whose type has the right default.
    pub(super) fn value<T: Default>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> v::Parsed<T>,
    ) -> T {
        self.read(name, parse).unwrap_or_default()
    }

    pub(super) fn fault(&mut self, name: &str, reason: impl Into<String>) {
        let (origin, value) = match self.layers.get(name) {
            Some(found) => (found.origin.clone(), found.text.clone().filter(|_| !is_secret(name))),
            None => (Origin::NotSet, None),
        };
        self.report.fault(name, origin, reason, value);
    }
}

fn is_secret(canonical: &str) -> bool {
    let secret = |name: &&Name| name.kind == Kind::Secret;
    NAMES.iter().filter(secret).any(|name| name.canonical == canonical)
}
