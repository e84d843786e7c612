//! Logging in (RFC 4954).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    capabilities::Capabilities,
    reply::Reply,
    wire::{NoReply, Wire},
};

/// Longest command line, its end included (RFC 5321 4.5.3.1.4). RFC 4954 section 4: what would be longer
/// goes out without its initial response.
const MAX_LINE: usize = 512;

/// What a server is shown.
pub(super) struct Credentials<'c> {
    pub(super) username: &'c str,
    pub(super) password: &'c str,
}

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("the server offers {offered}, and neither PLAIN nor LOGIN")]
    NotOffered { offered: String },
    #[error("{} {}", .0.code, .0.text())]
    Refused(Reply),
    #[error("{0}")]
    NoReply(#[from] NoReply),
}

/// How a password is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Login,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
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
    let mechanisms = [Mechanism::Plain, Mechanism::Login];
    let offered = |one: &Mechanism| capabilities.mechanisms.iter().any(|name| name == one.name());
    let mut unknown = None;
    for mechanism in mechanisms.into_iter().filter(offered) {
        match attempt(wire, mechanism, credentials, limit).await {
            // RFC 4954 section 6: a mechanism that the server does not know after all.
            Err(LoginError::Refused(reply)) if reply.code == 504 => {
                unknown = Some(LoginError::Refused(reply));
            }
            judged => return judged,
        }
    }
    let offered = match capabilities.mechanisms.as_slice() {
        [] => "no login".to_owned(),
        some => some.join(" "),
    };
    Err(unknown.unwrap_or(LoginError::NotOffered { offered }))
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
    let mut reply = wire.command(&format!("{line}\r\n"), limit).await?;
    // A server asks for a name, a password, or once more for what it has; after that it makes no sense.
    for _ in 0..4 {
        if reply.code != 334 {
            break;
        }
        // What it asks does not matter. The second is for one that did not take the initial response.
        let answer = answers.next().or_else(|| sent.take()).unwrap_or_else(|| "*".to_owned());
        reply = wire.command(&format!("{answer}\r\n"), limit).await?;
    }
    match reply.code {
        235 => Ok(()),
        _ => Err(LoginError::Refused(reply)),
    }
}

/// What is answered in turn, in base64.
fn answers(mechanism: Mechanism, credentials: &Credentials<'_>) -> Vec<String> {
    let Credentials { username, password } = credentials;
    let plain = match mechanism {
        // RFC 4616.
        Mechanism::Plain => vec![format!("\0{username}\0{password}")],
        Mechanism::Login => vec![(*username).to_owned(), (*password).to_owned()],
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
        let password = &Credentials { username: "ana", password: "ñ p" };
        assert_eq!(decoded(Mechanism::Plain, password), ["\0ana\0ñ p"]);
        assert_eq!(decoded(Mechanism::Login, password), ["ana", "ñ p"]);
    }
}
