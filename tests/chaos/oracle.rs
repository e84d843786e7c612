//! The oracle: compares what was published with the mail server's list, the audit and the
//! queues. It knows usher's promises, not how usher works.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::AddAssign,
};

use mongodb::bson::Document;

use super::batch::{End, Expected, Published};
use crate::support::{broker::Letter, mail::Mail, world::text};

/// Everything that the oracle judges by, once all processes have stopped.
pub(crate) struct Evidence {
    pub(crate) accepted: Vec<Mail>,
    pub(crate) records: Vec<Document>,
    pub(crate) dead: Vec<Letter>,
    pub(crate) poison: Vec<Letter>,
    pub(crate) parked: Vec<Letter>,
    /// Messages in any other queue.
    pub(crate) left: Vec<(String, u32)>,
}

/// What a test allows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Mails of unknown outcome: at most those in the SMTP window at each kill.
    pub(crate) parked: usize,
    /// Second mails by row 22 of docs/reliability.md: ledger lost and owner killed in the window.
    pub(crate) doubles: usize,
}

/// The counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) events: usize,
    pub(crate) deliveries: usize,
    pub(crate) delivered: usize,
    pub(crate) dead: usize,
    pub(crate) poison: usize,
    pub(crate) parked: usize,
    /// Parked ones that the server had accepted, which only the server knows.
    pub(crate) parked_accepted: usize,
    /// Second mails that the route's policy asked for.
    pub(crate) resent: usize,
    /// Second mails by row 22.
    pub(crate) doubles: usize,
    /// Second copies of a letter in dead, poison or parked (rows 10 and 13).
    pub(crate) copies: usize,
    /// Parked letters whose mail turned out to be sent (row 15).
    pub(crate) resolved: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, deliveries, delivered, dead, poison, parked, .. } = self;
        write!(
            f,
            "{events} events, {deliveries} deliveries: {delivered} delivered, {dead} dead, "
        )?;
        write!(
            f,
            "{poison} poison, {parked} parked ({} of them accepted); ",
            self.parked_accepted
        )?;
        write!(f, "{} resent by policy, {} doubles by row 22, ", self.resent, self.doubles)?;
        write!(f, "{} second letters, {} letters resolved", self.copies, self.resolved)
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.delivered += other.delivered;
        self.dead += other.dead;
        self.poison += other.poison;
        self.parked += other.parked;
        self.parked_accepted += other.parked_accepted;
        self.resent += other.resent;
        self.doubles += other.doubles;
        self.copies += other.copies;
        self.resolved += other.resolved;
    }
}

/// The counts, and every broken promise.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) counts: Counts,
    pub(crate) faults: Vec<String>,
}

/// An event's id and a recipient.
type Key = (String, String);

/// What is known of one delivery.
#[derive(Default)]
struct Traces<'e> {
    accepted: usize,
    records: Vec<&'e Document>,
    /// Its messages, by queue.
    letters: BTreeMap<End, usize>,
}

impl Traces<'_> {
    fn records(&self, status: &str) -> usize {
        self.records.iter().filter(|record| text(record, "status") == status).count()
    }

    fn final_records(&self, status: &str) -> usize {
        let is = |record: &&&Document| {
            text(record, "status") == status && text(record, "final") == "true"
        };
        self.records.iter().filter(is).count()
    }

    fn letters(&self, end: End) -> usize {
        self.letters.get(&end).copied().unwrap_or(0)
    }
}

/// Judges.
pub(crate) fn classify(published: &[Published], evidence: &Evidence, limits: Limits) -> Judgement {
    let mut judgement = Judgement::default();
    let mut traces = collect(published, evidence, &mut judgement.faults);
    judgement.counts.events = published.len();
    for event in published {
        for expected in &event.deliveries {
            let key = (event.id.clone(), expected.recipient.clone());
            let traces = traces.remove(&key).unwrap_or_default();
            judgement.delivery(&key, expected, &traces, limits);
        }
    }
    for (event, recipient) in traces.keys() {
        judgement.faults.push(format!("{event} to {recipient:?} was never asked for"));
    }
    for (queue, count) in &evidence.left {
        judgement.faults.push(format!("{count} messages are left in {queue}"));
    }
    let Counts { parked, doubles, .. } = judgement.counts;
    if parked > limits.parked {
        judgement.faults.push(format!("{parked} are parked, {} could be", limits.parked));
    }
    if doubles > limits.doubles {
        judgement.faults.push(format!("{doubles} doubles, {} could be", limits.doubles));
    }
    judgement
}

/// Sorts the evidence by delivery.
fn collect<'e>(
    published: &[Published],
    evidence: &'e Evidence,
    faults: &mut Vec<String>,
) -> BTreeMap<Key, Traces<'e>> {
    let mut traces = BTreeMap::<Key, Traces<'e>>::new();
    // By delivery ids, which are also in the Message-IDs.
    let mut keys = BTreeMap::<String, Key>::new();
    let places = [
        (End::Dead, &evidence.dead),
        (End::Poison, &evidence.poison),
        (End::Parked, &evidence.parked),
    ];
    for (end, letters) in places {
        for letter in letters {
            let mut event = letter.header("usher-event-id").to_owned();
            // An unreadable message has no id but its body.
            if let (true, Some(known)) =
                (event.is_empty(), published.iter().find(|p| p.body.as_bytes() == letter.body))
            {
                event = known.id.clone();
            }
            let key = (event, letter.header("usher-recipient").to_owned());
            keys.insert(letter.header("usher-delivery-id").to_owned(), key.clone());
            *traces.entry(key).or_default().letters.entry(end).or_default() += 1;
        }
    }
    for record in &evidence.records {
        let id = text(record, "delivery_id");
        let key = || (text(record, "event.id"), text(record, "recipient"));
        let key = keys.entry(id).or_insert_with(key).clone();
        traces.entry(key).or_default().records.push(record);
    }
    for mail in &evidence.accepted {
        let message_id = mail.message_id();
        let id = message_id.split('@').next().unwrap_or_default();
        match keys.get(id) {
            Some(key) if key.1 == mail.to => {
                traces.entry(key.clone()).or_default().accepted += 1;
            }
            _ => faults.push(format!("mail {message_id} to {} has no record", mail.to)),
        }
    }
    traces
}

impl Judgement {
    fn delivery(&mut self, key: &Key, expected: &Expected, traces: &Traces<'_>, limits: Limits) {
        let mut faults = Vec::new();
        let sent = traces.records("sent");
        let mut ends = BTreeSet::new();
        if sent > 0 {
            ends.insert(End::Delivered);
        }
        for end in traces.letters.keys() {
            // Row 15: the process that counted as gone came back and knew the reply.
            if *end == End::Parked && sent > 0 {
                self.counts.resolved += traces.letters(End::Parked);
            } else {
                ends.insert(*end);
            }
        }
        for copies in traces.letters.values() {
            self.counts.copies += copies - 1;
        }
        match ends.iter().collect::<Vec<_>>()[..] {
            [end] if expected.ends.contains(end) => self.end(*end, traces, &mut faults),
            [end] => faults.push(format!("ended {end:?}, not one of {:?}", expected.ends)),
            [] => faults.push("is lost: neither sent nor in any queue".to_owned()),
            _ => faults.push(format!("ended in more than one way: {ends:?}")),
        }
        self.doubles(expected, traces, limits, &mut faults);
        self.counts.deliveries += 1;
        let (event, recipient) = key;
        let records: Vec<_> = traces
            .records
            .iter()
            .map(|record| format!("{}/{}", text(record, "attempt"), text(record, "status")))
            .collect();
        self.faults.extend(faults.into_iter().map(|fault| {
            let (accepted, letters) = (traces.accepted, &traces.letters);
            format!("{event} to {recipient:?} {fault} [accepted {accepted}, records {records:?}, letters {letters:?}]")
        }));
    }

    /// Counts the end, and compares audit and server with it.
    fn end(&mut self, end: End, traces: &Traces<'_>, faults: &mut Vec<String>) {
        match end {
            End::Delivered => {
                self.counts.delivered += 1;
                if traces.accepted == 0 {
                    faults.push("has a record `sent` but the server never accepted it".to_owned());
                }
                if traces.final_records("sent") != traces.records("sent") {
                    faults.push("has a record `sent` that is not final".to_owned());
                }
            }
            End::Dead | End::Poison => {
                *if end == End::Dead { &mut self.counts.dead } else { &mut self.counts.poison } +=
                    1;
                if traces.final_records("failed") + traces.final_records("rejected") != 1 {
                    faults.push(format!("is {end:?} and has not one record that says so"));
                }
                if traces.accepted > 0 {
                    faults.push(format!("is {end:?} though the server accepted it"));
                }
            }
            End::Parked => {
                self.counts.parked += 1;
                self.counts.parked_accepted += usize::from(traces.accepted > 0);
                if traces.final_records("unknown") != 1 {
                    faults.push("is parked and has not one record `unknown`".to_owned());
                }
            }
        }
    }

    /// No Message-ID is accepted twice, except by the route's policy or row 22.
    fn doubles(
        &mut self,
        expected: &Expected,
        traces: &Traces<'_>,
        limits: Limits,
        faults: &mut Vec<String>,
    ) {
        let second = traces.accepted.saturating_sub(1);
        if second == 0 {
            if traces.records("sent") > 1 {
                faults.push("was accepted once and has several records `sent`".to_owned());
            }
        } else if expected.resend && traces.records("unknown") >= second {
            self.counts.resent += second;
        } else if limits.doubles > 0 {
            self.counts.doubles += second;
        } else {
            faults.push(format!("was accepted {} times", traces.accepted));
        }
    }
}
