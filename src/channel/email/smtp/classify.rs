//! Whom a refusal is about. The rules are a table, and the same table stands in `docs/deliveries.md`.

use super::reply::{Enhanced, Reply};

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Command {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Dot,
}

impl Command {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Ehlo => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Dot => ".",
        }
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a refusal is about, and so what becomes of the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Classification {
    /// This recipient or this mail, for now: by the schedule.
    Later,
    /// This recipient or this mail, for good: dead letter.
    Never,
    /// A mail that this server can't take, while another may.
    Limit,
    /// A policy that may be about this mail or about all of ours: dead letter, unless it hits everybody.
    Policy,
    /// Us: all wait, and whoever looks is told to look at this.
    Us(&'static str),
    /// The server as a whole: all wait.
    Server,
    /// This connection has done its work: another one, and no attempt is counted.
    Connection,
    /// No reply to this command at all.
    Protocol,
}

/// One row of the table.
pub(super) struct Rule {
    at: &'static [Command],
    codes: Codes,
    enhanced: &'static [(u16, u16)],
    /// Only if the text has one of these, in lower case: some servers have one code for several
    /// things.
    words: &'static [&'static str],
    /// Only on a connection that was in the pool before.
    reused: bool,
    classification: Classification,
}

#[derive(Clone, Copy)]
enum Codes {
    Any,
    One(u16),
    /// By the first digit.
    Kind(u16),
}

use Command::{Data, Dot, Mail, Rcpt};

const ANYWHERE: &[Command] = &[];
const LOGIN: &str = "the login (SMTP_USERNAME, SMTP_PASSWORD, SMTP_AUTH)";
const OAUTH: &str = "SMTP_AUTH: the server wants oauth2";
const SENDER: &str = "the sender (FROM_EMAIL)";
const NAME: &str = "the name that usher gives (SMTP_EHLO_NAME)";
const RELAYING: &str =
    "the login, or the address that usher comes from: the server does not relay for it";
const QUOTA: &str = "the account's limit";
const RATE: &str = "the account's rate (SMTP_RATE)";

const fn rule(at: &'static [Command], codes: Codes, classification: Classification) -> Rule {
    Rule { at, codes, enhanced: &[], words: &[], reused: false, classification }
}

impl Rule {
    const fn enhanced(mut self, enhanced: &'static [(u16, u16)]) -> Self {
        self.enhanced = enhanced;
        self
    }

    const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    const fn reused(mut self) -> Self {
        self.reused = true;
        self
    }

    fn matches(&self, command: Command, reply: &Reply, is_reused: bool) -> bool {
        let enhanced = reply.enhanced();
        let code = match self.codes {
            Codes::Any => reply.code >= 400,
            Codes::One(code) => reply.code == code,
            Codes::Kind(kind) => reply.code / 100 == kind,
        };
        let is_enhanced = |Enhanced(_, subject, detail): Enhanced| {
            self.enhanced
                .iter()
                .any(|wanted| wanted.0 == subject && [ANY, detail].contains(&wanted.1))
        };
        code && (self.at.is_empty() || self.at.contains(&command))
            && (is_reused || !self.reused)
            && (self.enhanced.is_empty() || enhanced.is_some_and(is_enhanced))
            && (self.words.is_empty() || {
                let text = reply.text().to_ascii_lowercase();
                self.words.iter().any(|word| text.contains(word))
            })
    }
}

/// Any detail of an enhanced code.
const ANY: u16 = u16::MAX;

use Classification::{Connection, Later, Limit, Never, Policy, Protocol, Server, Us};
use Codes::{Any, Kind, One};

/// First match first.
const RULES: &[Rule] = &[
    // SES, rspamd, Mailtrap: all of our mail is too fast, whatever the code says of this one.
    rule(&[Mail, Rcpt, Data, Dot], Any, Us(RATE)).words(&[
        "throttling failure",
        "sending rate exceeded",
        "too many emails per second",
        "ratelimit \"user\" exceeded",
    ]),
    // The session has come to its end: its time, its number of mails, its login.
    rule(&[Mail, Rcpt, Data], One(421), Connection).reused(),
    rule(&[Mail, Rcpt, Data], One(421), Server),
    rule(&[Mail, Rcpt, Data], One(530), Connection).reused(),
    rule(&[Mail, Data], Kind(4), Connection).reused(),
    // Said while nobody asked, `221 idle timeout` for one, and so taken for a reply.
    rule(&[Mail, Rcpt, Data], Kind(2), Connection).reused(),
    rule(&[Mail, Rcpt, Data], Kind(3), Connection).reused(),
    rule(&[Rcpt], One(452), Connection).enhanced(&[(4, 5), (5, 3)]).reused(),
    rule(&[Mail, Rcpt, Data], One(503), Connection).reused(),
    // It may be a late word about the mail before.
    rule(&[Mail], Kind(5), Connection).reused(),
    // Said of us.
    rule(ANYWHERE, Any, Us(OAUTH)).enhanced(&[(7, 30)]),
    rule(ANYWHERE, One(530), Us(LOGIN)),
    rule(ANYWHERE, One(534), Us(LOGIN)),
    rule(ANYWHERE, One(535), Us(LOGIN)),
    rule(ANYWHERE, One(538), Us(LOGIN)),
    // RFC 4954 section 6 and RFC 3463 3.8; 5.7.57 and 5.7.139 are Exchange's.
    rule(ANYWHERE, Kind(5), Us(LOGIN)).enhanced(&[
        (7, 3),
        (7, 8),
        (7, 9),
        (7, 10),
        (7, 11),
        (7, 12),
        (7, 13),
        (7, 14),
        (7, 57),
        (7, 139),
    ]),
    rule(ANYWHERE, Any, Us(SENDER)).enhanced(&[(1, 7), (1, 8)]),
    // Exchange: SendAsDenied, at submission and at a connector.
    rule(ANYWHERE, Kind(5), Us(SENDER)).enhanced(&[(2, 252), (7, 60)]),
    // Postfix has 504 5.5.2 for three names, and says whose it means.
    rule(&[Rcpt], One(504), Never).words(&["recipient address rejected"]),
    rule(&[Rcpt], One(504), Us(SENDER)).words(&["sender address rejected"]),
    rule(&[Rcpt], One(504), Us(NAME)),
    // Postfix: reject_sender_login_mismatch.
    rule(&[Rcpt], Kind(5), Us(SENDER)).words(&["not owned by user", "sender address rejected"]),
    // qmail's and sendmail's word for a domain that they do not relay for.
    rule(&[Rcpt], One(553), Us(RELAYING)).enhanced(&[(7, ANY)]),
    rule(&[Rcpt, Data, Dot], Kind(5), Us(RELAYING)).words(&[
        "relay access denied",
        "relaying denied",
        "unable to relay",
        "relay not permitted",
    ]),
    rule(&[Rcpt], Kind(5), Us(NAME)).words(&["helo command rejected", "invalid helo", "bad helo"]),
    // Gmail's and Exchange's daily limits.
    rule(&[Mail, Rcpt, Data, Dot], Kind(5), Us(QUOTA)).enhanced(&[
        (4, 5),
        (1, 90),
        (7, 232),
        (7, 233),
    ]),
    // MAIL has but the sender, and what the mail itself needs: its size, SMTPUTF8.
    rule(&[Mail], One(552), Limit),
    rule(&[Mail, Rcpt, Data], Kind(5), Limit).enhanced(&[(3, 4)]),
    // RFC 6531: addresses and headers beyond ASCII.
    rule(&[Rcpt, Data], Kind(5), Limit).enhanced(&[(6, 7), (6, 9)]),
    rule(&[Mail], One(501), Policy),
    rule(&[Mail], One(555), Policy),
    rule(&[Mail], Kind(5), Us(SENDER)),
    rule(&[Rcpt, Data], One(503), Protocol),
    rule(&[Rcpt, Data, Dot], Kind(5), Policy).enhanced(&[(7, ANY)]),
    rule(ANYWHERE, Kind(5), Never),
    rule(ANYWHERE, Kind(4), Later),
];

/// Whom a reply that is not the expected one is about. `is_reused`: the connection was in the pool
/// before.
pub(super) fn classify(command: Command, reply: &Reply, is_reused: bool) -> Classification {
    let rule = RULES.iter().find(|rule| rule.matches(command, reply, is_reused));
    rule.map_or(Protocol, |rule| rule.classification)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply for each rule, in their order.
    const EXAMPLES: &[(Command, &str, bool)] = &[
        (Dot, "454 Throttling failure: Maximum sending rate exceeded.", false),
        (Mail, "421 4.4.2 mx.test Error: timeout exceeded", true),
        (Rcpt, "421 4.3.2 shutting down", false),
        (Mail, "530 5.7.0 Authentication required", true),
        (Mail, "452 4.4.5 Too many messages in this session", true),
        (Mail, "221 2.0.0 idle timeout", true),
        (Rcpt, "354 go on", true),
        (Rcpt, "452 4.5.3 Too many recipients received this session", true),
        (Mail, "503 5.5.1 Error: nested MAIL command", true),
        (Mail, "554 5.7.1 that was no good mail", true),
        (Command::Auth, "550 5.7.30 Basic authentication is not supported", false),
        (Rcpt, "530 5.7.0 Must issue a STARTTLS command first", false),
        (Command::Auth, "534 5.7.9 Application-specific password required", false),
        (Command::Auth, "535 5.7.3 Authentication unsuccessful", false),
        (Command::Auth, "538 5.7.11 Encryption required", false),
        (Dot, "550 5.7.57 Client not authenticated to send mail", false),
        (Mail, "501 5.1.7 Invalid address", false),
        (Dot, "554 5.2.252 SendAsDenied; user@example.com not allowed to send as", false),
        (Rcpt, "504 5.5.2 <ana>: Recipient address rejected: need fully-qualified address", false),
        (Rcpt, "504 5.5.2 <noreply>: Sender address rejected: need fully-qualified address", false),
        (Rcpt, "504 5.5.2 <host>: Helo command rejected: need fully-qualified hostname", false),
        (Rcpt, "553 5.7.1 <noreply@x.test>: Sender address rejected: not owned by user ana", false),
        (Rcpt, "553 5.7.1 that domain isn't in my list of allowed rcpthosts", false),
        (Rcpt, "554 5.7.1 <ana@example.com>: Relay access denied", false),
        (Rcpt, "550 5.7.1 <host>: Helo command rejected: Host not found", false),
        (Dot, "550 5.4.5 Daily user sending limit exceeded", false),
        (Mail, "552 5.3.4 Message size exceeds fixed limit", false),
        (Mail, "550 5.3.4 Message too big for system", false),
        (Rcpt, "553 5.6.7 non-ASCII addresses not permitted", false),
        (Mail, "501 Syntax error", false),
        (Mail, "555 5.5.4 Unsupported option: SIZE=1000", false),
        (Mail, "550 no", false),
        (Data, "503 5.5.1 Bad sequence of commands", false),
        (Dot, "554 5.7.1 Spam message rejected", false),
        (Rcpt, "550 5.1.1 no such user", false),
        (Rcpt, "450 4.2.0 greylisted", false),
    ];

    fn reply(line: &str) -> Reply {
        let (code, text) = line.split_at(3);
        Reply { code: code.parse().unwrap_or_default(), lines: vec![text.trim().to_owned()] }
    }

    #[test]
    fn each_rule_has_a_reply_that_it_is_the_first_to_match() {
        assert_eq!(EXAMPLES.len(), RULES.len());
        for (index, (command, line, is_reused)) in EXAMPLES.iter().enumerate() {
            let is_match = |rule: &Rule| rule.matches(*command, &reply(line), *is_reused);
            assert_eq!(RULES.iter().position(is_match), Some(index), "{command} {line}");
        }
    }

    #[test]
    fn a_few_replies_mean_what_they_should() {
        let on_new = |command, line| classify(command, &reply(line), false);
        let reused = |command, line| classify(command, &reply(line), true);
        assert_eq!(on_new(Rcpt, "530 5.7.0 x"), Us(LOGIN));
        assert_eq!(on_new(Rcpt, "550 5.1.8 x"), Us(SENDER));
        assert_eq!(on_new(Rcpt, "553 5.7.1 not owned by user"), Us(SENDER));
        assert_eq!(on_new(Rcpt, "504 5.5.2 need fully-qualified hostname"), Us(NAME));
        assert_eq!(on_new(Mail, "501 5.1.7 x"), Us(SENDER));
        assert_eq!(on_new(Mail, "550 5.7.1 x"), Us(SENDER));
        assert_eq!(on_new(Dot, "554 5.2.252 SendAsDenied"), Us(SENDER));
        assert_eq!(on_new(Rcpt, "554 5.7.1 not wanted"), Policy);
        assert_eq!(on_new(Rcpt, "571 blocked"), Never);
        assert_eq!(on_new(Mail, "451 4.3.0 x"), Later);
        assert_eq!(on_new(Mail, "552 x"), Limit);
        assert_eq!(on_new(Dot, "421 4.3.2 x"), Later);
        assert_eq!(on_new(Data, "421 4.3.2 x"), Server);
        assert_eq!(reused(Data, "451 4.3.0 x"), Connection);
        assert_eq!(reused(Rcpt, "451 4.3.0 x"), Later);
        assert_eq!(reused(Dot, "452 4.2.2 mailbox full"), Later);
        assert_eq!(on_new(Rcpt, "354 go on"), Protocol);
        assert_eq!(on_new(Mail, "250 ok"), Protocol);
        assert_eq!(on_new(Data, "550 5.7.0 too many emails per second"), Us(RATE));
        assert_eq!(on_new(Rcpt, "451 4.7.1 Ratelimit \"user\" exceeded"), Us(RATE));
        assert_eq!(on_new(Rcpt, "451 4.7.1 Ratelimit \"to\" exceeded"), Later, "the recipient's");
    }

    /// A rule as the table of the documentation has it.
    fn row(rule: &Rule) -> String {
        let at = match rule.at {
            [] => "any command".to_owned(),
            some => some.iter().map(|command| format!("`{command}`")).collect::<Vec<_>>().join(" "),
        };
        let mut said = match rule.codes {
            Any => "4xx, 5xx".to_owned(),
            One(code) => code.to_string(),
            Kind(kind) => format!("{kind}xx"),
        };
        if !rule.enhanced.is_empty() {
            let codes = rule.enhanced.iter().map(|(subject, detail)| match *detail {
                ANY => format!("x.{subject}.x"),
                detail => format!("x.{subject}.{detail}"),
            });
            said = format!("{said} with {}", codes.collect::<Vec<_>>().join(", "));
        }
        if !rule.words.is_empty() {
            said = format!("{said} that says `{}`", rule.words.join("`, `"));
        }
        if rule.reused {
            said.push_str(", on a connection that was used before");
        }
        let meaning = match rule.classification {
            Later => "tried again by `RETRY_SCHEDULE`".to_owned(),
            Never => "`usher.dead`".to_owned(),
            Limit => "another relay; without one `usher.dead`".to_owned(),
            Policy => "`usher.dead`; if it hits everybody, all wait".to_owned(),
            Us(setting) => format!("all wait; look at {setting}"),
            Server => "all wait for the server".to_owned(),
            Connection => "another connection, at once; no attempt is counted".to_owned(),
            Protocol => {
                "no reply to the command: another connection, by `RETRY_SCHEDULE`".to_owned()
            }
        };
        format!("| {at} | {said} | {meaning} |\n")
    }

    #[test]
    fn the_documentation_has_this_table() {
        let table: String = RULES.iter().map(row).collect();
        let page = include_str!("../../../../docs/deliveries.md");
        assert!(page.contains(&table), "docs/deliveries.md lacks\n{table}");
    }
}
