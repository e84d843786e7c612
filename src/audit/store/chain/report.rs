//! What a verification found.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    PublicKeys,
    actions::ACTION_LOG,
    note::{Checkpoint, End, Kind},
};

/// Findings that are listed for each log.
const MAX_FINDINGS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A record is not what it was.
    Altered,
    /// Numbers have neither record nor void.
    Missing,
    /// The same, and by `purge_at` MongoDB may have deleted them.
    Purged,
    /// Several records have the same number.
    Forked,
    /// The log had ended before.
    AfterClose,
    /// No signed checkpoint opened the log.
    Unopened,
    /// A checkpoint is not signed by a known key.
    Unsigned,
}

impl FindingKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Missing => "missing",
            Self::Purged => "purged",
            Self::Forked => "forked",
            Self::AfterClose => "after_close",
            Self::Unopened => "unopened",
            Self::Unsigned => "unsigned",
        }
    }

    pub fn is_fault(self) -> bool {
        self != Self::Purged
    }
}

/// What was found at some numbers of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub from: u64,
    pub to: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// The record's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub struct LogReport {
    pub log: String,
    pub records: u64,
    pub voids: u64,
    /// Records of which something was erased.
    pub erased: u64,
    /// The last number.
    pub last: u64,
    /// Numbers of the last batch that have no record yet.
    pub unsettled: u64,
    /// The last number that a checkpoint states.
    pub covered_to: u64,
    pub covered_at: Option<Timestamp>,
    pub is_closed: bool,
    pub findings: Vec<Finding>,
    /// Findings that are not listed.
    pub more_findings: u64,
}

impl LogReport {
    pub fn is_whole(&self) -> bool {
        !self.findings.iter().any(|finding| finding.kind.is_fault()) && self.more_findings == 0
    }

    pub(super) fn find(&mut self, finding: Finding) {
        if let Some(last) = self.findings.last_mut()
            && (last.kind, last.reason) == (finding.kind, finding.reason)
            && last.to + 1 == finding.from
            && finding.record.is_none()
        {
            last.to = finding.to;
        } else if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// Records or actions that are in no chain.
#[derive(Debug, Default, Serialize)]
pub struct NotCovered {
    /// Before the first log for them was opened, or before `since`.
    pub before: u64,
    pub later: u64,
    /// Ids of the first of the later ones.
    pub ids: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub logs: Vec<LogReport>,
    pub not_covered: NotCovered,
    pub actions_not_covered: NotCovered,
    /// When everything has to be covered.
    pub since: Option<Timestamp>,
}

impl Report {
    pub fn is_whole(&self) -> bool {
        let uncovered = self.not_covered.later + self.actions_not_covered.later;
        let is_covered = self.since.is_none() || uncovered == 0;
        is_covered && self.logs.iter().all(LogReport::is_whole)
    }
}

/// Checkpoints that have left the house.
#[derive(Debug, Default)]
pub struct Notes {
    pub(super) by_log: BTreeMap<String, Vec<Checkpoint>>,
}

impl Notes {
    /// Adds a signed note; whether it is one.
    pub fn add(&mut self, note: &str, keys: &PublicKeys) -> bool {
        let Some(checkpoint) = Checkpoint::read(note, keys) else { return false };
        for end in &checkpoint.after {
            self.by_log.entry(end.log.clone()).or_default().push(named(end, checkpoint.at));
        }
        self.by_log.entry(checkpoint.end.log.clone()).or_default().push(checkpoint);
        true
    }

    /// When the log of actions was opened.
    pub(super) fn actions_opened(&self) -> Option<Timestamp> {
        let checkpoints = self.by_log.get(ACTION_LOG).into_iter().flatten();
        checkpoints.filter(|it| it.kind == Kind::Open).map(|it| it.at).min()
    }
}

/// What another log says about the end of this one.
pub(super) fn named(end: &End, at: Timestamp) -> Checkpoint {
    Checkpoint { end: end.clone(), root: None, at, kind: Kind::Interval, after: Vec::new() }
}
