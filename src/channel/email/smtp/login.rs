//! Logging in (RFC 4954).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    capabilities::Capabilities,
    reply::Reply,
    wire::{NoReply, Wire},
};
use crate::oauth::xoauth2;

/// Longest command line, its end included (RFC 5321 4.5.3.1.4). RFC 4954 section 4: what would be longer
/// goes out without its initial response.
const MAX_LINE: usize = 512;

/// What a server is shown.
pub(super) enum Credentials<'c> {
    Password { username: &'c str, password: &'c str },
    Token { username: &'c str, token: &'c str, host: &'c str, port: u16 },
}

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("the server offers {offered}, and none of {wanted} (look at SMTP_AUTH)")]
    NotOffered { offered: String, wanted: &'static str },
    /// The reply, and what the server said before it of why.
    #[error("{} {}{}", reply.code, reply.text(), reason(.details.as_deref()))]
    Refused { reply: Reply, details: Option<String> },
    #[error("{0}")]
    NoReply(#[from] NoReply),
}

fn reason(details: Option<&str>) -> String {
    details.map(|details| format!(" ({details})")).unwrap_or_default()
}

/// How a password or a token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Login,
    Xoauth2,
    OauthBearer,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::Xoauth2 => "XOAUTH2",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// Tries the mechanisms that both sides know, until the server judges one.
pub(super) async fn login(
    wire: &mut Wire,
    capabilities: &Capabilities,
    credentials: &Credentials<'_>,
    limit: Duration,
) -> Result<(), LoginError> {
    let (mechanisms, wanted) = match credentials {
        Credentials::Password { .. } => ([Mechanism::Plain, Mechanism::Login], "PLAIN, LOGIN"),
        Credentials::Token { .. } => {
            ([Mechanism::Xoauth2, Mechanism::OauthBearer], "XOAUTH2, OAUTHBEARER")
        }
    };
    let offered = |one: &Mechanism| capabilities.mechanisms.iter().any(|name| name == one.name());
    let mut unknown = None;
    for mechanism in mechanisms.into_iter().filter(offered) {
        match attempt(wire, mechanism, credentials, limit).await {
            // RFC 4954 section 6: a mechanism that the server does not know after all.
            Err(LoginError::Refused { reply, .. }) if reply.code == 504 => {
                unknown = Some(LoginError::Refused { reply, details: None });
            }
            judged => return judged,
        }
    }
    let offered = match capabilities.mechanisms.as_slice() {
        [] => "no login".to_owned(),
        some => some.join(" "),
    };
    Err(unknown.unwrap_or(LoginError::NotOffered { offered, wanted }))
}

async fn attempt(
    wire: &mut Wire,
    mechanism: Mechanism,
    credentials: &Credentials<'_>,
    limit: Duration,
) -> Result<(), LoginError> {
    let mut answers = answers(mechanism, credentials).into_iter();
    let mut line = format!("AUTH {}", mechanism.name());
    let mut sent = None;
    // LOGIN has no initial response in its draft, and some servers take none.
    if mechanism != Mechanism::Login {
        let first = answers.next().unwrap_or_default();
        if line.len() + 1 + first.len() + 2 <= MAX_LINE {
            line = format!("{line} {first}");
            sent = Some(first);
        } else {
            answers = vec![first].into_iter();
        }
    }
    let mut details = None;
    let mut reply = wire.command(&format!("{line}\r\n"), limit).await?;
    // A server asks for a name, a password, or once more for what it has; after that it makes no sense.
    for _ in 0..4 {
        if reply.code != 334 {
            break;
        }
        let challenge = challenge(&reply);
        let answer = if let Some(next) = answers.next() {
            next
        } else if challenge.starts_with('{') {
            // A token was refused: the reply comes after an empty answer (XOAUTH2), or one of ^A
            // (RFC 7628 3.2.3).
            details = Some(challenge);
            if mechanism == Mechanism::OauthBearer { "AQ==".to_owned() } else { String::new() }
        } else if let Some(again) = sent.take() {
            // It did not take the initial response.
            again
        } else {
            "*".to_owned()
        };
        reply = wire.command(&format!("{answer}\r\n"), limit).await?;
    }
    match reply.code {
        235 => Ok(()),
        _ => Err(LoginError::Refused { reply, details }),
    }
}

/// What the server asks; for PLAIN and LOGIN it does not matter.
fn challenge(reply: &Reply) -> String {
    let text = reply.lines.join("");
    let decoded = STANDARD.decode(text.trim()).unwrap_or_default();
    super::reply::printable(&decoded).chars().take(300).collect()
}

/// What is answered in turn, in base64.
fn answers(mechanism: Mechanism, credentials: &Credentials<'_>) -> Vec<String> {
    let plain = match (mechanism, credentials) {
        // RFC 4616.
        (Mechanism::Plain, Credentials::Password { username, password }) => {
            vec![format!("\0{username}\0{password}")]
        }
        (_, Credentials::Password { username, password }) => {
            vec![(*username).to_owned(), (*password).to_owned()]
        }
        (Mechanism::Xoauth2, Credentials::Token { username, token, .. }) => {
            vec![xoauth2(username, token)]
        }
        // RFC 7628 3.1; in a name the comma and the equals sign are written otherwise (RFC 5801 section 4).
        (_, Credentials::Token { username, token, host, port }) => {
            let name = username.replace('=', "=3D").replace(',', "=2C");
            vec![format!(
                "n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01"
            )]
        }
    };
    plain.iter().map(|answer| STANDARD.encode(answer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_written_as_each_mechanism_has_them() {
        let decoded = |mechanism, credentials| -> Vec<String> {
            let answers = answers(mechanism, credentials).into_iter();
            answers
                .map(|answer| {
                    String::from_utf8(STANDARD.decode(answer).unwrap_or_default())
                        .unwrap_or_default()
                })
                .collect()
        };
        let password = &Credentials::Password { username: "ana", password: "ñ p" };
        assert_eq!(decoded(Mechanism::Plain, password), ["\0ana\0ñ p"]);
        assert_eq!(decoded(Mechanism::Login, password), ["ana", "ñ p"]);
        let token =
            &Credentials::Token { username: "a,b@x", token: "ya29.x", host: "mx", port: 587 };
        assert_eq!(
            decoded(Mechanism::Xoauth2, token),
            ["user=a,b@x\u{1}auth=Bearer ya29.x\u{1}\u{1}"]
        );
        assert_eq!(
            decoded(Mechanism::OauthBearer, token),
            ["n,a=a=2Cb@x,\u{1}host=mx\u{1}port=587\u{1}auth=Bearer ya29.x\u{1}\u{1}"]
        );
    }
}
