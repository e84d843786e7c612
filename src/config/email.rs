//! Settings of the mail backend, the sender and the mail server, checked together.

use super::{
    oauth, relays,
    settings::{Dkim, Email, EmailBackend, Relay, Smtp, SmtpTls},
    tls,
    validate::{HOUR, MILLISECOND, Reader},
    values as v,
};

/// The mail server if a login is set but no server.
const LOGIN_SERVER: &str = "smtp.gmail.com";

/// Whether mail is simulated although the backend is SMTP.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Simulate {
    /// Mail is simulated if no server is set.
    #[default]
    Auto,
    Never,
    Always,
}

#[derive(Clone, Copy, Default)]
enum Backend {
    #[default]
    Smtp,
    File,
    Console,
}

pub(super) fn email(r: &mut Reader) -> Email {
    let username = r.read("SMTP_USERNAME", v::line);
    let backend = backend(r, username.clone());
    let from_address = r.read("FROM_EMAIL", v::mail_address).unwrap_or_else(|| {
        let login = username.filter(|name| v::mail_address(name).is_ok());
        let without = backend.relays().iter().find(|relay| relay.from_address.is_none());
        if let (Some(relay), None, false) = (without, &login, r.is_set("FROM_EMAIL")) {
            let server = &relay.smtp.server;
            let reason = format!("must be set, because mail through {server} needs a sender");
            r.fault("FROM_EMAIL", reason);
        }
        login.unwrap_or_else(|| "noreply@localhost.localdomain".to_owned())
    });
    let dkim = dkim(r);
    if dkim.is_some() {
        warn_of_broken_signatures(r, &backend);
    }
    Email {
        backend,
        enabled: r.value("ENABLE_EMAIL_NOTIFICATIONS", v::boolean),
        from_address,
        from_name: r.value("FROM_NAME", v::line),
        reply_to: r.read("EMAIL_REPLY_TO", v::mail_address),
        dkim,
    }
}

fn backend(r: &mut Reader, username: Option<String>) -> EmailBackend {
    let simulate = r.value(
        "SIMULATE",
        v::one_of(&[
            ("auto", Simulate::Auto),
            ("never", Simulate::Never),
            ("always", Simulate::Always),
        ]),
    );
    let backend = r.value(
        "EMAIL_BACKEND",
        v::one_of(&[
            ("smtp", Backend::Smtp),
            ("file", Backend::File),
            ("console", Backend::Console),
        ]),
    );
    let directory = r.value("EMAIL_FILE_PATH", v::path);
    let smtp = smtp(r, username);
    let bounce_address = r.read("BOUNCE_ADDRESS", v::mail_address);
    let mut relays = relays::relays(r);
    match (simulate, backend) {
        (Simulate::Always, _) => EmailBackend::Simulated,
        (_, Backend::File) => EmailBackend::File(directory),
        (_, Backend::Console) => EmailBackend::Console,
        (Simulate::Auto | Simulate::Never, Backend::Smtp) => {
            check_server(r, smtp.as_ref());
            if let Some(smtp) = smtp {
                let name = relays::DEFAULT.to_owned();
                relays.insert(
                    0,
                    Relay {
                        name,
                        order: 0,
                        weight: 1,
                        routes: Vec::new(),
                        from_address: None,
                        from_name: None,
                        bounce_address,
                        smtp,
                    },
                );
            }
            relays.sort_by_key(|relay| relay.order);
            if !relays.is_empty() {
                return EmailBackend::Smtp(relays);
            }
            if simulate == Simulate::Never && !r.is_set("SMTP_SERVER") {
                r.fault("SMTP_SERVER", "must be set, because SIMULATE is never");
            }
            EmailBackend::Simulated
        }
    }
}

/// Checks the login, and warns of what is risky.
pub(super) fn check_server(r: &mut Reader, smtp: Option<&Smtp>) {
    let auth = r.read("SMTP_AUTH", v::line);
    if !auth.is_some_and(|auth| auth.eq_ignore_ascii_case("oauth2")) {
        check_together(r, &["SMTP_USERNAME", "SMTP_PASSWORD"]);
    }
    if let Some(smtp) = smtp {
        warn_of_risks(r, smtp);
    }
}

/// `None` if no server is set. All settings are read, so that faults are reported even while mail is
/// simulated.
pub(super) fn smtp(r: &mut Reader, username: Option<String>) -> Option<Smtp> {
    let oauth = oauth::oauth(r, username.as_ref());
    let password = r.secret("SMTP_PASSWORD");
    let (credentials, oauth, provider) = match oauth {
        None => (username.zip(password), None, None),
        Some((oauth, provider)) => (None, oauth, provider),
    };
    let server = r.read("SMTP_SERVER", v::host);
    let port = r.value("SMTP_PORT", v::number(1..=u16::MAX));
    let encryption = encryption(r, port);
    let verify = r.value("SMTP_VERIFY_SSL", v::boolean);
    let tls_files = tls::files(r, "SMTP");
    let timeout = r.value("SMTP_TIMEOUT", v::duration_in(MILLISECOND..=HOUR));
    let dot_timeout = r.value("SMTP_DOT_TIMEOUT", v::duration_in(MILLISECOND..=HOUR));
    let connections = r.value("SMTP_CONNECTIONS", v::number(1..=1000));
    let mails_per_connection = r.value("SMTP_MAILS_PER_CONNECTION", v::number(1..=u32::MAX));
    let rate = r.read("SMTP_RATE", v::send_rate);
    let pipelining = r.value("SMTP_PIPELINING", v::boolean);
    let ehlo_name = r.read("SMTP_EHLO_NAME", v::ehlo_name);
    let idempotency_header = r.read("SMTP_IDEMPOTENCY_HEADER", v::own_header);
    let idempotency_window =
        r.value("SMTP_IDEMPOTENCY_WINDOW", v::duration_in(MILLISECOND..=168 * HOUR));
    let server = server
        .or_else(|| provider.map(ToOwned::to_owned))
        .or_else(|| credentials.is_some().then(|| LOGIN_SERVER.to_owned()))?;
    if oauth.is_some() && encryption == SmtpTls::None && !v::is_loopback(&server) {
        r.fault(
            "SMTP_TLS",
            "must not be none with SMTP_AUTH=oauth2: whoever reads the token may use it",
        );
    }
    Some(Smtp {
        server,
        port,
        tls: encryption,
        verify,
        tls_files,
        credentials,
        timeout,
        dot_timeout,
        connections,
        mails_per_connection,
        idempotency_header,
        idempotency_window,
        rate,
        pipelining,
        ehlo_name,
        oauth: oauth.map(Box::new),
    })
}

fn encryption(r: &mut Reader, port: u16) -> SmtpTls {
    let modern = r.value(
        "SMTP_TLS",
        v::one_of(&[
            ("starttls", SmtpTls::Starttls),
            ("implicit", SmtpTls::Implicit),
            ("none", SmtpTls::None),
        ]),
    );
    let older = match r.read("SMTP_USE_TLS", v::boolean) {
        Some(true) if port == 465 => SmtpTls::Implicit,
        Some(true) => SmtpTls::Starttls,
        Some(false) => SmtpTls::None,
        None => return modern,
    };
    if !r.is_set("SMTP_TLS") {
        return older;
    }
    if older != modern {
        r.report.warn("SMTP_USE_TLS", "contradicts SMTP_TLS and is ignored");
    }
    modern
}

/// Amazon SES replaces fields that are signed.
fn warn_of_broken_signatures(r: &mut Reader, backend: &EmailBackend) {
    let servers = backend.relays().iter().map(|relay| &relay.smtp.server);
    let is_ses = |server: &&String| {
        let server = server.to_ascii_lowercase();
        server.contains("email-smtp") && server.contains(".amazonaws.com")
    };
    for server in servers.filter(is_ses) {
        let reason = format!(
            "{server} is Amazon SES, which replaces Message-ID and Date after usher has signed them: \
             the signature is broken there, so let SES sign (Easy DKIM)"
        );
        r.report.warn("DKIM_SELECTOR", reason);
    }
}

fn dkim(r: &mut Reader) -> Option<Dkim> {
    let selector = r.read("DKIM_SELECTOR", v::domain);
    let domain = r.read("DKIM_DOMAIN", v::domain);
    let private_key = r.read("DKIM_PRIVATE_KEY", v::secret);
    check_together(r, &["DKIM_SELECTOR", "DKIM_PRIVATE_KEY"]);
    if domain.is_some() && !r.is_set("DKIM_SELECTOR") {
        r.report.warn(
            "DKIM_DOMAIN",
            "ignored, because mail is signed only with DKIM_SELECTOR and a key",
        );
    }
    Some(Dkim { selector: selector?, domain, private_key: private_key? })
}

/// Reports those of these settings that are missing if any of them is set.
pub(super) fn check_together(r: &mut Reader, names: &[&str]) {
    let (set, unset): (Vec<_>, Vec<_>) = names.iter().partition(|name| r.is_set(name));
    if let Some(given) = set.first() {
        for missing in unset {
            r.fault(missing, format!("must be set, because {given} is"));
        }
    }
}

fn warn_of_risks(r: &mut Reader, smtp: &Smtp) {
    let server = &smtp.server;
    if smtp.tls == SmtpTls::None && smtp.credentials.is_some() && !v::is_loopback(server) {
        r.report.warn("SMTP_TLS", format!("none sends the password to {server} unencrypted"));
    }
    if smtp.tls == SmtpTls::Starttls && smtp.port == 465 {
        r.report.warn(
            "SMTP_TLS",
            "starttls on port 465, where servers expect implicit: connecting may time out",
        );
    }
    if !smtp.verify {
        r.report.warn(
            "SMTP_VERIFY_SSL",
            format!("off allows anyone who can pose as {server} to read the mail and the password"),
        );
    }
}
