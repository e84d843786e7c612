//! Refusals by policy: of one recipient or one mail, or of all that we send.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    classify::Command,
    reply::{Enhanced, Reply},
};

/// So many recipients refused alike, and none accepted in between, are everybody.
const EVERYBODY: usize = 3;

/// Recipients that were refused alike, one after the other.
#[derive(Default)]
pub(super) struct PolicyRefusals(Mutex<Option<Row>>);

struct Row {
    command: Command,
    enhanced: Option<Enhanced>,
    recipients: HashSet<String>,
}

impl PolicyRefusals {
    /// Whether everybody is refused like this recipient.
    pub(super) fn hit_everybody(&self, command: Command, reply: &Reply, recipient: &str) -> bool {
        let enhanced = reply.enhanced();
        let mut row = self.row();
        let row = match row.as_mut() {
            Some(row) if (row.command, row.enhanced) == (command, enhanced) => row,
            _ => row.insert(Row { command, enhanced, recipients: HashSet::new() }),
        };
        if row.recipients.len() < EVERYBODY {
            row.recipients.insert(recipient.to_lowercase());
        }
        row.recipients.len() >= EVERYBODY
    }

    /// A mail was accepted, so it is not everybody.
    pub(super) fn accepted(&self) {
        *self.row() = None;
    }

    fn row(&self) -> MutexGuard<'_, Option<Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_three_recipients_in_a_row_and_not_one_mail_in_between() {
        let refusals = PolicyRefusals::default();
        let refused = |command, code: &str, to| {
            let reply = Reply { code: 550, lines: vec![format!("{code} no")] };
            refusals.hit_everybody(command, &reply, to)
        };
        assert!(!refused(Command::Rcpt, "5.7.1", "a@x"));
        assert!(!refused(Command::Rcpt, "5.7.1", "b@x"));
        // The same again, in other letters.
        assert!(!refused(Command::Rcpt, "5.7.1", "B@x"));
        assert!(refused(Command::Rcpt, "5.7.1", "c@x"));
        assert!(refused(Command::Rcpt, "5.7.1", "a@x"));
        assert!(!refused(Command::Dot, "5.7.1", "d@x"));
        assert!(!refused(Command::Rcpt, "5.7.1", "a@x"), "another row began");
        assert!(!refused(Command::Rcpt, "5.7.1", "b@x"));
        refusals.accepted();
        assert!(!refused(Command::Rcpt, "5.7.1", "c@x"));
    }
}
