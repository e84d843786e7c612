//! What a refusal says about the address: nothing where the mail or its sender was refused.

use crate::audit::BounceKind;

/// Addresses that do not exist and will not by themselves (RFC 3463, 3.2 to 3.5; RFC 7505 for 5.1.10).
/// 5.4.4 is a domain that DNS does not know.
const HARD: [&str; 8] = ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.4.4", "5.1.0"];

/// Subjects and details that are about the sender, the mail's size or its content.
const BLOCKED: [&str; 5] = ["1.7", "1.8", "2.3", "3.4", "7"];
const BLOCKED_SUBJECTS: [&str; 2] = ["6.", "7."];

/// Words of servers that refuse for policy or reputation, whatever code they give.
const POLICY_WORDS: [&str; 22] = [
    "spam",
    "blacklist",
    "black list",
    "blocklist",
    "block list",
    "blocked",
    "banned",
    "denylist",
    "reputation",
    "dnsbl",
    "rbl",
    "policy",
    "dmarc",
    "dkim",
    "spf ",
    "spf:",
    "unsolicited",
    "bulk mail",
    "virus",
    "malware",
    "rate limit",
    "too many",
];

/// Words for an address that does not exist. The code beside them is often a general one.
const UNKNOWN_USER_WORDS: [&str; 17] = [
    "user unknown",
    "unknown user",
    "unknown recipient",
    "recipient unknown",
    "no such user",
    "no such recipient",
    "no such mailbox",
    "no such address",
    "no mailbox here",
    "mailbox not found",
    "mailbox unavailable",
    "user not found",
    "recipient not found",
    "recipientnotfound",
    "does not exist",
    "doesn't have a",
    "unrouteable address",
];

/// What Exchange Online says with 5.4.1 of an address that its directory does not have.
const EXCHANGE_UNKNOWN: &str = "recipient address rejected: access denied";

/// The kind of a bounce with this enhanced code, or this reply code, and these words.
pub(super) fn classify(enhanced: Option<&str>, code: Option<u16>, words: &str) -> BounceKind {
    let words = words.to_lowercase();
    let has = |known: &[&str]| known.iter().any(|one| words.contains(one));
    // Rather one mail too many to a dead address than none to a living one.
    if enhanced.is_some_and(is_about_the_mail) || has(&POLICY_WORDS) {
        return BounceKind::Blocked;
    }
    let is_permanent = match (enhanced, code) {
        (Some(enhanced), _) => enhanced.starts_with('5'),
        (None, Some(code)) => code >= 500,
        (None, None) => true,
    };
    let is_general = enhanced.is_none_or(|code| code.ends_with(".0.0") || code == "5.5.0");
    let is_unknown = enhanced.is_some_and(|code| HARD.contains(&code))
        || is_general && has(&UNKNOWN_USER_WORDS)
        || enhanced == Some("5.4.1") && words.contains(EXCHANGE_UNKNOWN);
    if is_permanent && is_unknown { BounceKind::Hard } else { BounceKind::Soft }
}

fn is_about_the_mail(enhanced: &str) -> bool {
    let detail = enhanced.split_once('.').map(|(_, detail)| detail).unwrap_or_default();
    BLOCKED.contains(&detail) || BLOCKED_SUBJECTS.iter().any(|subject| detail.starts_with(subject))
}

/// The first reply code of 4xx or 5xx and the first enhanced code in a text.
pub(super) fn codes(text: &str) -> (Option<u16>, Option<String>) {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let mut words = words.map(|word| word.trim_matches('.')).filter(|word| !word.is_empty());
    let (mut code, mut enhanced) = (None, None);
    for word in &mut words {
        if code.is_none() && word.len() == 3 && word.starts_with(['4', '5']) {
            code = word.parse().ok();
        }
        if enhanced.is_none() && is_enhanced(word) {
            enhanced = Some(word.to_owned());
        }
    }
    (code, enhanced)
}

/// Whether it is an enhanced code of a failure (RFC 3463).
pub(super) fn is_enhanced(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let is_number =
        |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    parts.len() == 3 && ["4", "5"].contains(&parts[0]) && parts.iter().all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_the_address_is_hard() {
        use BounceKind::{Blocked, Hard, Soft};
        for (enhanced, code, words, kind) in [
            (
                Some("5.1.1"),
                Some(550),
                "The email account that you tried to reach does not exist",
                Hard,
            ),
            (Some("5.1.10"), Some(550), "RESOLVER.ADR.RecipientNotFound", Hard),
            (Some("5.4.4"), None, "Host or domain name not found. type=A: Host not found", Hard),
            (Some("5.2.1"), Some(550), "mailbox is disabled", Hard),
            (Some("5.5.0"), Some(550), "Requested action not taken: mailbox unavailable", Hard),
            (Some("5.0.0"), Some(550), "no such user here", Hard),
            (None, Some(550), "Unknown user: nobody@example.org", Hard),
            (
                Some("5.4.1"),
                Some(550),
                "Recipient address rejected: Access denied. [x.outlook.com]",
                Hard,
            ),
            (Some("5.4.1"), None, "no answer from host", Soft),
            (Some("5.2.2"), Some(552), "mailbox full", Soft),
            (Some("4.4.1"), None, "Connection timed out", Soft),
            (Some("4.1.1"), Some(450), "User unknown in virtual mailbox table", Soft),
            (Some("5.0.0"), Some(550), "Administrative prohibition", Soft),
            (Some("5.4.6"), None, "mail loops back to myself", Soft),
            (None, Some(554), "Transaction failed", Soft),
            (
                Some("5.7.1"),
                Some(550),
                "Client host [192.0.2.1] blocked using zen.spamhaus.org",
                Blocked,
            ),
            (Some("5.1.1"), Some(550), "Mail rejected as spam", Blocked),
            (Some("5.7.26"), Some(550), "unauthenticated: DMARC", Blocked),
            (Some("5.2.3"), Some(552), "message length exceeds the limit", Blocked),
            (Some("5.6.0"), None, "illegal header", Blocked),
            (Some("5.1.8"), Some(553), "Sender address rejected: Domain not found", Blocked),
            (None, Some(554), "IP on our blacklist", Blocked),
        ] {
            assert_eq!(classify(enhanced, code, words), kind, "{enhanced:?} {code:?} {words}");
        }
    }

    #[test]
    fn codes_are_found_among_other_numbers() {
        let found = |text| {
            let (code, enhanced) = codes(text);
            (code, enhanced.unwrap_or_default())
        };
        assert_eq!(found("smtp; 550 5.1.1 <x@y>: no"), (Some(550), "5.1.1".into()));
        assert_eq!(found("550-5.7.26 This"), (Some(550), "5.7.26".into()));
        assert_eq!(found("host 5.1.1.2 said 12345 (#5.4.4)"), (None, "5.4.4".into()));
        assert_eq!(found("2026-11-27 22:00:00 200 2.0.0"), (None, String::new()));
    }
}
