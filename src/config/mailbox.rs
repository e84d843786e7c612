//! Settings of the mailbox that reports come to.

use std::{borrow::Cow, path::PathBuf};

use url::Url;

use super::{
    settings::{BounceMailbox, MailboxLogin, OAuth, Relay, Secret},
    tls,
    validate::Reader,
    values::Parsed,
};

const PORT: u16 = 993;

/// `None` if none is set.
pub(super) fn mailbox(r: &mut Reader, relays: &[Relay]) -> Option<BounceMailbox> {
    let tls = tls::files(r, "BOUNCE_IMAP");
    let by_token = relays.iter().find_map(|relay| {
        let oauth = relay.smtp.oauth.clone()?;
        Some((oauth, relay.smtp.tls_files.ca.clone()))
    });
    let mailbox = r.read("BOUNCE_IMAP_URL", |text| parse(text, by_token.as_ref()))?;
    Some(BounceMailbox { tls, ..mailbox })
}

/// `by_token`: how tokens are got, for a URL without a password.
fn parse(text: &str, by_token: Option<&(Box<OAuth>, Option<PathBuf>)>) -> Parsed<BounceMailbox> {
    // The text itself may be wrong in the password.
    let url = Url::parse(text).map_err(|error| {
        format!("is not a URL ({error}); special characters in a password must be percent-encoded")
    })?;
    let form = "must be imaps://USER:PASSWORD@HOST/MAILBOX";
    let host = url.host_str().filter(|_| url.scheme() == "imaps").ok_or(form)?;
    let decoded =
        |part: &str| percent_encoding::percent_decode_str(part).decode_utf8().map(Cow::into_owned);
    let username = decoded(url.username());
    let password = url.password().map(decoded).transpose();
    let mailbox = decoded(url.path().trim_start_matches('/'));
    let (Ok(username), Ok(password), Ok(mailbox)) = (username, password, mailbox) else {
        return Err("must be UTF-8 where it is percent-encoded".to_owned());
    };
    if username.is_empty() {
        return Err(form.to_owned());
    }
    let login = match (password, by_token) {
        (Some(password), _) => MailboxLogin::Password(Secret::new(password)),
        (None, Some((oauth, ca))) => {
            let oauth = OAuth { username: username.clone(), ..(**oauth).clone() };
            MailboxLogin::Token { oauth: Box::new(oauth), ca: ca.clone() }
        }
        (None, None) => {
            return Err(format!("{form}; without a password SMTP_AUTH must be oauth2"));
        }
    };
    Ok(BounceMailbox {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port().unwrap_or(PORT),
        username,
        login,
        mailbox: if mailbox.is_empty() { "INBOX".to_owned() } else { mailbox },
        tls: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OAuthGrant;

    #[test]
    fn the_url_names_server_login_and_mailbox() {
        let read = |text: &str| {
            let it = parse(text, None).ok()?;
            let MailboxLogin::Password(password) = it.login else { return None };
            let (user, password) = (it.username, password.expose());
            Some(format!("{}:{} {user} {password} {}", it.host, it.port, it.mailbox))
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
            assert!(parse(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_password_the_login_is_by_a_token_for_the_urls_mailbox() {
        let smtp = OAuth {
            username: "noreply@example.com".to_owned(),
            token_url: "https://login.example.com/token".to_owned(),
            client_id: "usher".to_owned(),
            grant: OAuthGrant::ClientSecret(Secret::new("s".to_owned())),
            scope: None,
        };
        let by_token = (Box::new(smtp), None);
        let it = parse("imaps://bounces%40example.com@imap.example.com", Some(&by_token)).unwrap();
        let MailboxLogin::Token { oauth, .. } = it.login else { panic!("a token") };
        assert_eq!(
            (oauth.username.as_str(), it.mailbox.as_str()),
            ("bounces@example.com", "INBOX")
        );
        let with = parse("imaps://b:p@imap.example.com", Some(&by_token)).unwrap();
        assert!(matches!(with.login, MailboxLogin::Password(_)));
    }
}
