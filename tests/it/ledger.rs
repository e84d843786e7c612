//! The ledger's script against the state machine that it implements: same inputs, same answers.

use std::collections::HashSet;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use redis::AsyncCommands;
use tokio::runtime::Runtime;
use usher::{
    config::{Endpoint, Secret, TlsFiles},
    ledger::{
        Claim, Entry, Facts, Input, Ledger, NextStep, Owner, Reclaim, Reply, State,
        redis::{RedisLedger, Windows},
        step,
    },
    routing::DeliveryId,
    supervisor::Supervisor,
};

use crate::support::redis_database;

/// Few of everything, so that the steps of a sequence interact.
const INSTANCES: u8 = 3;

/// One step of a sequence.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// An input to the ledger.
    Ask(Ask),
    /// An instance renews its key.
    Renew(u8),
    /// An instance's key expires.
    Expire(u8),
    /// The epoch is lost, is new after a loss, or is intact.
    Epoch(Epoch),
    /// The server is one that nobody knows, or is known again.
    Close,
    Open,
    /// An instance has written again what it knows.
    Meet(u8),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Epoch {
    Lost,
    AskAudit,
    Whole,
}

/// An input without its fence, which only the entry knows.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    what: What,
    instance: u8,
    token: u64,
    event: u8,
    attempt: u32,
    /// Added to the entry's fence, because an owner's fence may be stale.
    stale_by: u64,
    flags: [bool; 4],
    /// What the audit knows.
    tried: u32,
}

#[derive(Debug, Clone)]
enum What {
    Claim,
    Latch,
    Decide(NextStep),
    Republished,
    Suppress,
    Sent,
    /// Also of a later claim than the entry has.
    Reclaim(State),
}

impl Ask {
    fn owner(&self) -> Owner {
        Owner { instance: format!("i{}", self.instance), token: self.token }
    }

    /// The input for an entry. Owners mostly use the fence that they hold, because nearly every input
    /// would be refused otherwise.
    pub(crate) fn input(&self, entry: Option<&Entry>) -> Input {
        let [fresh, audit_is_silent, derived, alone] = self.flags;
        let owner = match entry {
            Some(entry) if self.token == 0 => entry.owner.clone(),
            _ => self.owner(),
        };
        let fence = entry.map_or(1, |entry| entry.fence).saturating_sub(self.stale_by);
        // An id may hold any text.
        let event = format!("e\n{}", self.event);
        let attempt = self.attempt;
        // A delivery that was put off without an attempt has no record.
        let record = if attempt == 3 { String::new() } else { format!("{{\"record\":{attempt}}}") };
        match self.what.clone() {
            What::Claim => Input::Claim(Claim {
                owner,
                event,
                attempt,
                fresh,
                alone,
                audit_is_silent,
                tried: if audit_is_silent { self.tried } else { 0 },
                derived,
            }),
            What::Latch => {
                Input::Latch { owner, fence, relay: (attempt != 3).then(|| format!("r{attempt}")) }
            }
            What::Decide(next) => Input::Decide { owner, fence, next, record },
            What::Republished => {
                let decided = entry.map(|entry| entry.state);
                let next = match decided {
                    // Sometimes a decision other than the one that was made.
                    Some(State::Decided { next, .. }) if self.stale_by == 0 => next,
                    _ => NextStep::Dead,
                };
                Input::Republished { attempt, next }
            }
            What::Suppress => Input::Suppress { owner, fence, record },
            What::Sent => Input::Sent { event, attempt, record, derived },
            What::Reclaim(state) => {
                let fence = entry.map_or(1, |entry| entry.fence) + self.stale_by;
                let relay = (attempt != 3).then(|| format!("r{attempt}"));
                Input::Reclaim(Reclaim { owner, event, attempt, fence, derived, relay, state })
            }
        }
    }
}

pub(crate) fn asks() -> impl Strategy<Value = Ask> {
    let next = prop_oneof![
        4 => (1..4_u32).prop_map(NextStep::Retry),
        1 => Just(NextStep::Dead),
        1 => Just(NextStep::Park),
        1 => Just(NextStep::Poison),
    ];
    let what = prop_oneof![
        8 => Just(What::Claim),
        4 => Just(What::Latch),
        4 => next.prop_map(What::Decide),
        3 => Just(What::Republished),
        1 => Just(What::Suppress),
        1 => Just(What::Sent),
        1 => Just(What::Reclaim(State::Sending)),
        1 => Just(What::Reclaim(State::Unknown)),
    ];
    let stale_by = prop_oneof![4 => Just(0_u64), 1 => 1..3_u64];
    let flags = any::<[bool; 4]>();
    let tried = prop_oneof![4 => Just(0), 1 => 1..4_u32];
    (what, 0..INSTANCES, 0..3_u64, 0..2_u8, 1..4_u32, stale_by, flags, tried).prop_map(
        |(what, instance, token, event, attempt, stale_by, flags, tried)| Ask {
            what,
            instance,
            token,
            event,
            attempt,
            stale_by,
            flags,
            tried,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let epoch = prop_oneof![Just(Epoch::Lost), Just(Epoch::AskAudit), Just(Epoch::Whole)];
    let one = prop_oneof![
        20 => asks().prop_map(Step::Ask),
        1 => (0..INSTANCES).prop_map(Step::Renew),
        3 => (0..INSTANCES).prop_map(Step::Expire),
        1 => epoch.prop_map(Step::Epoch),
        1 => Just(Step::Close),
        1 => Just(Step::Open),
        1 => (0..INSTANCES).prop_map(Step::Meet),
    ];
    vec(one, 1..40)
}

/// The state machine, and what Redis knows beside the entry.
struct Model {
    entry: Option<Entry>,
    alive: HashSet<String>,
    /// Instances that one look found absent.
    missed: HashSet<String>,
    epoch_intact: bool,
    is_open: bool,
    /// The recovery is one after a loss.
    is_loss: bool,
    /// Who has written again what they know.
    met: HashSet<String>,
    /// Whether the second look at an absent instance calls it gone.
    second_look_suffices: bool,
}

impl Model {
    fn apply(&mut self, input: &Input) -> Reply {
        let owner_gone = match (input, &self.entry) {
            (Input::Claim(claim), Some(entry)) if self.is_open => {
                self.looks_gone(claim, &entry.clone())
            }
            _ => false,
        };
        let owner = self.entry.as_ref().map_or("", |entry| &entry.owner.instance);
        let facts = Facts {
            owner_gone,
            epoch_intact: self.epoch_intact,
            owner_met: self.met.contains(owner),
            recovering: !self.is_open,
        };
        let (entry, reply) = step(self.entry.take(), input, facts);
        self.entry = entry;
        reply
    }

    /// As the script does it: only where it matters, and never for the claimant's own instance.
    fn looks_gone(&mut self, claim: &Claim, entry: &Entry) -> bool {
        let matters = matches!(entry.state, State::Claimed | State::Sending | State::Unknown);
        let own_claim = entry.state == State::Claimed && entry.owner == claim.owner;
        let instance = &entry.owner.instance;
        if !matters
            || own_claim
            || *instance == claim.owner.instance
            || self.alive.contains(instance)
        {
            return false;
        }
        let is_second_look = !self.missed.insert(instance.clone());
        is_second_look && self.second_look_suffices
    }
}

/// Redis stores an empty record and no record alike; both mean no record.
fn as_redis_has_it(reply: Reply) -> Reply {
    let some = |record: Option<String>| record.filter(|record| !record.is_empty());
    match reply {
        Reply::Done { record } => Reply::Done { record: some(record) },
        Reply::Duplicate { record } => Reply::Duplicate { record: some(record) },
        other => other,
    }
}

/// A ledger on a database of its own, and a connection to that.
pub(crate) async fn ledger(
    database: u8,
    gone_after_ms: u64,
) -> (RedisLedger, redis::aio::MultiplexedConnection) {
    let hour = std::time::Duration::from_secs(3600);
    let windows = Windows {
        dedup: hour,
        dedup_derived: hour,
        instance_ttl: hour,
        gone_after: std::time::Duration::from_millis(gone_after_ms),
    };
    let url = redis_database(database);
    let server = Endpoint { url: Secret::new(url.as_str()), tls: TlsFiles::default() };
    let client = redis::Client::open(url.as_str()).expect("TEST_REDIS_URL");
    let connection = client.get_multiplexed_async_connection().await;
    let ledger =
        RedisLedger::new(&server, windows, &Supervisor::default()).expect("TEST_REDIS_URL");
    (ledger, connection.expect("Redis at TEST_REDIS_URL"))
}

/// Opens the claims, as an instance does that is alone.
pub(crate) async fn open(ledger: &RedisLedger) {
    let known = ledger.look_at_server("").await.expect("Redis answers");
    ledger.meet(&known.server);
    ledger.mark("another", &["another".into()]).await.expect("marked");
    ledger.end_grace(&[]).await.expect("opened");
}

/// Runs a few hundred sequences, each on a delivery of its own.
fn hold_script_against_machine(database: u8, gone_after_ms: u64) {
    let runtime = Runtime::new().expect("a runtime");
    let (ledger, redis) = runtime.block_on(ledger(database, gone_after_ms));
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        let mut redis = redis.clone();
        runtime.block_on(async {
            let _: () = redis::cmd("FLUSHDB").query_async(&mut redis).await.expect("flushed");
            open(&ledger).await;
            let id = uuid::Uuid::new_v4().simple().to_string();
            let delivery = DeliveryId::from_stored(&id).expect("an id");
            let mut model = Model {
                entry: None,
                alive: HashSet::new(),
                missed: HashSet::new(),
                epoch_intact: false,
                is_open: true,
                is_loss: false,
                met: HashSet::new(),
                second_look_suffices: gone_after_ms == 0,
            };
            for step in &steps {
                run_step(step, &mut model, &ledger, &mut redis, &delivery).await?;
            }
            Ok(())
        })
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

async fn run_step(
    step: &Step,
    model: &mut Model,
    ledger: &RedisLedger,
    redis: &mut redis::aio::MultiplexedConnection,
    delivery: &DeliveryId,
) -> Result<(), TestCaseError> {
    match step {
        Step::Ask(ask) => {
            let input = ask.input(model.entry.as_ref());
            let before = model.entry.clone();
            let expected = model.apply(&input);
            let answered = ledger.apply(delivery, input.clone()).await.expect("an answer");
            prop_assert_eq!(answered, as_redis_has_it(expected), "{:?} on {:?}", input, before);
        }
        Step::Renew(number) => {
            let instance = format!("i{number}");
            ledger.renew(&instance).await.expect("renewed");
            model.missed.remove(&instance);
            model.alive.insert(instance);
        }
        Step::Expire(number) => {
            let instance = format!("i{number}");
            let _: () = redis.del(format!("usher:instance:{instance}")).await.expect("deleted");
            model.alive.remove(&instance);
        }
        Step::Close => {
            let _: () = redis.del("usher:ledger:open:").await.expect("deleted");
            model.is_open = false;
        }
        Step::Open => {
            open(ledger).await;
            model.is_open = true;
            model.epoch_intact &= !std::mem::take(&mut model.is_loss);
        }
        Step::Meet(number) => {
            let instance = format!("i{number}");
            ledger.mark(&instance, &[instance.as_str().into()]).await.expect("marked");
            model.met.insert(instance);
            model.is_loss |= !model.is_open;
        }
        Step::Epoch(epoch) => {
            let _: () = redis.del("usher:ledger:epoch").await.expect("deleted");
            match epoch {
                Epoch::Lost => {}
                Epoch::AskAudit => ledger.keep_epoch(false).await.expect("kept"),
                Epoch::Whole => ledger.keep_epoch(true).await.expect("kept"),
            }
            model.epoch_intact = matches!(epoch, Epoch::Whole);
        }
    }
    Ok(())
}

#[test]
fn the_script_answers_like_the_state_machine_if_owners_vanish() {
    hold_script_against_machine(1, 0);
}

#[test]
fn the_script_answers_like_the_state_machine_if_absence_must_last() {
    hold_script_against_machine(2, 3_600_000);
}
