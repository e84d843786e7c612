//! Dialogues, and what comes of each: with pipelining and without, in whole replies and byte by byte.
//! After each the next mail has to get the reply that is its own.

mod dialogues;
mod oauth;
mod server;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::sleep;

use self::server::{At, Say, Script, Server};
use super::{SharedRates, SmtpChannel};
use crate::{
    audit::TemplateRef,
    channel::{Channel, Extras, Outcome, Outgoing, SlotRequest, email::Sender},
    config::{self, Environment, Relay},
    embedded::{Database, ledger::EmbeddedLedger},
    health::{Dependency, Health, State},
    metrics::Metrics,
    template::Rendered,
};

/// How long anything may take on a slow machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a server may be silent; a row waits at least so long for nothing.
const SILENCE: &str = "2s";

/// One dialogue.
#[derive(Clone)]
struct Row {
    name: &'static str,
    replies: Vec<(At, Say)>,
    capabilities: Vec<&'static str>,
    settings: Vec<(&'static str, &'static str)>,
    /// A mail goes over the connection before the script begins.
    is_second_mail: bool,
    subject: &'static str,
    recipient: &'static str,
    hears: Vec<&'static str>,
    /// It takes too long byte by byte, or comes to something else then.
    is_whole: bool,
    /// What is recorded: status, kind of error and code; or why usher waits.
    records: &'static str,
}

fn row(name: &'static str, records: &'static str) -> Row {
    Row {
        name,
        records,
        replies: Vec::new(),
        capabilities: vec!["8BITMIME", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN"],
        settings: Vec::new(),
        is_second_mail: false,
        subject: "Hello",
        recipient: "ana@example.com",
        hears: Vec::new(),
        is_whole: false,
    }
}

impl Row {
    fn at(mut self, at: At, bytes: &'static [u8]) -> Self {
        self.replies.push((at, Say::Bytes(bytes)));
        self
    }

    /// Only the first time.
    fn once(self, at: At, bytes: &'static [u8]) -> Self {
        self.at(at, bytes).say(at, Say::Usual)
    }

    fn say(mut self, at: At, say: Say) -> Self {
        self.replies.push((at, say));
        self
    }

    fn offering(mut self, capabilities: &[&'static str]) -> Self {
        self.capabilities = capabilities.to_vec();
        self
    }

    fn set(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    fn login(self) -> Self {
        self.set("SMTP_USERNAME", "ana").set("SMTP_PASSWORD", "pw")
    }

    fn second(mut self) -> Self {
        self.is_second_mail = true;
        self
    }

    fn to(mut self, recipient: &'static str) -> Self {
        self.recipient = recipient;
        self
    }

    fn whole(mut self) -> Self {
        self.is_whole = true;
        self
    }

    fn hears(mut self, line: &'static str) -> Self {
        self.hears.push(line);
        self
    }

    /// Plays it; gives what went wrong.
    async fn play(&self, pipelining: bool, in_pieces: bool) -> Result<(), String> {
        let mut replies = HashMap::<At, Vec<Say>>::new();
        for (at, say) in &self.replies {
            replies.entry(*at).or_default().push(*say);
        }
        let first = if self.is_second_mail { HashMap::new() } else { replies.clone() };
        let capabilities =
            self.capabilities.iter().copied().chain(pipelining.then_some("PIPELINING"));
        let script = Script {
            max_connections: usize::MAX,
            max_mails: usize::MAX,
            capabilities: capabilities.collect(),
            replies: first,
            in_pieces,
        };
        let server = Server::start(script).await;
        let smtp = smtp(server.port, &self.settings);
        let health = Dependency::new("smtp");
        let reply_to = self.settings.iter().find(|(name, _)| *name == "EMAIL_REPLY_TO");
        let sender =
            Sender::new("Cine", "noreply@example.org", reply_to.map(|(_, address)| *address))
                .unwrap();
        let channel = channel(smtp, sender, &health);
        if self.is_second_mail {
            let found = send(&channel, &health, "eva@example.com", "First").await;
            if !found.starts_with("sent 250") {
                return Err(format!("the first mail: {found}"));
            }
            server.play(replies);
            // What the server says now may come before the next command.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let before = server.heard().bodies;
        let found = send(&channel, &health, self.recipient, self.subject).await;
        let bodies = server.heard().bodies - before;
        if !found.starts_with(self.records) {
            return Err(format!("{found:?} instead of {:?}", self.records));
        }
        if bodies > 1 || (found.starts_with("sent") && bodies == 0) {
            return Err(format!("{found:?}, and {bodies} bodies"));
        }
        for line in &self.hears {
            let is_heard = || server.heard().lines.iter().any(|heard| heard == line);
            for _ in 0..1000 {
                if is_heard() {
                    break;
                }
                sleep(Duration::from_millis(2)).await;
            }
            if !is_heard() {
                return Err(format!("the server did not hear {line:?}"));
            }
        }
        // Whatever the server has said so far, the next mail gets the reply that is its own.
        server.play(HashMap::new());
        if self.records.starts_with("waits") {
            return Ok(());
        }
        let number = server.heard().bodies + 1;
        let next = send(&channel, &health, "next@example.com", "Next").await;
        let own = format!("sent 250 2.0.0 Ok: queued as {number}");
        if next != own && !next.starts_with(self.records) {
            return Err(format!("the next mail: {next:?} instead of {own:?}"));
        }
        Ok(())
    }
}

fn channel(relay: Relay, sender: Sender, health: &Dependency) -> SmtpChannel {
    let health = Health { smtp: health.clone(), ..Health::default() };
    let (database, long) = (Database::in_memory().unwrap(), Duration::from_secs(60));
    let ledger = Arc::new(EmbeddedLedger::new(database, "i".to_owned(), long, long));
    let rates = SharedRates { ledger, deployment: "test".to_owned() };
    SmtpChannel::new(&[relay], &[sender], &health, &Metrics::default(), &rates).unwrap()
}

fn smtp(port: u16, changes: &[(&str, &str)]) -> Relay {
    let port = port.to_string();
    let settings = [
        ("SMTP_SERVER", "127.0.0.1"),
        ("SMTP_PORT", &port),
        ("SMTP_TLS", "none"),
        ("FROM_EMAIL", "noreply@example.org"),
        ("SMTP_TIMEOUT", SILENCE),
        ("SMTP_DOT_TIMEOUT", SILENCE),
    ];
    let all: HashMap<&str, &str> = settings.into_iter().chain(changes.iter().copied()).collect();
    let settings = config::load(None, &all.into_iter().collect::<Environment>()).unwrap().0;
    settings.email.backend.relays()[0].clone()
}

/// Sends a mail; gives what would be recorded of it, with the reply, or why usher waits.
async fn send(channel: &SmtpChannel, health: &Dependency, to: &str, subject: &str) -> String {
    let template = TemplateRef { name: "t".into(), locale: "en".into(), version: "1".into() };
    let outgoing = Outgoing {
        recipient: to.to_owned(),
        message_id: "<0123@example.org>".into(),
        date: None,
        rendered: Rendered {
            subject: subject.into(),
            html: "<p>Hello</p>\r\n.\r\n".into(),
            text: "Hello\r\n.\r\n.dot".into(),
            template,
            brand: None,
            time_zone: None,
            instead_of: None,
        },
        extras: Extras::default(),
    };
    // As the delivery line does: what is withheld starts over.
    for _ in 0..5 {
        let was_up = !matches!(health.state(), State::Down(_));
        let slot = tokio::select! {
            slot = channel.ready(SlotRequest::default()) => slot,
            reason = until_down(health), if was_up => return format!("waits: {reason}"),
            () = sleep(DEADLINE) => panic!("{subject}: neither ready nor down"),
        };
        let attempted = slot.send(&outgoing, Box::pin(std::future::ready(true))).await;
        let outcome = attempted.outcome;
        let reply = outcome.reply().map(|reply| format!(" {} {}", reply.code, reply.reply));
        let (word, reason) = match &outcome {
            Outcome::Withheld | Outcome::Elsewhere => continue,
            Outcome::Sent(_) => ("sent", ""),
            Outcome::Refused { permanent: true, .. } => ("refused", ""),
            Outcome::Refused { .. } => ("deferred", ""),
            // No attempt is counted.
            Outcome::Unavailable(reason, _) => ("unavailable uncounted", reason.as_str()),
            Outcome::Interrupted(reason, _) => ("interrupted", reason.as_str()),
            Outcome::Unknown(reason, _) => ("unknown", reason.as_str()),
            Outcome::Unreachable(reason) => ("unreachable_recipient", reason.as_str()),
            Outcome::Impossible(reason) => ("invalid_message", reason.as_str()),
            Outcome::Simulated => ("simulated", ""),
        };
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        return format!("{word}{}{reason}", reply.unwrap_or_default());
    }
    "withheld for ever".to_owned()
}

/// 120 mails, twenty at a time; gives how many connections the server saw.
async fn connections_for_120_mails(max_connections: usize, max_mails: usize) -> usize {
    let script = Script {
        max_connections,
        max_mails,
        capabilities: vec!["PIPELINING"],
        replies: HashMap::new(),
        in_pieces: false,
    };
    let server = Server::start(script).await;
    let health = Dependency::new("smtp");
    let sender = Sender::new("Cine", "noreply@example.org", None).unwrap();
    let channel = channel(smtp(server.port, &[]), sender, &health);
    let sent = stream::iter(0..120)
        .map(async |number| send(&channel, &health, &format!("{number}@example.com"), "Many").await)
        .buffer_unordered(20)
        .filter(|found| std::future::ready(found.starts_with("sent 250")));
    assert_eq!(sent.count().await, 120);
    assert_eq!(server.heard().bodies, 120);
    server.heard().connections
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_allows_two_connections_is_not_stormed() {
    // Two work; the other eight are refused once each, and few more for those that were opened meanwhile.
    let connections = connections_for_120_mails(2, usize::MAX).await;
    assert!(connections <= 20, "{connections} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_refused_its_next_mail_is_replaced() {
    let connections = connections_for_120_mails(usize::MAX, 5).await;
    assert!((24..=40).contains(&connections), "{connections} connections");
}

async fn until_down(health: &Dependency) -> String {
    loop {
        if let State::Down(reason) = health.state() {
            return reason;
        }
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_dialogue_is_recorded_as_what_it_was() {
    let rows = dialogues::rows();
    let ways = [(true, false), (false, false), (true, true), (false, true)];
    let mut failed = Vec::new();
    for (pipelining, in_pieces) in ways {
        let played = stream::iter(rows.iter().filter(|row| !in_pieces || !row.is_whole))
            .map(async |row| (row.name, row.play(pipelining, in_pieces).await))
            .buffer_unordered(rows.len())
            .collect::<Vec<_>>();
        for (name, result) in played.await {
            if let Err(reason) = result {
                failed.push(format!(
                    "{name} (pipelining {pipelining}, in pieces {in_pieces}): {reason}"
                ));
            }
        }
    }
    assert!(rows.len() >= 60, "{} dialogues", rows.len());
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}
