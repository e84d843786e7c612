//! Every order of events around a failover of Redis, searched exhaustively with the crate's own
//! [`step`]: two instances, an event that is published twice and a retry of it, kills, a
//! pause, and failovers that lose any number of the latest writes.
//!
//! `LEDGER_MODEL=large` searches further; see CONTRIBUTING.md.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use usher::ledger::{
    Claim, Entry, Facts, Input, NextStep, Owner, Reclaim, Reply, State as EntryState, step,
};

/// What the model does beside `step`; each of them is also tried without.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// Claims wait after a failover, until those who can have written again what they know.
    grace: bool,
    /// An instance writes again what it has latched and not settled.
    reclaim: bool,
    /// Grace waits for the instances that MongoDB knows, not for those that Redis knows.
    registry: bool,
    /// After a failover the audit is asked before first claims.
    ask_audit: bool,
    /// A claim from before a failover can't be latched after it.
    claims_end: bool,
    /// The audit's silence from before a failover does not count after it.
    silence_ends: bool,
    /// A claim of somebody who never wrote again what it knew counts as a latch.
    unmet_is_latched: bool,
    /// An instance that has not met the server may not claim or latch there.
    only_met_claim: bool,
    /// A primary without its replicas takes no writes for longer than half of the grace.
    min_replicas: bool,
}

const ALL: Rules = Rules {
    grace: true,
    reclaim: true,
    registry: true,
    ask_audit: true,
    claims_end: true,
    silence_ends: true,
    unmet_is_latched: true,
    only_met_claim: true,
    min_replicas: true,
};

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    failovers: u8,
    kills: u8,
    restarts: u8,
    pauses: u8,
    refusals: u8,
    /// Whether an instance may go on with the old primary.
    split_brain: bool,
}

const NONE: Budget =
    Budget { failovers: 1, kills: 0, restarts: 0, pauses: 0, refusals: 0, split_brain: false };

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    redis: Arc<Redis>,
    /// What Redis held before each of its writes: a failover brings one of them back.
    past: Vec<Arc<Redis>>,
    server: u8,
    /// The old primary, and its number.
    old: Option<(Arc<Redis>, u8)>,
    audit: Audit,
    registered: BTreeSet<u8>,
    instances: [Instance; 2],
    /// The event, its duplicate, and the retry.
    messages: [Message; 3],
    mails: u8,
    parked: bool,
    /// Who was killed after it had latched, and the audit does not know the outcome.
    orphan: Option<Owner>,
    /// Somebody may have been killed or paused.
    may_park: bool,
    budget: Budget,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Redis {
    entry: Option<Entry>,
    /// The server whose claims are open.
    open: u8,
    /// The server that recovers, and who has written again what it knows.
    recovering: u8,
    marked: BTreeSet<u8>,
    /// Names of owners who have, with the server.
    met: BTreeSet<(String, u8)>,
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
    /// Counts servers that it met.
    generation: u8,
    is_with_old: bool,
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
    /// What it has latched, or knows to be unknown.
    known: Option<Reclaim>,
    /// Its instance's, when it claimed.
    generation: u8,
}

impl Task {
    fn reclaim(&self, state: EntryState) -> Reclaim {
        Reclaim {
            owner: self.owner.clone(),
            event: "e".to_owned(),
            attempt: self.attempt,
            fence: self.fence,
            derived: false,
            relay: None,
            state,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    /// `silent_in` is the generation in which the audit was asked.
    Claim {
        fresh: bool,
        silent_in: Option<u8>,
        tried: u32,
    },
    AskAudit {
        generation: u8,
    },
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
        let instance = |id| Instance {
            id,
            names: 0,
            is_alive: true,
            is_paused: false,
            met: 0,
            generation: 0,
            is_with_old: false,
        };
        Self {
            redis: Arc::new(Redis { open: 1, ..Redis::default() }),
            past: Vec::new(),
            server: 1,
            old: None,
            audit: Audit::default(),
            registered: BTreeSet::new(),
            instances: [instance(0), instance(1)],
            messages: [
                Message::Queued { fresh: true },
                Message::Queued { fresh: true },
                Message::NotPublished,
            ],
            mails: 0,
            parked: false,
            orphan: None,
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

    fn is_open(&self) -> bool {
        self.redis.open == self.server
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

    fn apply(&mut self, rules: Rules, instance: usize, input: &Input) -> Reply {
        let one = &self.instances[instance];
        let with_old = one.is_with_old;
        let (redis, server) = match &self.old {
            Some((redis, server)) if with_old => (redis.clone(), *server),
            _ => (self.redis.clone(), self.server),
        };
        let owner = redis.entry.as_ref().map(|entry| entry.owner.instance.clone());
        let owner = owner.unwrap_or_default();
        let has_met = one.met == server || !rules.only_met_claim;
        let facts = Facts {
            owner_gone: self.is_gone(&owner),
            epoch_intact: !(redis.asks_audit && rules.ask_audit),
            owner_met: !rules.unmet_is_latched || redis.met.contains(&(owner, server)),
            recovering: redis.open != server || !has_met,
        };
        let (entry, reply) = step(redis.entry.clone(), input, facts);
        if with_old {
            let changed = Redis { entry, ..(*redis).clone() };
            self.old = Some((Arc::new(changed), server));
        } else {
            self.write(|redis| redis.entry = entry);
        }
        reply
    }

    /// What may happen next.
    fn successors(&self, rules: Rules) -> Vec<(String, World)> {
        let mut all = Vec::new();
        for slot in 0..self.messages.len() {
            self.message_acts(rules, slot, &mut all);
        }
        for number in 0..self.instances.len() {
            self.instance_acts(rules, number, &mut all);
        }
        if let Some(opened) = self.opened(rules) {
            all.push(("the grace ends".to_owned(), opened));
        }
        self.fail_over(&mut all);
        all.retain(|(_, next)| next != self);
        all
    }

    fn message_acts(&self, rules: Rules, slot: usize, all: &mut Vec<(String, World)>) {
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
                            at: At::Claim { fresh: *fresh, silent_in: None, tried: 0 },
                            fence: 0,
                            attempt: if slot == 2 { 2 } else { 1 },
                            known: None,
                            generation: instance.generation,
                        };
                        let mut next = self.clone();
                        next.messages[slot] = Message::Held(task);
                        all.push((format!("{number} takes message {slot}"), next));
                    }
                }
            }
            Message::Held(task) if self.instances[task.instance].acts() => {
                self.task_acts(rules, slot, task, all);
            }
            Message::Held(_) => {}
        }
    }

    fn task_acts(&self, rules: Rules, slot: usize, task: &Task, all: &mut Vec<(String, World)>) {
        let mut push = |what: &str, mut next: World, task: Option<Task>| {
            next.messages[slot] = task.map_or(Message::Gone, Message::Held);
            all.push((format!("message {slot} at {}: {what}", task_instance(self, slot)), next));
        };
        let generation = self.instances[task.instance].generation;
        let owner = task.owner.clone();
        let mut next = self.clone();
        let mut then = task.clone();
        match &task.at {
            At::Claim { fresh, silent_in, tried } => {
                let is_silent =
                    silent_in.is_some_and(|asked| asked == generation || !rules.silence_ends);
                let claim = Input::Claim(Claim {
                    owner,
                    event: "e".to_owned(),
                    attempt: task.attempt,
                    fresh: *fresh,
                    audit_is_silent: is_silent,
                    tried: if is_silent { *tried } else { 0 },
                    derived: false,
                    alone: true,
                });
                let reply = next.apply(rules, task.instance, &claim);
                then.known = None;
                then.generation = generation;
                match &reply {
                    Reply::Granted { fence, .. } => (then.fence, then.at) = (*fence, At::Latch),
                    Reply::Unresolved { fence, .. } => {
                        then.fence = *fence;
                        then.known = Some(then.reclaim(EntryState::Unknown));
                        then.at = At::Decide { next: NextStep::Park, done: 0 };
                    }
                    Reply::AskAudit => then.at = At::AskAudit { generation },
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
                        next.apply(rules, task.instance, &mark);
                        return push("publishes the retry again", next, None);
                    }
                    Reply::Republish { attempt, .. } => {
                        next.audit.unknown.insert(*attempt);
                        next.parked = true;
                        next.orphan = None;
                        let mark = Input::Republished { attempt: *attempt, next: NextStep::Park };
                        next.apply(rules, task.instance, &mark);
                        return push("parks it again", next, None);
                    }
                    Reply::Recovering => {}
                    _ => then = self.taken_again(task),
                }
                push(&format!("claims: {reply:?}"), next, Some(then));
            }
            At::AskAudit { generation } => {
                let audit = &self.audit;
                if audit.sent || audit.unknown.iter().any(|known| *known >= task.attempt) {
                    if audit.sent {
                        let sent = sent(task.attempt);
                        next.apply(rules, task.instance, &sent);
                    }
                    return push("finds it in the audit", next, None);
                }
                let tried = u32::from(audit.retrying);
                then.at = At::Claim { fresh: false, silent_in: Some(*generation), tried };
                push("hears nothing from the audit", next, Some(then));
            }
            At::Latch => {
                if let Some((next, task)) = self.refused(task) {
                    push("is refused", next, Some(task));
                }
                let latch = Input::Latch { owner, fence: task.fence, relay: None };
                let reply = if rules.claims_end && task.generation != generation {
                    Reply::Lost
                } else {
                    next.apply(rules, task.instance, &latch)
                };
                match reply {
                    Reply::Granted { .. } => {
                        then.known = Some(then.reclaim(EntryState::Sending));
                        then.at = At::Body;
                    }
                    Reply::Recovering => {}
                    _ => then.at = At::Claim { fresh: false, silent_in: None, tried: 0 },
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
                    next.apply(rules, task.instance, &sent(task.attempt));
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
                        let reply = next.apply(rules, task.instance, &decide);
                        if reply == Reply::Lost {
                            return push("has lost it", next, Some(self.taken_again(task)));
                        }
                        push("decides", next, Some(then));
                    }
                    1 => {
                        if decision == NextStep::Park {
                            next.audit.unknown.insert(task.attempt);
                            next.orphan = None;
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
                        next.apply(rules, task.instance, &mark);
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
            at: At::Claim { fresh: false, silent_in: None, tried: 0 },
            fence: 0,
            known: None,
            ..task.clone()
        }
    }

    fn publish_retry(&mut self) {
        if self.messages[2] == Message::NotPublished {
            self.messages[2] = Message::Queued { fresh: false };
        }
    }

    fn instance_acts(&self, rules: Rules, number: usize, all: &mut Vec<(String, World)>) {
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
                    generation: instance.generation + 1,
                    is_with_old: false,
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
                    let is_out = matches!(task.at, At::Body | At::Sent { .. });
                    if is_out && !self.audit.sent {
                        next.orphan = Some(task.owner.clone());
                    }
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
        if instance.is_with_old {
            let mut next = self.clone();
            next.instances[number].is_with_old = false;
            all.push((format!("{number} finds the new primary"), next));
        } else if number == 1 && self.instances[0].met == 0 {
            // The instances are alike as well.
        } else if instance.met != self.server
            || (!self.is_open() && !self.redis.marked.contains(&instance.id))
            || (!self.is_open() && self.redis.recovering != self.server)
        {
            all.push((format!("{number} meets the server"), self.met(rules, number)));
        }
    }

    /// An instance registers, writes again what it knows, takes a new name, and marks itself.
    fn met(&self, rules: Rules, number: usize) -> World {
        let mut next = self.clone();
        let server = self.server;
        if !self.is_open() && self.redis.recovering != server {
            next.write(|redis| {
                redis.recovering = server;
                redis.marked.clear();
            });
        }
        let instance = &mut next.instances[number];
        let is_new = instance.met == 0;
        instance.generation += 1;
        instance.met = server;
        let (id, old_name) = (instance.id, instance.name());
        next.registered.insert(id);
        let mut names = BTreeSet::from([(old_name, server)]);
        for slot in 0..self.messages.len() {
            let Message::Held(task) = &self.messages[slot] else { continue };
            if task.instance != number {
                continue;
            }
            names.insert((task.owner.instance.clone(), server));
            if let Some(reclaim) = task.known.clone().filter(|_| rules.reclaim) {
                next.apply(rules, number, &Input::Reclaim(reclaim));
            }
        }
        if !is_new {
            let instance = &mut next.instances[number];
            instance.names += 1;
            if self.is_open() {
                // Too late: others may have judged what the old names had claimed.
                names.clear();
            }
            names.insert((instance.name(), server));
        }
        next.write(|redis| {
            if redis.open != server {
                redis.marked.insert(id);
            }
            redis.met.retain(|(_, of)| *of == server);
            redis.met.extend(names);
        });
        next
    }

    /// Whether the claims of a delivery's owner who can't write it again are seen all the same.
    fn is_seen(&self, rules: Rules, owner: &Owner) -> bool {
        self.redis.entry.as_ref().is_some_and(|entry| match entry.state {
            EntryState::Claimed => {
                let of_it = (entry.owner.instance.clone(), self.server);
                entry.owner == *owner
                    || (rules.unmet_is_latched && !self.redis.met.contains(&of_it))
            }
            EntryState::Decided { .. } | EntryState::Failed => false,
            EntryState::Sending
            | EntryState::Unknown
            | EntryState::Sent
            | EntryState::Suppressed => true,
        })
    }

    /// The grace ends: all who can be have been waited for. `None` also where the limit is reached that
    /// remains: the latch was lost, and its owner can't write it again.
    fn opened(&self, rules: Rules) -> Option<World> {
        if self.is_open() || self.redis.recovering != self.server {
            return None;
        }
        let known_to_redis = |id: &u8| {
            let name = format!("i{id}.");
            self.redis.met.iter().any(|(met, _)| met.starts_with(&name))
        };
        for instance in &self.instances {
            let is_marked = self.redis.marked.contains(&instance.id);
            let is_waited_for = self.registered.contains(&instance.id)
                && (rules.registry || known_to_redis(&instance.id));
            let can_mark = instance.acts() && (rules.min_replicas || !instance.is_with_old);
            if rules.grace && is_waited_for && !is_marked && can_mark {
                return None;
            }
        }
        if !self.audit.sent {
            if self.orphan.as_ref().is_some_and(|owner| !self.is_seen(rules, owner)) {
                return None;
            }
            for message in &self.messages {
                let Message::Held(task) = message else { continue };
                let is_paused = self.instances[task.instance].is_paused;
                let is_out = matches!(task.at, At::Body | At::Sent { .. });
                if is_paused && is_out && !self.is_seen(rules, &task.owner) {
                    return None;
                }
            }
        }
        let mut next = self.clone();
        let server = self.server;
        next.write(|redis| {
            redis.open = server;
            redis.asks_audit = true;
            redis.marked.clear();
        });
        Some(next)
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
            all.push((format!("a failover loses {lost} writes"), next.clone()));
            if self.budget.split_brain {
                for number in 0..self.instances.len() {
                    if self.instances[number].is_alive {
                        let mut next = next.clone();
                        next.old = Some((self.redis.clone(), self.server));
                        next.instances[number].is_with_old = true;
                        all.push((format!("a failover loses {lost}, {number} stays"), next));
                    }
                }
            }
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
fn search(rules: Rules, budget: Budget) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let start = World::new(budget);
    seen.insert(fingerprint(&start));
    // Each with what led to it.
    let mut path: Vec<(String, std::vec::IntoIter<(String, World)>)> = Vec::new();
    let successors = start.successors(rules);
    path.push(("start".to_owned(), successors.into_iter()));
    while let Some((_, todo)) = path.last_mut() {
        let Some((what, world)) = todo.next() else {
            path.pop();
            continue;
        };
        if !seen.insert(fingerprint(&world)) {
            continue;
        }
        let successors = world.successors(rules);
        let is_limit = successors.is_empty() && world.is_at_the_limit(rules);
        if let Some(fault) = world.fault(successors.is_empty()).filter(|_| !is_limit) {
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

impl World {
    /// Nothing happens any more because the grace can't end without the limit that remains.
    fn is_at_the_limit(&self, rules: Rules) -> bool {
        !self.is_open() && self.opened(rules).is_none()
    }
}

fn scenarios() -> Vec<(&'static str, Budget)> {
    let mut all = vec![
        ("a failover", NONE),
        ("and a kill", Budget { kills: 1, ..NONE }),
        ("and a pause", Budget { pauses: 1, ..NONE }),
        ("and a refusal", Budget { refusals: 1, ..NONE }),
        ("two failovers", Budget { failovers: 2, ..NONE }),
        ("split brain", Budget { split_brain: true, ..NONE }),
    ];
    if std::env::var("LEDGER_MODEL").is_ok_and(|size| size == "large") {
        all.extend([
            ("a kill and a restart", Budget { kills: 1, restarts: 1, ..NONE }),
            ("two failovers and a kill", Budget { failovers: 2, kills: 1, ..NONE }),
            ("a refusal and a kill", Budget { refusals: 1, kills: 1, ..NONE }),
            ("a pause and a kill", Budget { pauses: 1, kills: 1, ..NONE }),
            ("split brain and a kill", Budget { split_brain: true, kills: 1, ..NONE }),
        ]);
    }
    all
}

#[test]
fn no_mail_is_sent_twice_or_lost_across_a_failover() {
    for (name, budget) in scenarios() {
        let began = std::time::Instant::now();
        match search(ALL, budget) {
            Ok(states) => eprintln!("{name}: {states} states in {:.1?}", began.elapsed()),
            Err(fault) => panic!("{name}: {fault}"),
        }
    }
}

/// A rule without which nothing breaks would be one too many.
#[test]
fn each_rule_is_needed() {
    let kill = Budget { kills: 1, ..NONE };
    let pause = Budget { pauses: 1, ..NONE };
    let split = Budget { split_brain: true, ..NONE };
    let without = [
        ("grace", Rules { grace: false, ..ALL }, NONE),
        ("reclaim", Rules { reclaim: false, ..ALL }, NONE),
        ("the registry", Rules { registry: false, ..ALL }, NONE),
        ("asking the audit", Rules { ask_audit: false, ..ALL }, NONE),
        ("the end of claims", Rules { claims_end: false, ..ALL }, pause),
        ("the end of silence", Rules { silence_ends: false, ..ALL }, kill),
        ("unmet owners", Rules { unmet_is_latched: false, ..ALL }, kill),
        ("meeting first", Rules { only_met_claim: false, ..ALL }, pause),
        ("min-replicas-to-write", Rules { min_replicas: false, ..ALL }, split),
    ];
    for (rule, rules, budget) in without {
        match search(rules, budget) {
            Ok(states) => panic!("nothing breaks without {rule} in {states} states"),
            Err(fault) => eprintln!("without {rule}: {}", fault.lines().next().unwrap_or_default()),
        }
    }
}
