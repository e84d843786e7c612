//! Compares the records with the chain and with what was signed about it. One pass in the order of the numbers,
//! in bounded memory.

use std::future::ready;

use futures_util::{Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::{
    Hash,
    actions::ACTION_LOG,
    genesis,
    note::{Checkpoint, Kind, Void},
    record::ChainedRecord,
    report::{Finding, FindingKind, LogReport},
    tree::Tree,
};

/// Most records of one batch. What the last batch of a log lacks may be under way.
const BATCH: u64 = 500;

/// Verifies one log.
pub(super) struct LogVerifier {
    report: LogReport,
    now: i64,
    next: u64,
    /// The hash of the last number, where it is known.
    head: Option<Hash>,
    /// Whether the last record was found to be altered.
    is_told: bool,
    /// `None` once a hash is unknown.
    tree: Option<Tree>,
    /// By size.
    checkpoints: Vec<Checkpoint>,
    compared: usize,
    /// Every number below was stored or filled.
    settled_below: u64,
    closed_at: Option<u64>,
}

impl LogVerifier {
    /// `newest` is the last number, and the first one of its batch.
    pub(super) fn new(
        log: &str,
        mut checkpoints: Vec<Checkpoint>,
        newest: Option<(u64, u64)>,
        now: Timestamp,
    ) -> Self {
        checkpoints.sort_by_key(|checkpoint| checkpoint.end.size);
        let last = checkpoints.last();
        let stated = last.map_or(0, |last| last.end.size);
        let (seq, batch) = newest.unwrap_or_default();
        // The log of actions never ends.
        let closed = checkpoints.iter().filter(|it| it.kind == Kind::Close && log != ACTION_LOG);
        let closed_at = closed.map(|it| it.end.size).max();
        let mut report = LogReport {
            log: log.to_owned(),
            covered_to: stated,
            covered_at: last.map(|last| last.at),
            is_closed: closed_at.is_some(),
            ..LogReport::default()
        };
        if !checkpoints.iter().any(|it| it.kind == Kind::Open) {
            let reason = "no signed checkpoint opens this log";
            let (from, to) = (1, seq.max(1));
            report.find(Finding { kind: FindingKind::Unopened, from, to, reason, record: None });
        }
        Self {
            report,
            now: now.as_millisecond(),
            next: 1,
            head: Some(genesis(log)),
            is_told: false,
            tree: Some(Tree::default()),
            checkpoints,
            compared: 0,
            settled_below: batch.max(seq.saturating_sub(BATCH)).max(stated + 1),
            closed_at,
        }
    }

    /// Begins at a later number; what was before is not looked at.
    pub(super) fn begin_at(&mut self, seq: u64) {
        (self.next, self.head, self.tree) = (seq, None, None);
        self.compared = self.checkpoints.partition_point(|it| it.end.size < seq);
    }

    pub(super) fn find(
        &mut self,
        kind: FindingKind,
        from: u64,
        to: u64,
        reason: &'static str,
        id: Option<String>,
    ) {
        if kind == FindingKind::Altered {
            // Its root would differ at each later checkpoint.
            self.tree = None;
        }
        self.report.find(Finding { kind, from, to, reason, record: id });
    }

    fn record(&mut self, record: ChainedRecord) {
        let seq = record.link.seq;
        self.report.records += 1;
        self.report.erased += u64::from(record.is_erased);
        if seq < self.next {
            self.find(FindingKind::Forked, seq, seq, "", Some(record.id));
            return;
        }
        if self.closed_at.is_some_and(|last| seq > last) {
            self.find(FindingKind::AfterClose, seq, seq, "", Some(record.id.clone()));
        }
        self.reach(seq, record.link.prev, record.link.prev_purge_at);
        if let Some(fault) = record.fault {
            self.find(FindingKind::Altered, seq, seq, fault, Some(record.id));
        }
        self.is_told = record.fault.is_some();
        self.take(seq, record.hash, true);
    }

    fn void(&mut self, void: &Void) {
        if void.to < self.next {
            // Its record came all the same.
            return;
        }
        self.report.voids += void.to + 1 - void.from.max(self.next);
        if void.from >= self.next {
            self.reach(void.from, void.prev, void.prev_purge_at.as_millisecond());
        }
        self.is_told = false;
        self.take(void.to, void.hash, void.from == void.to);
    }

    /// Goes on to a number, which names the hash and the `purge_at` of the one before.
    fn reach(&mut self, seq: u64, prev: Hash, prev_purge_at: i64) {
        if seq > self.next {
            self.lack(seq - 1, prev_purge_at, false);
            self.head = Some(prev);
            self.compare(seq - 1);
        } else if self.head.is_some_and(|head| head != prev) && !self.is_told {
            let reason = "one names another hash than the one before has";
            let from = seq.saturating_sub(1).max(1);
            self.find(FindingKind::Altered, from, seq, reason, None);
        }
    }

    /// Numbers up to this one are not there.
    fn lack(&mut self, to: u64, purge_at: i64, is_stated: bool) {
        let from = self.next;
        self.tree = None;
        self.is_told = false;
        self.next = to + 1;
        if purge_at <= self.now {
            self.find(FindingKind::Purged, from, to, "", None);
            return;
        }
        let unsettled_from = match is_stated || self.closed_at.is_some() {
            true => to + 1,
            false => self.settled_below.clamp(from, to + 1),
        };
        self.report.unsettled += to + 1 - unsettled_from;
        if from < unsettled_from {
            self.find(FindingKind::Missing, from, unsettled_from - 1, "", None);
        }
    }

    fn take(&mut self, seq: u64, hash: Hash, is_next_leaf: bool) {
        (self.next, self.head) = (seq + 1, Some(hash));
        self.report.last = seq;
        match &mut self.tree {
            Some(tree) if is_next_leaf => tree.push(&hash),
            tree => *tree = None,
        }
        self.compare(seq);
    }

    /// Compares with what checkpoints say about this number.
    fn compare(&mut self, seq: u64) {
        while let Some(checkpoint) = self.checkpoints.get(self.compared)
            && checkpoint.end.size <= seq
        {
            self.compared += 1;
            if checkpoint.end.size < seq {
                continue;
            }
            let root = self.tree.as_ref().map(Tree::root);
            let is_other_root = checkpoint.root.zip(root).is_some_and(|(one, other)| one != other);
            if self.head.is_some_and(|head| head != checkpoint.end.head) || is_other_root {
                let reason = "a checkpoint has another hash";
                self.find(FindingKind::Altered, seq, seq, reason, None);
            }
        }
    }

    pub(super) fn finish(mut self) -> LogReport {
        while let Some(checkpoint) = self.checkpoints.get(self.compared) {
            let (size, purge_at) = (checkpoint.end.size, checkpoint.end.purge_at.as_millisecond());
            self.compared += 1;
            if size >= self.next {
                self.lack(size, purge_at, true);
                self.report.last = size;
            }
        }
        self.report
    }
}

/// Records and voids in the order of their numbers; of both, the record counts.
pub(super) async fn walk<E>(
    verifier: &mut LogVerifier,
    records: impl Stream<Item = Result<Result<ChainedRecord, u64>, E>>,
    voids: impl Stream<Item = Result<Option<Void>, E>>,
    progress: &(dyn Fn() + Sync),
) -> Result<(), E> {
    let mut records = std::pin::pin!(records);
    let mut voids = std::pin::pin!(voids.try_filter_map(|void| ready(Ok(void))).peekable());
    loop {
        let record = records.next().await.transpose()?;
        let before = match &record {
            Some(Ok(record)) => record.link.seq,
            Some(Err(seq)) => *seq,
            None => u64::MAX,
        };
        while let Some(Ok(void)) =
            voids.as_mut().next_if(|void| void.as_ref().is_ok_and(|void| void.from < before)).await
        {
            verifier.void(&void);
        }
        if let Some(Err(_)) = voids.as_mut().peek().await {
            // Taken only to be returned.
            voids.next().await.transpose()?;
        }
        match record {
            Some(Ok(record)) => verifier.record(record),
            Some(Err(seq)) => {
                let reason = "it can't be read";
                verifier.find(FindingKind::Altered, seq, seq, reason, None);
            }
            None => return Ok(()),
        }
        progress();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
