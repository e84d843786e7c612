//! The script: what happens at which phase, for which recipient and how often.

use std::time::Duration;

use super::{SmtpServer, State};

/// A point of an SMTP session at which the script may step in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// The connection is open, the banner not sent.
    Banner,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    /// The first line of the mail has come, the dot has not.
    Body,
    /// The mail is complete and nothing is answered yet.
    Dot,
}

/// What happens instead of the usual reply.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// This line is the reply.
    Reply(String),
    /// The usual reply, delayed.
    Delay(Duration),
    /// The usual reply, once the test releases it.
    Hold,
    /// The connection ends without a reply.
    Cut,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    phase: Phase,
    recipient: Option<String>,
    /// How often it still applies; `None` means always.
    left: Option<u32>,
    act: Act,
}

impl State {
    /// The first matching rule; counts its use.
    pub(super) fn act(&mut self, phase: Phase, recipient: &str) -> Option<Act> {
        let rule = self.rules.iter_mut().find(|rule| {
            let is_for = rule.recipient.as_deref().is_none_or(|wanted| wanted == recipient);
            rule.phase == phase && is_for && rule.left != Some(0)
        })?;
        rule.left = rule.left.map(|left| left - 1);
        Some(rule.act.clone())
    }
}

/// A rule being built.
pub(crate) struct RuleBuilder<'s> {
    server: &'s SmtpServer,
    phase: Phase,
    recipient: Option<String>,
    left: Option<u32>,
}

impl<'s> RuleBuilder<'s> {
    pub(super) fn new(server: &'s SmtpServer, phase: Phase) -> Self {
        Self { server, phase, recipient: None, left: None }
    }

    /// Only for mail to this address; from RCPT on.
    pub(crate) fn to(mut self, recipient: &str) -> Self {
        self.recipient = Some(recipient.to_owned());
        self
    }

    /// Only this often; else always.
    pub(crate) fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    pub(crate) fn once(self) -> Self {
        self.times(1)
    }

    /// Replies with this line; 421 also ends the connection, as RFC 5321 3.8 says.
    pub(crate) fn reply(self, line: &str) {
        self.act(Act::Reply(line.to_owned()));
    }

    /// Waits before the usual reply.
    pub(crate) fn delay(self, by: Duration) {
        self.act(Act::Delay(by));
    }

    /// Waits for [`SmtpServer::relent`] before the usual reply.
    pub(crate) fn hold(self) {
        self.act(Act::Hold);
    }

    /// Ends the connection without a reply.
    pub(crate) fn cut(self) {
        self.act(Act::Cut);
    }

    fn act(self, act: Act) {
        let Self { server, phase, recipient, left } = self;
        server.add(Rule { phase, recipient, left, act });
    }
}
