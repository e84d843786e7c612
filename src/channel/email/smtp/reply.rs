//! What the server says, and what that means for the delivery.

use lettre::transport::smtp::{Error, response::Response};

use crate::{audit::Smtp as Reply, channel::Outcome};

/// What a refusal means for the delivery (DESIGN section 3, "SMTP outcomes").
pub(crate) fn classify(reply: Reply) -> Outcome {
    let permanent = (500..600).contains(&reply.code);
    let in_envelope = reply.command != ".";
    // 421: the server is closing. 5xx at MAIL: it does not want us, whatever the mail, but for
    // size, syntax and parameters, which are this mail's own.
    let about_us = (reply.code == 421 && in_envelope)
        || (permanent && reply.command == "MAIL" && !matches!(reply.code, 501 | 552 | 555));
    if about_us {
        return Outcome::Unavailable(format!("{} {}", reply.code, reply.reply), Some(reply));
    }
    Outcome::Refused { reply, permanent }
}

pub(crate) fn positive(server: &str, command: &str, response: &Response) -> Reply {
    let text: Vec<&str> = response.message().collect();
    reply(server, command, response.code().into(), &text.join(" "))
}

pub(crate) fn negative(server: &str, command: &str, error: &Error) -> Reply {
    let code = error.status().map_or(0, Into::into);
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    reply(server, command, code, &text)
}

fn reply(server: &str, command: &str, code: u16, text: &str) -> Reply {
    let text: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    let first = text.split(' ').next().unwrap_or_default();
    // RFC 2034 section 3: class, subject and detail at the start of the text.
    let is_enhanced = first.split('.').count() == 3
        && first
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    Reply {
        server: server.to_owned(),
        command: command.to_owned(),
        code,
        enhanced: is_enhanced.then(|| first.to_owned()),
        reply: text,
    }
}

pub(crate) fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_judged_by_phase_and_code() {
        let judged = |command, code| classify(reply("s:25", command, code, "5.7.1 text"));
        for (command, code, permanent) in [
            ("MAIL", 451, false),
            ("MAIL", 552, true),
            ("RCPT", 550, true),
            ("RCPT", 450, false),
            ("DATA", 554, true),
            (".", 421, false),
            (".", 451, false),
            (".", 550, true),
        ] {
            let Outcome::Refused { permanent: found, .. } = judged(command, code) else {
                panic!("{command} {code}")
            };
            assert_eq!(found, permanent, "{command} {code}");
        }
        for (command, code) in [("MAIL", 530), ("MAIL", 550), ("MAIL", 421), ("RCPT", 421)] {
            assert!(matches!(judged(command, code), Outcome::Unavailable(..)), "{command} {code}");
        }
    }

    #[test]
    fn enhanced_codes_are_read() {
        assert_eq!(
            reply("s", "RCPT", 550, "5.1.1 no such user").enhanced.as_deref(),
            Some("5.1.1")
        );
        assert_eq!(reply("s", "RCPT", 550, "no such user").enhanced, None);
    }
}
