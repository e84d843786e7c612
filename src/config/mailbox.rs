//! Settings of the mailbox that reports come to.

use std::borrow::Cow;

use url::Url;

use super::{
    settings::{BounceMailbox, Secret},
    tls,
    validate::Reader,
    values::Parsed,
};

const PORT: u16 = 993;

/// `None` if none is set.
pub(super) fn mailbox(r: &mut Reader) -> Option<BounceMailbox> {
    let tls = tls::files(r, "BOUNCE_IMAP");
    let mailbox = r.read("BOUNCE_IMAP_URL", parse)?;
    Some(BounceMailbox { tls, ..mailbox })
}

fn parse(text: &str) -> Parsed<BounceMailbox> {
    // The text itself may be wrong in the password.
    let url = Url::parse(text).map_err(|error| {
        format!("is not a URL ({error}); special characters in a password must be percent-encoded")
    })?;
    let form = "must be imaps://USER:PASSWORD@HOST/MAILBOX";
    let host = url.host_str().filter(|_| url.scheme() == "imaps").ok_or(form)?;
    let decoded =
        |part: &str| percent_encoding::percent_decode_str(part).decode_utf8().map(Cow::into_owned);
    let (username, password) = (decoded(url.username()), decoded(url.password().ok_or(form)?));
    let mailbox = decoded(url.path().trim_start_matches('/'));
    let (Ok(username), Ok(password), Ok(mailbox)) = (username, password, mailbox) else {
        return Err("must be UTF-8 where it is percent-encoded".to_owned());
    };
    if username.is_empty() {
        return Err(form.to_owned());
    }
    Ok(BounceMailbox {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port().unwrap_or(PORT),
        username,
        password: Secret::new(password),
        mailbox: if mailbox.is_empty() { "INBOX".to_owned() } else { mailbox },
        tls: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_server_login_and_mailbox() {
        let read = |text: &str| {
            let it = parse(text).ok()?;
            Some(format!(
                "{}:{} {} {} {}",
                it.host,
                it.port,
                it.username,
                it.password.expose(),
                it.mailbox
            ))
        };
        let expected = "mail.example.com:993 bounces@example.com p:w INBOX";
        assert_eq!(
            read("imaps://bounces%40example.com:p%3Aw@mail.example.com").as_deref(),
            Some(expected)
        );
        assert_eq!(read("imaps://b:p@[::1]:1993/Reports").as_deref(), Some("::1:1993 b p Reports"));
        for wrong in
            ["imap://b:p@h/INBOX", "imaps://h/INBOX", "imaps://b@h/", "mail.example.com", ""]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
