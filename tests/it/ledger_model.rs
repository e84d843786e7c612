//! Every order of events around kills, pauses and failovers of Redis, searched exhaustively with the
//! ledger's own [`step`]: two instances, an event that is published twice and a retry of it.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use usher::ledger::{Claim, Entry, Facts, Input, NextStep, Owner, Reply, step};

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    failovers: u8,
    kills: u8,
    restarts: u8,
    pauses: u8,
    refusals: u8,
}

const NONE: Budget = Budget { failovers: 0, kills: 0, restarts: 0, pauses: 0, refusals: 0 };

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    redis: Arc<Redis>,
    /// What Redis held before each of its writes: a failover brings one of them back.
    past: Vec<Arc<Redis>>,
    server: u8,
    audit: Audit,
    instances: [Instance; 2],
    /// The event, its duplicate, and the retry.
    messages: [Message; 3],
    mails: u8,
    parked: bool,
    /// Somebody may have been killed or paused.
    may_park: bool,
    budget: Budget,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Redis {
    entry: Option<Entry>,
    /// The server that the last renewal found.
    known: u8,
    asks_audit: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Audit {
    sent: bool,
    retrying: bool,
    /// Attempts whose outcome is unknown and final.
    unknown: BTreeSet<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Instance {
    id: u8,
    /// Renamed so often.
    names: u8,
    is_alive: bool,
    is_paused: bool,
    met: u8,
}

impl Instance {
    fn name(&self) -> String {
        format!("i{}.{}", self.id, self.names)
    }

    fn acts(&self) -> bool {
        self.is_alive && !self.is_paused
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Message {
    NotPublished,
    Queued { fresh: bool },
    Held(Task),
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Task {
    instance: usize,
    owner: Owner,
    at: At,
    fence: u64,
    attempt: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    Claim {
        fresh: bool,
        is_silent: bool,
    },
    AskAudit,
    Latch,
    Body,
    /// The mail is out; what is still to be told.
    Sent {
        ledger: bool,
        audit: bool,
    },
    /// Refused or unknown; so many of the steps are done.
    Decide {
        next: NextStep,
        done: u8,
    },
}

impl World {
    fn new(budget: Budget) -> Self {
        let instance = |id| Instance { id, names: 0, is_alive: true, is_paused: false, met: 0 };
        Self {
            redis: Arc::new(Redis { known: 1, ..Redis::default() }),
            past: Vec::new(),
            server: 1,
            audit: Audit::default(),
            instances: [instance(0), instance(1)],
            messages: [
                Message::Queued { fresh: true },
                Message::Queued { fresh: true },
                Message::NotPublished,
            ],
            mails: 0,
            parked: false,
            may_park: budget.kills + budget.pauses > 0,
            budget,
        }
    }

    fn write(&mut self, change: impl FnOnce(&mut Redis)) {
        let mut redis = (*self.redis).clone();
        change(&mut redis);
        if redis != *self.redis {
            if self.budget.failovers > 0 {
                self.past.push(self.redis.clone());
            }
            self.redis = Arc::new(redis);
        }
    }

    /// Whether no living process renews this name.
    fn is_gone(&self, name: &str) -> bool {
        let holds = |message: &Message| {
            matches!(message, Message::Held(task)
                if task.owner.instance == name && self.instances[task.instance].acts())
        };
        !self.instances.iter().any(|one| one.acts() && one.name() == name)
            && !self.messages.iter().any(holds)
    }

    fn apply(&mut self, input: &Input) -> Reply {
        let redis = self.redis.clone();
        let owner = redis.entry.as_ref().map_or("", |entry| &entry.owner.instance);
        let facts = Facts {
            owner_gone: self.is_gone(owner),
            epoch_intact: !redis.asks_audit && redis.known == self.server,
        };
        let (entry, reply) = step(redis.entry.clone(), input, facts);
        self.write(|redis| redis.entry = entry);
        reply
    }

    /// What may happen next.
    fn successors(&self) -> Vec<(String, World)> {
        let mut all = Vec::new();
        for slot in 0..self.messages.len() {
            self.message_acts(slot, &mut all);
        }
        for number in 0..self.instances.len() {
            self.instance_acts(number, &mut all);
        }
        self.fail_over(&mut all);
        all.retain(|(_, next)| next != self);
        all
    }

    fn message_acts(&self, slot: usize, all: &mut Vec<(String, World)>) {
        match &self.messages[slot] {
            Message::NotPublished | Message::Gone => {}
            // The event and its duplicate are alike, so the order is given.
            Message::Queued { fresh: true }
                if slot == 1 && self.messages[0] == Message::Queued { fresh: true } => {}
            Message::Queued { fresh } => {
                for (number, instance) in self.instances.iter().enumerate() {
                    if instance.acts() && instance.met > 0 {
                        let token = (slot + 1) as u64;
                        let task = Task {
                            instance: number,
                            owner: Owner { instance: instance.name(), token },
                            at: At::Claim { fresh: *fresh, is_silent: false },
                            fence: 0,
                            attempt: if slot == 2 { 2 } else { 1 },
                        };
                        let mut next = self.clone();
                        next.messages[slot] = Message::Held(task);
                        all.push((format!("{number} takes message {slot}"), next));
                    }
                }
            }
            Message::Held(task) if self.instances[task.instance].acts() => {
                self.task_acts(slot, task, all);
            }
            Message::Held(_) => {}
        }
    }

    fn task_acts(&self, slot: usize, task: &Task, all: &mut Vec<(String, World)>) {
        let mut push = |what: &str, mut next: World, task: Option<Task>| {
            next.messages[slot] = task.map_or(Message::Gone, Message::Held);
            all.push((format!("message {slot} at {}: {what}", task_instance(self, slot)), next));
        };
        let owner = task.owner.clone();
        let mut next = self.clone();
        let mut then = task.clone();
        match &task.at {
            At::Claim { fresh, is_silent } => {
                let claim = Input::Claim(Claim {
                    owner,
                    event: "e".to_owned(),
                    attempt: task.attempt,
                    fresh: *fresh,
                    audit_is_silent: *is_silent,
                    derived: false,
                    alone: true,
                });
                let reply = next.apply(&claim);
                match &reply {
                    Reply::Granted { fence, .. } => (then.fence, then.at) = (*fence, At::Latch),
                    Reply::Unresolved { fence, .. } => {
                        then.fence = *fence;
                        then.at = At::Decide { next: NextStep::Park, done: 0 };
                    }
                    Reply::AskAudit => then.at = At::AskAudit,
                    Reply::Done { record } => {
                        if record.as_deref() == Some("sent") {
                            next.audit.sent = true;
                        }
                        return push("is done already", next, None);
                    }
                    Reply::Republish { next: NextStep::Retry(_), attempt, .. } => {
                        next.audit.retrying = true;
                        next.publish_retry();
                        let mark =
                            Input::Republished { attempt: *attempt, next: NextStep::Retry(2) };
                        next.apply(&mark);
                        return push("publishes the retry again", next, None);
                    }
                    Reply::Republish { attempt, .. } => {
                        next.audit.unknown.insert(*attempt);
                        next.parked = true;
                        let mark = Input::Republished { attempt: *attempt, next: NextStep::Park };
                        next.apply(&mark);
                        return push("parks it again", next, None);
                    }
                    _ => then = self.taken_again(task),
                }
                push(&format!("claims: {reply:?}"), next, Some(then));
            }
            At::AskAudit => {
                let audit = &self.audit;
                if audit.sent || audit.unknown.iter().any(|known| *known >= task.attempt) {
                    if audit.sent {
                        let sent = sent(task.attempt);
                        next.apply(&sent);
                    }
                    return push("finds it in the audit", next, None);
                }
                then.at = At::Claim { fresh: false, is_silent: true };
                push("hears nothing from the audit", next, Some(then));
            }
            At::Latch => {
                if let Some((next, task)) = self.refused(task) {
                    push("is refused", next, Some(task));
                }
                let latch = Input::Latch { owner, fence: task.fence, relay: None };
                let reply = next.apply(&latch);
                match reply {
                    Reply::Granted { .. } => then.at = At::Body,
                    _ => then.at = At::Claim { fresh: false, is_silent: false },
                }
                push(&format!("latches: {reply:?}"), next, Some(then));
            }
            At::Body => {
                if let Some((next, task)) = self.refused(task) {
                    push("is refused after the latch", next, Some(task));
                }
                next.mails += 1;
                then.at = At::Sent { ledger: false, audit: false };
                push("the mail is out", next, Some(then));
            }
            At::Sent { ledger, audit } => {
                let over = |ledger, audit| {
                    (!(ledger && audit))
                        .then(|| Task { at: At::Sent { ledger, audit }, ..task.clone() })
                };
                if !ledger {
                    let mut next = self.clone();
                    next.apply(&sent(task.attempt));
                    push("tells the ledger", next, over(true, *audit));
                }
                if !audit {
                    next.audit.sent = true;
                    push("tells the audit", next, over(*ledger, true));
                }
            }
            At::Decide { next: decision, done } => {
                let decision = *decision;
                then.at = At::Decide { next: decision, done: done + 1 };
                let record = "other".to_owned();
                let fence = task.fence;
                match done {
                    0 => {
                        let decide = Input::Decide { owner, fence, next: decision, record };
                        let reply = next.apply(&decide);
                        if reply == Reply::Lost {
                            return push("has lost it", next, Some(self.taken_again(task)));
                        }
                        push("decides", next, Some(then));
                    }
                    1 => {
                        if decision == NextStep::Park {
                            next.audit.unknown.insert(task.attempt);
                        } else {
                            next.audit.retrying = true;
                        }
                        push("records it", next, Some(then));
                    }
                    2 => {
                        if decision == NextStep::Park {
                            next.parked = true;
                        } else {
                            next.publish_retry();
                        }
                        push("republishes", next, Some(then));
                    }
                    _ => {
                        let attempt = task.attempt;
                        let mark = Input::Republished { attempt, next: decision };
                        next.apply(&mark);
                        push("marks it", next, None);
                    }
                }
            }
        }
    }

    fn refused(&self, task: &Task) -> Option<(World, Task)> {
        if self.budget.refusals == 0 || task.attempt > 1 {
            return None;
        }
        let mut next = self.clone();
        next.budget.refusals -= 1;
        let at = At::Decide { next: NextStep::Retry(2), done: 0 };
        Some((next, Task { at, ..task.clone() }))
    }

    /// It is put off, and its instance takes it again.
    fn taken_again(&self, task: &Task) -> Task {
        let had_it = u64::from(task.fence > 0);
        let instance = self.instances[task.instance].name();
        let token = task.owner.token + 10 * had_it;
        Task {
            owner: Owner { instance, token },
            at: At::Claim { fresh: false, is_silent: false },
            fence: 0,
            ..task.clone()
        }
    }

    fn publish_retry(&mut self) {
        if self.messages[2] == Message::NotPublished {
            self.messages[2] = Message::Queued { fresh: false };
        }
    }

    fn instance_acts(&self, number: usize, all: &mut Vec<(String, World)>) {
        let instance = &self.instances[number];
        if !instance.is_alive {
            if self.budget.restarts > 0 {
                let mut next = self.clone();
                next.budget.restarts -= 1;
                let new = &mut next.instances[number];
                *new = Instance {
                    id: instance.id + 2,
                    names: 0,
                    is_alive: true,
                    is_paused: false,
                    met: 0,
                };
                all.push((format!("{number} starts again"), next));
            }
            return;
        }
        if self.budget.kills > 0 && instance.met > 0 {
            let mut next = self.clone();
            next.budget.kills -= 1;
            next.instances[number].is_alive = false;
            next.instances[number].is_paused = false;
            for message in &mut next.messages {
                let Message::Held(task) = message else { continue };
                if task.instance == number {
                    *message = Message::Queued { fresh: false };
                }
            }
            all.push((format!("{number} is killed"), next));
        }
        if instance.is_paused {
            let mut next = self.clone();
            next.instances[number].is_paused = false;
            all.push((format!("{number} resumes"), next));
            return;
        }
        if self.budget.pauses > 0 && instance.met > 0 {
            let mut next = self.clone();
            next.budget.pauses -= 1;
            next.instances[number].is_paused = true;
            all.push((format!("{number} pauses"), next));
        }
        if number == 1 && self.instances[0].met == 0 {
            // The instances are alike as well.
        } else if instance.met != self.server || self.redis.known != self.server {
            all.push((format!("{number} renews its lease"), self.renewed(number)));
        }
    }

    /// An instance finds that this is another server: the audit is asked, and it takes a new name.
    fn renewed(&self, number: usize) -> World {
        let mut next = self.clone();
        let server = self.server;
        next.write(|redis| {
            redis.asks_audit |= redis.known != server;
            redis.known = server;
        });
        let instance = &mut next.instances[number];
        if instance.met != 0 && instance.met != server {
            instance.names += 1;
        }
        instance.met = server;
        next
    }

    fn fail_over(&self, all: &mut Vec<(String, World)>) {
        if self.budget.failovers == 0 {
            return;
        }
        for lost in 0..=self.past.len() {
            let mut next = self.clone();
            next.budget.failovers -= 1;
            next.server += 1;
            next.past.truncate(self.past.len() - lost);
            if lost > 0 {
                next.redis = self.past[self.past.len() - lost].clone();
            }
            if next.budget.failovers == 0 {
                next.past.clear();
            }
            all.push((format!("a failover loses {lost} writes"), next));
        }
    }

    fn is_over(&self) -> bool {
        self.messages.iter().all(|one| matches!(one, Message::Gone | Message::NotPublished))
    }

    /// What is wrong in this state, where nothing more can happen if it is the last.
    fn fault(&self, is_last: bool) -> Option<&'static str> {
        if self.mails > 1 {
            return Some("a second mail");
        }
        if self.parked && !self.may_park {
            return Some("parked although its owner knows the outcome");
        }
        if self.is_over() {
            if self.mails == 0 && !self.parked {
                return Some("no mail");
            }
            if self.mails == 1 && !self.audit.sent && !self.parked {
                return Some("no record");
            }
        } else if is_last {
            return Some("stuck");
        }
        None
    }
}

fn task_instance(world: &World, slot: usize) -> usize {
    match &world.messages[slot] {
        Message::Held(task) => task.instance,
        _ => usize::MAX,
    }
}

fn sent(attempt: u32) -> Input {
    Input::Sent { event: "e".to_owned(), attempt, record: "sent".to_owned(), derived: false }
}

/// The number of states, or the first fault with how it comes about.
fn search(budget: Budget) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let start = World::new(budget);
    seen.insert(fingerprint(&start));
    // Each with what led to it.
    let mut path: Vec<(String, std::vec::IntoIter<(String, World)>)> = Vec::new();
    let successors = start.successors();
    path.push(("start".to_owned(), successors.into_iter()));
    while let Some((_, todo)) = path.last_mut() {
        let Some((what, world)) = todo.next() else {
            path.pop();
            continue;
        };
        if !seen.insert(fingerprint(&world)) {
            continue;
        }
        let successors = world.successors();
        if let Some(fault) = world.fault(successors.is_empty()) {
            let steps: Vec<_> = path.iter().map(|(what, _)| what.as_str()).collect();
            return Err(format!("{fault} after\n  {}\n  {what}\n{world:#?}", steps.join("\n  ")));
        }
        path.push((what, successors.into_iter()));
    }
    Ok(seen.len())
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn no_mail_is_sent_twice_or_lost_while_redis_loses_nothing() {
    for (name, budget) in [
        ("a duplicate", NONE),
        ("a kill", Budget { kills: 1, ..NONE }),
        ("a pause", Budget { pauses: 1, ..NONE }),
        ("a refusal", Budget { refusals: 1, ..NONE }),
        ("a refusal and a kill", Budget { refusals: 1, kills: 1, ..NONE }),
        ("a refusal and a pause", Budget { refusals: 1, pauses: 1, ..NONE }),
    ] {
        match search(budget) {
            Ok(states) => eprintln!("{name}: {states} states"),
            Err(fault) => panic!("{name}: {fault}"),
        }
    }
}

/// The limit that README names: Redis loses the latch while the event is published again.
#[test]
fn a_failover_that_loses_the_latch_is_the_limit() {
    let fault = search(Budget { failovers: 1, ..NONE }).expect_err("the limit is reached");
    assert!(fault.starts_with("a second mail"), "{fault}");
}
