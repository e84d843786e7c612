//! Reads one message as a report about mail: a DSN (RFC 3464, RFC 6533), a complaint (RFC 5965) or the text of
//! a server that makes no DSN.

use jiff::Timestamp;
use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders};

use super::{
    Ignored,
    classify::{classify, codes, is_enhanced},
};
use crate::audit::{BounceKind, Evidence, ReceiptStatus};

/// More is not read, in bytes: the part that counts stands before the mail that is returned.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// Parts and nested messages that a message may have: the parser drops nested messages recursively.
const MAX_PARTS: usize = 200;
/// Longest text that is kept of a server, in characters.
const MAX_TEXT: usize = 1000;
/// Where a report without a DSN has its reason, in characters.
const MAX_REASON: usize = 4000;

/// Words for a mail that is not tried again, after a code that says that it could be: qmail and Exim.
const GIVEN_UP_WORDS: [&str; 3] =
    ["not going to try again", "in the queue too long", "retry timeout exceeded"];

/// What one message reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) status: ReceiptStatus,
    pub(super) bounce: Option<BounceKind>,
    pub(super) evidence: Evidence,
    /// When it was written, as it says.
    pub(super) written_at: Option<Timestamp>,
}

/// # Errors
/// The message reports nothing that counts.
pub(super) fn read(raw: &[u8]) -> Result<Report, Ignored> {
    if parts_at_most(raw) > MAX_PARTS {
        return Err(Ignored::TooManyParts);
    }
    let message = MessageParser::default().parse(raw).ok_or(Ignored::NotAReport)?;
    let mut report = match (part(&message, is_delivery_status), part(&message, is_feedback)) {
        (Some(status), _) => delivery_status(&message, status)?,
        (None, Some(feedback)) => complaint(feedback)?,
        (None, None) => text(&message)?,
    };
    let date = message.date().map(mail_parser::DateTime::to_timestamp);
    report.written_at = date.and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(report)
}

/// Every part that is not plain text, and so every level, has a header that says so.
fn parts_at_most(raw: &[u8]) -> usize {
    const HEADER: &[u8] = b"content-type";
    let starts = memchr::memchr2_iter(b'c', b'C', raw);
    starts
        .filter(|at| {
            let found = raw.get(*at..at + HEADER.len());
            found.is_some_and(|found| found.eq_ignore_ascii_case(HEADER))
        })
        .count()
}

fn part<'m, 'x>(message: &'m Message<'x>, is: fn(&str) -> bool) -> Option<&'m MessagePart<'x>> {
    message.parts.iter().find(|part| {
        part.content_type().is_some_and(|kind| {
            kind.ctype().eq_ignore_ascii_case("message")
                && kind.subtype().is_some_and(|kind| is(&kind.to_ascii_lowercase()))
        })
    })
}

fn is_delivery_status(subtype: &str) -> bool {
    matches!(subtype, "delivery-status" | "global-delivery-status")
}

fn is_feedback(subtype: &str) -> bool {
    subtype == "feedback-report"
}

/// The fields of each group; groups are divided by empty lines (RFC 3464 section 2.1).
struct Fields(Vec<(String, String)>);

impl Fields {
    fn groups(part: &MessagePart<'_>) -> Vec<Self> {
        let text = String::from_utf8_lossy(part.contents()).replace("\r\n", "\n");
        let mut groups = vec![Self(Vec::new())];
        for line in text.lines() {
            let Some(Self(fields)) = groups.last_mut() else { break };
            if line.trim().is_empty() {
                if !fields.is_empty() {
                    groups.push(Self(Vec::new()));
                }
            } else if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        groups
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.iter();
        fields.find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// Without the type before it, as in `dns; mx.example.com`.
    fn typed(&self, name: &str) -> Option<&str> {
        let value = self.get(name)?;
        Some(value.split_once(';').map_or(value, |(_, value)| value.trim()))
    }
}

fn delivery_status(message: &Message<'_>, part: &MessagePart<'_>) -> Result<Report, Ignored> {
    let groups = Fields::groups(part);
    let of_message = groups.first();
    let of_recipients = || groups.iter().filter(|group| group.get("action").is_some());
    let with = |action: &str| {
        of_recipients().find(|group| {
            let words = group.get("action").unwrap_or_default();
            words.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case(action))
        })
    };
    // OpenSMTPD says so of mail that it gives up.
    let expired = || {
        with("delayed")
            .filter(|group| words_about(message, group).eq_ignore_ascii_case("Envelope expired"))
    };
    let (group, is_failure) = match (with("failed").or_else(expired), with("delivered")) {
        (Some(failed), _) => (failed, true),
        (None, Some(delivered)) => (delivered, false),
        (None, None) if with("delayed").is_some() => return Err(Ignored::Delayed),
        (None, None) if with("relayed").or(with("expanded")).is_some() => {
            return Err(Ignored::Relayed);
        }
        (None, None) => return Err(Ignored::NotAReport),
    };
    let of_text = words_about(message, group);
    let diagnostic = group.typed("diagnostic-code").unwrap_or(&of_text);
    let (code, of_words) = codes(diagnostic);
    let status = group.get("status").and_then(|status| status.split_whitespace().next());
    // Where the server's reply had no enhanced code, many write 5.0.0 into the field.
    let stated = status.filter(|status| is_enhanced(status)).map(ToOwned::to_owned);
    let enhanced = match stated {
        Some(stated) if !stated.ends_with(".0.0") => Some(stated),
        stated => of_words.or(stated),
    };
    let of_message = |name| of_message.and_then(|group| group.typed(name));
    Ok(Report {
        status: if is_failure { ReceiptStatus::Bounced } else { ReceiptStatus::Delivered },
        bounce: is_failure.then(|| classify(enhanced.as_deref(), code, diagnostic)),
        evidence: Evidence {
            source: "dsn".to_owned(),
            reporting_mta: of_message("reporting-mta").map(cut),
            remote_mta: group.typed("remote-mta").map(cut),
            code: code.filter(|_| is_failure),
            enhanced: if is_failure { enhanced } else { status.map(cut) },
            diagnostic: Some(cut(diagnostic)).filter(|text| !text.is_empty()),
            ..Evidence::default()
        },
        written_at: None,
    })
}

/// What the text for people says about the recipient, where the fields have no words: behind the address, as
/// OpenSMTPD writes it, or in the lines below it, as Exim does of what it refuses itself.
fn words_about(message: &Message<'_>, group: &Fields) -> String {
    let Some(recipient) = group.typed("final-recipient") else { return String::new() };
    let body = message.body_text(0).unwrap_or_default();
    let mut lines = body.lines();
    let about = lines.find_map(|line| {
        let (address, words) = line.split_once(": ").unwrap_or((line, ""));
        address.trim().eq_ignore_ascii_case(recipient).then_some(words)
    });
    match about {
        Some("") => {
            let below = lines.take_while(|line| line.starts_with([' ', '\t']));
            below.map(str::trim).collect::<Vec<_>>().join(" ")
        }
        about => about.unwrap_or_default().trim().to_owned(),
    }
}

fn complaint(part: &MessagePart<'_>) -> Result<Report, Ignored> {
    let groups = Fields::groups(part);
    let get = |name| groups.iter().find_map(|group| group.get(name));
    let kind = get("feedback-type").unwrap_or_default().to_ascii_lowercase();
    if !matches!(kind.as_str(), "abuse" | "fraud" | "opt-out") {
        return Err(Ignored::NoComplaint);
    }
    let reporter = groups.iter().find_map(|group| group.typed("reporting-mta"));
    Ok(Report {
        status: ReceiptStatus::Complained,
        bounce: None,
        evidence: Evidence {
            source: "arf".to_owned(),
            reporting_mta: reporter.or(get("user-agent")).map(cut),
            feedback_type: Some(kind),
            ..Evidence::default()
        },
        written_at: None,
    })
}

/// Of a mail server that makes no DSN, such as qmail.
fn text(message: &Message<'_>) -> Result<Report, Ignored> {
    let header =
        |name: &'static str| message.header_raw(name).map(|text| text.trim().to_lowercase());
    if part_is_disposition(message) {
        return Err(Ignored::ReadReceipt);
    }
    if ["List-Id", "List-Unsubscribe", "List-Post"].iter().any(|name| header(name).is_some()) {
        return Err(Ignored::MailingList);
    }
    let from = header("From").unwrap_or_default();
    let is_from_server = ["mailer-daemon@", "postmaster@"].iter().any(|name| from.contains(name));
    if !is_from_server && header("X-Failed-Recipients").is_none() {
        let is_automatic = header("Auto-Submitted").is_some_and(|value| !value.starts_with("no"))
            || ["X-Autoreply", "X-Autorespond", "X-Auto-Response-Suppress", "Vacation"]
                .iter()
                .any(|name| header(name).is_some())
            || header("Precedence").is_some_and(|value| value == "auto_reply" || value == "bulk");
        return Err(if is_automatic { Ignored::AutoReply } else { Ignored::NotAReport });
    }
    let body = message.body_text(0).unwrap_or_default();
    let reason: String = before_the_returned_mail(&body).chars().take(MAX_REASON).collect();
    let (code, enhanced) = codes(&reason);
    let is_temporary = enhanced
        .as_deref()
        .map_or(code.is_some_and(|code| code < 500), |code| code.starts_with('4'));
    let words = reason.to_lowercase();
    let is_delay = is_temporary && !GIVEN_UP_WORDS.iter().any(|known| words.contains(known));
    let kind = classify(enhanced.as_deref(), code, &reason);
    match (code, &enhanced) {
        _ if is_delay => return Err(Ignored::Delayed),
        (None, None) if kind != BounceKind::Hard => return Err(Ignored::NoCode),
        _ => {}
    }
    Ok(Report {
        status: ReceiptStatus::Bounced,
        bounce: Some(kind),
        evidence: Evidence {
            source: "text".to_owned(),
            code,
            enhanced,
            diagnostic: Some(cut(&reason)),
            ..Evidence::default()
        },
        written_at: None,
    })
}

fn part_is_disposition(message: &Message<'_>) -> bool {
    part(message, |kind| kind == "disposition-notification").is_some()
}

/// What follows is the mail, whose numbers and words say nothing.
fn before_the_returned_mail(text: &str) -> &str {
    const BEGINNINGS: [&str; 5] = [
        "--- below this line",
        "------ this is a copy",
        "----- original message",
        "return-path:",
        "received:",
    ];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let lower = line.trim_start().to_lowercase();
        if BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning)) {
            return &text[..at];
        }
        at += line.len();
    }
    text
}

pub(super) fn cut(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A multipart report with this part and a returned mail.
    fn multipart(part: &str, fields: &str) -> String {
        format!(
            "From: postmaster@mx.example\r\nDate: Fri, 27 Nov 2026 20:00:00 +0000\r\n\
             Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n\
             --b\r\nContent-Type: text/plain\r\n\r\nYour mail\r\n\
             --b\r\nContent-Type: {part}\r\n\r\n{fields}\r\n\
             --b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: 550 5.7.1 spam\r\n\r\n--b--\r\n"
        )
    }

    fn dsn(fields: &str) -> String {
        multipart(
            "message/delivery-status",
            &format!("Reporting-MTA: dns; mx.example\r\n\r\n{fields}"),
        )
    }

    /// What became of it, in short.
    fn told(raw: &[u8]) -> String {
        match read(raw) {
            Err(ignored) => format!("{ignored:?}"),
            Ok(Report { status, bounce, evidence, .. }) => {
                let bounce = bounce.map(BounceKind::as_str).unwrap_or_default();
                let enhanced = evidence.enhanced.unwrap_or_default();
                format!("{} {bounce} {enhanced}", status.as_str()).trim().replace("  ", " ")
            }
        }
    }

    #[test]
    fn reports_are_read_as_servers_write_them() {
        let text = |from: &str, more: &str, body: &str| {
            format!("From: {from}\r\n{more}Subject: failure notice\r\n\r\n{body}")
        };
        let daemon = "Mail Delivery System <Mailer-Daemon@mx.example>";
        for (raw, expected) in [
            // Exchange Online: a tab, a code of five characters, a folded line.
            (
                dsn(
                    "Final-Recipient: rfc822;nobody@example.com\r\nAction: failed\r\nStatus: 5.1.10\r\n\
                     Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient\r\n\t nobody not found\r\n",
                ),
                "bounced hard 5.1.10",
            ),
            // Gmail: the general code in the field, the real one in the words.
            (
                dsn(
                    "Final-Recipient: rfc822; a@example.com\r\nAction: failed\r\nStatus: 5.0.0\r\n\
                     Remote-MTA: dns; mx.example.com\r\n\
                     Diagnostic-Code: smtp; 550-5.1.1 The email account does not exist.\r\n",
                ),
                "bounced hard 5.1.1",
            ),
            // Exim: no code but the reply's.
            (
                dsn("Action: failed\r\nFinal-Recipient: rfc822;a@example.com\r\nStatus: 5.0.0\r\n\
                     Diagnostic-Code: smtp; 550 Unrouteable address\r\n"),
                "bounced hard 5.0.0",
            ),
            (
                dsn(
                    "Final-Recipient: rfc822; a@b\r\nAction: failed (gave up)\r\nStatus: 4.4.7\r\n",
                ),
                "bounced soft 4.4.7",
            ),
            (
                dsn("Final-Recipient: rfc822; a@b\r\nAction: failed\r\nStatus: 5.7.26 (auth)\r\n"),
                "bounced blocked 5.7.26",
            ),
            (
                dsn("Final-Recipient: rfc822; a@b\r\nACTION: Delivered\r\nStatus: 2.1.5\r\n"),
                "delivered 2.1.5",
            ),
            (
                dsn("Final-Recipient: rfc822; a@b\r\nAction: delayed\r\nStatus: 4.4.1\r\n"),
                "Delayed",
            ),
            (
                dsn("Final-Recipient: rfc822; a@b\r\nAction: relayed\r\nStatus: 2.1.9\r\n"),
                "Relayed",
            ),
            // Two recipients after an alias: the failure counts.
            (
                dsn("Final-Recipient: rfc822; a@b\r\nAction: delivered\r\nStatus: 2.0.0\r\n\r\n\
                     Final-Recipient: rfc822; c@d\r\nAction: failed\r\nStatus: 5.2.2\r\n"),
                "bounced soft 5.2.2",
            ),
            // RFC 6533.
            (
                multipart(
                    "message/global-delivery-status",
                    "Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: utf-8; añ@example.com\r\nAction: failed\r\n\
                     Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 añ@example.com: no\r\n",
                ),
                "bounced hard 5.1.1",
            ),
            (dsn("Nothing: here\r\n"), "NotAReport"),
            (
                multipart("message/feedback-report", "Feedback-Type: fraud\r\nVersion: 1\r\n"),
                "complained",
            ),
            (
                multipart("message/feedback-report", "Feedback-Type: auth-failure\r\n"),
                "NoComplaint",
            ),
            (multipart("message/disposition-notification", "Disposition: x\r\n"), "ReadReceipt"),
            (
                text(
                    daemon,
                    "",
                    "<a@b>:\r\n550 5.1.1 no\r\n\r\n--- Below this line\r\n5.7.1 spam\r\n",
                ),
                "bounced hard 5.1.1",
            ),
            (
                text(
                    daemon,
                    "X-Failed-Recipients: a@b\r\n",
                    "all failed:\r\n  Unrouteable address\r\n",
                ),
                "bounced hard",
            ),
            (text(daemon, "", "451 4.4.1 will be tried for 4 days\r\n"), "Delayed"),
            (text(daemon, "", "Something went wrong\r\n"), "NoCode"),
            (
                text(
                    "ana@b.example",
                    "Auto-Submitted: auto-replied\r\n",
                    "550 5.1.1 I am away\r\n",
                ),
                "AutoReply",
            ),
            (text("ana@b.example", "List-Id: <l.b.example>\r\n", "550 5.1.1\r\n"), "MailingList"),
            (text("ana@b.example", "", "user unknown 550 5.1.1\r\n"), "NotAReport"),
            (String::new(), "NotAReport"),
            ("\u{0}\r\n\r\n\u{fffd}".to_owned(), "NotAReport"),
        ] {
            assert_eq!(told(raw.as_bytes()), expected, "{raw}");
        }
    }

    /// Those of exim 4.96, opensmtpd 6.8 and postfix 3.7 were made by them, each for the same refusals. The others
    /// are as their servers write them. `own` names a delivery with the right code; `foreign` ones are forged.
    #[test]
    fn reports_of_servers_and_providers_become_what_the_list_says() {
        let identity = crate::routing::Identity::new("corpus");
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reports");
        let mut lines = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "eml") {
                continue;
            }
            let (raw, name) = (std::fs::read(&path).unwrap(), path.file_stem().unwrap());
            let is_own = super::super::return_path::find(&raw, &identity).is_some();
            let whose = if is_own { "own" } else { "foreign" };
            lines.push(format!("{} {whose} {}", name.display(), told(&raw)));
        }
        lines.sort();
        let expected = std::fs::read_to_string(folder.join("expected.txt")).unwrap();
        let mut expected: Vec<&str> = expected.lines().collect();
        expected.sort_unstable();
        assert!(lines.len() > 60 && lines == expected, "{}", lines.join("\n"));
    }

    /// Nested messages are dropped one within the other, which takes stack for each.
    #[test]
    fn a_message_of_many_levels_is_not_parsed() {
        let raw = "Content-Type: message/rfc822\r\n\r\n".repeat(30_000);
        assert_eq!(read(raw.as_bytes()), Err(Ignored::TooManyParts));
        let few = "Content-Type: message/rfc822\r\n\r\n".repeat(MAX_PARTS);
        assert_eq!(read(few.as_bytes()), Err(Ignored::NotAReport));
    }
}
