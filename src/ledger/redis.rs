//! The ledger in Redis: one script call for all inputs of the moment.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redis::{Cmd, ErrorKind, RedisResult, Script, ServerErrorKind};
use tokio::sync::Notify;

use super::{
    Admission, Input, Ledger, LedgerError, MAX_CLAIMS, MarkBudget, NextStep, Reply, SUSPECT_CLAIMS,
    State, WaitingMark,
};
use crate::{
    batcher::Batcher,
    clients::redis::{Connection, connect},
    clock,
    config::{Endpoint, RateLimit},
    duration::millis,
    routing::DeliveryId,
    supervisor::{Supervisor, Task},
    tls::Renewed,
};

/// The key whose absence shows that the ledger lost data; see [`RedisLedger::keep_epoch`].
const EPOCH: &str = "usher:ledger:epoch";

/// Redis's time and the time that instances agree on, at the last renewal.
const CLOCK: &str = "usher:ledger:clock";

/// A jump of Redis's clock up to this is none: clocks are compared over a network.
const STEADY: Duration = Duration::from_secs(60);

const SCRIPT: &str = concat!(include_str!("server.lua"), include_str!("ledger.lua"));

/// Line of an entry that holds the record; see the script.
const RECORD_LINE: usize = 10;

/// Most marks of deliveries that wait which are found by one key.
const MOST_IN_LIST: usize = 100;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// How long an outcome is remembered.
    pub dedup: Duration,
    /// The same for events whose id is a hash of their body.
    pub dedup_derived: Duration,
    /// Time to live of an instance's key without renewal.
    pub instance_ttl: Duration,
    /// Minimum time between two observations of an absent owner before it counts as gone.
    pub gone_after: Duration,
}

impl Windows {
    /// How long a recovery waits for instances that do not mark themselves.
    fn grace(&self) -> Duration {
        self.instance_ttl * 2
    }
}

/// Who uses the ledger: two that are not the same must not share keys.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// What tells apart those whose delivery ids can't meet: a hash of the pepper.
    pub key: String,
    /// Where its events and its records are, for people.
    pub name: String,
}

/// The ledger is another deployment's.
#[derive(Debug, thiserror::Error)]
#[error(
    "this Redis has the ledger of {theirs} with the same USHER_PEPPER, and this is {ours}: each would take the other's mail for sent. \
     Give each a REDIS_URL or a USHER_PEPPER of its own; if {theirs} is gone for good, delete the key {key}"
)]
pub struct ForeignLedger {
    ours: String,
    theirs: String,
    key: String,
}

/// An input, and what it depends on.
struct Submitted {
    delivery: DeliveryId,
    input: Input,
    /// The server whose claims are open stands there.
    open: Arc<str>,
    /// The server that the instance had met.
    met: Arc<str>,
}

pub struct RedisLedger {
    deployment: Option<Deployment>,
    /// The key of the server whose claims are open.
    open: Arc<str>,
    /// Whether it is known to be ours.
    is_ours: AtomicBool,
    connection: Arc<Renewed<Connection>>,
    inputs: Batcher<Submitted, RedisResult<String>>,
    rate: Script,
    renew: Script,
    instances: Script,
    recover: Script,
    waiting: Script,
    marks: MarkBudget,
    windows: Windows,
    met: Mutex<Met>,
    /// The server is another one than was met last, or recovers.
    moved: Notify,
}

/// The server that this instance has met last: its claims count there and nowhere else.
#[derive(Debug, Clone, Default)]
struct Met {
    /// Empty before the first, and where Redis does not tell.
    server: Arc<str>,
    generation: u64,
}

/// How far the recovery of the ledger on a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Which server this is, and which history of writes it has. Empty where Redis does not tell.
    pub server: String,
    pub stage: Stage,
    /// How long it has taken.
    pub waited: Duration,
    /// How many instances have written again what they know.
    pub marked: u64,
    /// How many known ones have not.
    pub missing: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Recovering,
    /// The grace has ended just now.
    Opened,
    Open,
}

impl RedisLedger {
    /// Connects lazily. Redis may be down at start: inputs fail until it is up.
    pub fn new(
        server: &Endpoint,
        windows: Windows,
        supervisor: &Supervisor,
    ) -> Result<Self, LedgerError> {
        let connection = connect("redis", server, RESPONSE_TIMEOUT);
        let connection = connection.map_err(|reason| LedgerError(anyhow::Error::msg(reason)))?;
        let connection = Arc::new(connection);
        let to = connection.clone();
        // The hash that EVALSHA needs.
        let hash = Script::new(SCRIPT).get_hash().to_owned();
        let inputs = Batcher::new(supervisor, Task::LedgerInputs, move |inputs: Vec<Submitted>| {
            let (to, call) = (to.clone(), call(&hash, &inputs, windows));
            async move { apply_all(to.last(), call, inputs.len()).await }
        });
        let rate = Script::new(include_str!("rate.lua"));
        let renew = Script::new(include_str!("renew.lua"));
        let recover = Script::new(concat!(include_str!("server.lua"), include_str!("recover.lua")));
        let instances = Script::new(include_str!("instances.lua"));
        Ok(Self {
            deployment: None,
            open: open_key("").into(),
            is_ours: AtomicBool::new(false),
            connection,
            inputs,
            rate,
            renew,
            instances,
            recover,
            waiting: Script::new(include_str!("waiting.lua")),
            marks: MarkBudget::default(),
            windows,
            met: Mutex::default(),
            moved: Notify::new(),
        })
    }

    /// The ledger of this deployment and of no other.
    pub fn of(self, deployment: Deployment) -> Self {
        let open = open_key(&deployment.key).into();
        Self { deployment: Some(deployment), open, ..self }
    }

    /// Sees that the ledger is this deployment's; nobody's becomes it.
    ///
    /// # Errors
    /// Redis did not answer, or it is another one's: then the error holds a [`ForeignLedger`].
    pub async fn claim_for_deployment(&self) -> Result<(), LedgerError> {
        let Some(Deployment { key, name }) = &self.deployment else { return Ok(()) };
        if self.is_ours.load(Ordering::Relaxed) {
            return Ok(());
        }
        let key = deployment_key(key);
        let mut connection = self.connection.last();
        let found: RedisResult<(String,)> = redis::pipe()
            .cmd("SET")
            .arg(&key)
            .arg(name)
            .arg("NX")
            .ignore()
            .cmd("GET")
            .arg(&key)
            .query_async(&mut connection)
            .await;
        let (theirs,) = found.map_err(failed)?;
        self.refuse_foreign(&theirs)?;
        self.is_ours.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Sees that the ledger is not another deployment's, and leaves nobody's as it is.
    ///
    /// # Errors
    /// As [`claim_for_deployment`](Self::claim_for_deployment).
    pub async fn look_for_foreign_deployment(&self) -> Result<(), LedgerError> {
        let Some(Deployment { key, .. }) = &self.deployment else { return Ok(()) };
        let mut connection = self.connection.last();
        let mut look = redis::cmd("GET");
        let found: Option<String> =
            look.arg(deployment_key(key)).query_async(&mut connection).await.map_err(failed)?;
        found.map_or(Ok(()), |theirs| self.refuse_foreign(&theirs))
    }

    /// Sees that Redis takes writes: a replica, or a server without memory or disk, only answers reads.
    pub async fn test(&self) -> Result<(), LedgerError> {
        let mut connection = self.connection.last();
        let mut write = redis::cmd("SET");
        write.arg("usher:check").arg("").arg("PX").arg(1_000);
        write.query_async(&mut connection).await.map_err(failed)
    }

    fn refuse_foreign(&self, theirs: &str) -> Result<(), LedgerError> {
        match &self.deployment {
            Some(Deployment { key, name }) if theirs != name => Err(failed(ForeignLedger {
                ours: name.clone(),
                theirs: theirs.to_owned(),
                key: deployment_key(key),
            })),
            _ => Ok(()),
        }
    }

    /// Creates the epoch if it is missing. A new installation trusts its empty ledger at once.
    /// After a loss, the audit is consulted before every first claim for one dedup window.
    pub async fn keep_epoch(&self, audit_is_empty: bool) -> Result<(), LedgerError> {
        let mut connection = self.connection.last();
        // By Redis's own clock, which the script goes by.
        let make = Script::new(
            "local until_asked = tonumber(ARGV[1])
             if until_asked > 0 then until_asked = until_asked + redis.call('TIME')[1] * 1000 end
             return redis.call('SET', KEYS[1], string.format('%.0f', until_asked), 'NX')",
        );
        let ask_for = if audit_is_empty { 0 } else { millis(self.windows.dedup) };
        let mut make = make.key(EPOCH);
        let made: Option<String> =
            make.arg(ask_for).invoke_async(&mut connection).await.map_err(failed)?;
        if made.is_some() && !audit_is_empty {
            tracing::warn!(
                "the ledger has no epoch: the audit is consulted before each first claim"
            );
        }
        Ok(())
    }

    /// What the living instances of this deployment said of themselves.
    pub async fn instances(&self) -> Result<Vec<String>, LedgerError> {
        self.say("", "").await
    }

    /// Says something of an instance. It counts for as long as the instance counts as alive.
    pub async fn say_of_instance(&self, instance: &str, said: &str) -> Result<(), LedgerError> {
        self.say(instance, said).await.map(drop)
    }

    /// The instance has ended.
    pub async fn forget_instance(&self, instance: &str) -> Result<(), LedgerError> {
        self.say(instance, "").await.map(drop)
    }

    async fn say(&self, instance: &str, said: &str) -> Result<Vec<String>, LedgerError> {
        let mut connection = self.connection.last();
        let deployment = self.deployment.as_ref().map_or("", |deployment| &deployment.key);
        let mut call = self.instances.key(format!("usher:instances:{deployment}"));
        call.arg(instance).arg(said).arg(millis(self.windows.instance_ttl));
        call.invoke_async(&mut connection).await.map_err(failed)
    }

    /// Redis's time, in Unix milliseconds.
    pub async fn time(&self) -> Result<i64, LedgerError> {
        let mut connection = self.connection.last();
        let time: (i64, i64) =
            redis::cmd("TIME").query_async(&mut connection).await.map_err(failed)?;
        Ok(time.0 * 1000 + time.1 / 1000)
    }

    pub async fn has_epoch(&self) -> Result<bool, LedgerError> {
        let mut connection = self.connection.last();
        redis::cmd("EXISTS").arg(EPOCH).query_async(&mut connection).await.map_err(failed)
    }

    /// The record of a delivery's outcome, if there is one.
    pub async fn record(&self, delivery: &DeliveryId) -> Result<Option<String>, LedgerError> {
        let known = self.entry(delivery).await?;
        let record = known.as_deref().and_then(|entry| entry.split('\n').nth(RECORD_LINE));
        Ok(record.filter(|record| !record.is_empty()).map(ToOwned::to_owned))
    }

    /// Replaces the record of a delivery by what `rewrite` returns. Returns whether a record was
    /// replaced. Its expiry stays.
    pub async fn rewrite_record(
        &self,
        delivery: &DeliveryId,
        rewrite: impl Fn(&str) -> Option<String> + Send + Sync,
    ) -> Result<bool, LedgerError> {
        // Compare-and-set: only if the entry is unchanged.
        let swap = Script::new(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then
               redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
               return 1
             end
             return 0",
        );
        let mut connection = self.connection.last();
        loop {
            let Some(known) = self.entry(delivery).await? else { return Ok(false) };
            let mut lines: Vec<&str> = known.split('\n').collect();
            let Some(record) = lines.get_mut(RECORD_LINE) else { return Ok(false) };
            let to_rewrite = Some(&**record).filter(|record| !record.is_empty());
            let Some(rewritten) = to_rewrite.and_then(&rewrite) else { return Ok(false) };
            *record = &rewritten;
            let mut call = swap.key(key(delivery));
            let call = call.arg(&known).arg(lines.join("\n"));
            if call.invoke_async(&mut connection).await.map_err(failed)? {
                return Ok(true);
            }
        }
    }

    async fn entry(&self, delivery: &DeliveryId) -> Result<Option<String>, LedgerError> {
        let mut connection = self.connection.last();
        redis::cmd("GET").arg(key(delivery)).query_async(&mut connection).await.map_err(failed)
    }
}

#[async_trait]
impl Ledger for RedisLedger {
    async fn apply(&self, delivery: &DeliveryId, input: Input) -> Result<Reply, LedgerError> {
        self.claim_for_deployment().await?;
        let met = self.met().server;
        let submitted =
            Submitted { delivery: delivery.clone(), input, open: self.open.clone(), met };
        let answer = self.inputs.submit(submitted).await.map_err(failed)?.map_err(failed)?;
        let reply = decode_reply(&answer)?;
        if reply == Reply::Recovering {
            self.moved.notify_one();
        }
        Ok(reply)
    }

    async fn admit(
        &self,
        recipient_hash: &str,
        limit: RateLimit,
    ) -> Result<Admission, LedgerError> {
        let mut connection = self.connection.last();
        let mut call = self.rate.key(format!("usher:rate:{recipient_hash}"));
        call.arg(limit.interval_ms()).arg(limit.period_ms());
        let wait: u64 = call.invoke_async(&mut connection).await.map_err(failed)?;
        Ok(match wait {
            0 => Admission::Now,
            wait => Admission::After(Duration::from_millis(wait)),
        })
    }

    async fn renew(&self, instance: &str) -> Result<(), LedgerError> {
        // Renewals are frequent enough to check the certificates, and rare enough.
        let mut connection = self.connection.current();
        let mut call = self.renew.key(format!("usher:instance:{instance}"));
        call.key(format!("usher:absent:{instance}")).key(CLOCK).key(EPOCH);
        call.arg(millis(self.windows.instance_ttl)).arg(clock::now().as_millisecond());
        call.arg(millis(STEADY)).arg(millis(self.windows.dedup));
        let renewed = call.invoke_async(&mut connection).await;
        let jump: i64 = renewed.map_err(failed)?;
        if jump.unsigned_abs() > STEADY.as_millis() as u64 {
            tracing::error!(
                jump_s = jump / 1000,
                "Redis's clock has jumped: the audit is consulted before each first claim"
            );
        }
        Ok(())
    }

    fn generation(&self) -> u64 {
        self.met().generation
    }

    async fn mark_waiting(
        &self,
        mark: &WaitingMark,
        keys: &[String],
        kept: Duration,
    ) -> Result<(), LedgerError> {
        if !self.marks.allows(kept, mark.at) {
            return Ok(());
        }
        let mark = serde_json::to_string(mark).map_err(failed)?;
        let mut call = self.waiting.prepare_invoke();
        for key in keys {
            call.key(waiting_key(key));
        }
        call.arg(mark).arg(millis(kept)).arg(MOST_IN_LIST);
        let mut connection = self.connection.last();
        call.invoke_async(&mut connection).await.map_err(failed)
    }

    async fn waiting(&self, key: &str) -> Result<Vec<WaitingMark>, LedgerError> {
        let mut connection = self.connection.last();
        let mut found = redis::cmd("GET");
        let found: Option<String> =
            found.arg(waiting_key(key)).query_async(&mut connection).await.map_err(failed)?;
        let marks = match found {
            None => Vec::new(),
            Some(mark) if mark.starts_with('{') => vec![Some(mark)],
            Some(list) => {
                let mut all = redis::pipe();
                for mark in list.lines() {
                    all.cmd("GET").arg(mark);
                }
                all.query_async(&mut connection).await.map_err(failed)?
            }
        };
        // Those of another version that can't be read are none.
        Ok(marks.iter().flatten().filter_map(|mark| serde_json::from_str(mark).ok()).collect())
    }
}

/// The recovery on a server that is not known, in the order of its steps.
impl RedisLedger {
    /// Which server this is, and whether its claims are open.
    pub async fn look_at_server(&self, before: &str) -> Result<Recovery, LedgerError> {
        self.recover(before, None, None).await
    }

    /// From now on this instance's claims count on this server. What was claimed and asked before is void.
    pub fn meet(&self, server: &str) {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        *met = Met { server: server.into(), generation: met.generation + 1 };
    }

    /// The instance has written again what it has latched under these names, the newest first.
    pub async fn mark(&self, instance: &str, names: &[Arc<str>]) -> Result<Recovery, LedgerError> {
        let met = self.met();
        self.recover(&met.server, Some((instance, names)), None).await
    }

    /// Opens the claims if these instances have marked themselves, or the grace is over.
    pub async fn end_grace(&self, instances: &[String]) -> Result<Recovery, LedgerError> {
        let met = self.met();
        self.recover(&met.server, None, Some(instances)).await
    }

    /// Returns once an input has found that the server is not the one that was met, or recovers.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    fn met(&self) -> Met {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn recover(
        &self,
        before: &str,
        mark: Option<(&str, &[Arc<str>])>,
        wait_for: Option<&[String]>,
    ) -> Result<Recovery, LedgerError> {
        let mut connection = self.connection.last();
        let mut call = self.recover.key(&*self.open);
        call.key(format!("{}:recovery", self.open)).key(EPOCH);
        let (instance, names) = mark.unwrap_or_default();
        call.arg(before).arg(instance).arg(flag(wait_for.is_some()));
        call.arg(millis(self.windows.grace())).arg(millis(self.windows.dedup));
        let wait_for = wait_for.unwrap_or_default();
        call.arg(wait_for.len()).arg(wait_for);
        for name in names {
            call.arg(&**name);
        }
        let answer = call.invoke_async(&mut connection).await;
        let (server, stage, waited, marked, missing): (String, String, u64, u64, u64) =
            answer.map_err(failed)?;
        let stage = match &*stage {
            "open" => Stage::Open,
            "opened" => Stage::Opened,
            _ => Stage::Recovering,
        };
        Ok(Recovery { server, stage, waited: Duration::from_millis(waited), marked, missing })
    }
}

/// The script call that applies these inputs in turn.
fn call(script: &str, inputs: &[Submitted], windows: Windows) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script).arg(inputs.len());
    for submitted in inputs {
        call.arg(key(&submitted.delivery));
    }
    // The same for all.
    call.arg(inputs.first().map_or("", |submitted| &submitted.open));
    for Submitted { input, met, .. } in inputs {
        encode_input(&mut call, input, met, windows);
    }
    call
}

/// Encodes an input for the script.
fn encode_input(call: &mut Cmd, input: &Input, met: &str, windows: Windows) {
    let kept = [millis(windows.dedup), millis(windows.dedup_derived)];
    match input {
        Input::Claim(claim) => {
            call.arg("claim").arg(met).arg(&claim.owner.instance).arg(claim.owner.token);
            call.arg(&claim.event).arg(claim.attempt);
            call.arg(flag(claim.fresh)).arg(flag(claim.audit_is_silent)).arg(claim.tried);
            call.arg(flag(claim.derived));
            call.arg(flag(claim.alone)).arg(SUSPECT_CLAIMS).arg(MAX_CLAIMS);
            call.arg(millis(windows.gone_after));
        }
        Input::Latch { owner, fence, relay } => {
            call.arg("latch").arg(met).arg(&owner.instance).arg(owner.token).arg(fence);
            call.arg(relay.as_deref().unwrap_or_default());
        }
        Input::Reclaim(claim) => {
            let state = if claim.state == State::Unknown { "unknown" } else { "sending" };
            call.arg("reclaim").arg(met).arg(&claim.owner.instance).arg(claim.owner.token);
            call.arg(&claim.event).arg(claim.attempt).arg(claim.fence).arg(state);
            call.arg(claim.relay.as_deref().unwrap_or_default()).arg(flag(claim.derived));
        }
        Input::Decide { owner, fence, next, record } => {
            let (name, attempt) = encode_next_step(*next);
            call.arg("decide").arg(&owner.instance).arg(owner.token).arg(fence);
            call.arg(name).arg(attempt).arg(record);
        }
        Input::Republished { attempt, next } => {
            let (name, to_come) = encode_next_step(*next);
            call.arg("handed").arg(attempt).arg(name).arg(to_come).arg(&kept);
        }
        Input::Suppress { owner, fence, record } => {
            call.arg("suppress").arg(&owner.instance).arg(owner.token).arg(fence);
            call.arg(record).arg(&kept);
        }
        Input::Sent { event, attempt, record, derived } => {
            call.arg("sent").arg(event).arg(attempt).arg(record).arg(flag(*derived)).arg(&kept);
        }
    }
}

/// Calls the script; loads it first if Redis doesn't have it.
async fn apply_all(
    mut connection: Connection,
    call: Cmd,
    count: usize,
) -> Vec<RedisResult<String>> {
    let unknown = ErrorKind::Server(ServerErrorKind::NoScript);
    let mut answers: RedisResult<Vec<String>> = call.query_async(&mut connection).await;
    if answers.as_ref().is_err_and(|error| error.kind() == unknown) {
        let mut load = redis::pipe();
        load.cmd("SCRIPT").arg("LOAD").arg(SCRIPT).ignore().add_command(call);
        answers = load.query_async(&mut connection).await.map(|(answers,)| answers);
    }
    match answers {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}

fn deployment_key(deployment: &str) -> String {
    format!("usher:deployment:{deployment}")
}

fn open_key(deployment: &str) -> String {
    format!("usher:ledger:open:{deployment}")
}

fn key(delivery: &DeliveryId) -> String {
    format!("usher:ledger:{delivery}")
}

fn waiting_key(key: &str) -> String {
    format!("usher:waiting:{key}")
}

fn encode_next_step(next: NextStep) -> (&'static str, u32) {
    match next {
        NextStep::Retry(attempt) => ("retry", attempt),
        NextStep::Dead => ("dead", 0),
        NextStep::Park => ("park", 0),
        NextStep::Poison => ("poison", 0),
    }
}

fn decode_reply(answer: &str) -> Result<Reply, LedgerError> {
    let parts: Vec<&str> = answer.split('\n').collect();
    let text = |index: usize| match parts.get(index) {
        Some(part) => Ok(*part),
        None => Err(LedgerError(anyhow::anyhow!("the script's answer is too short"))),
    };
    let number =
        |index: usize| -> Result<u64, LedgerError> { text(index)?.parse().map_err(failed) };
    let small = |index: usize| -> Result<u32, LedgerError> { text(index)?.parse().map_err(failed) };
    let record = |index: usize| -> Result<Option<String>, LedgerError> {
        Ok(Some(text(index)?.to_owned()).filter(|record| !record.is_empty()))
    };
    Ok(match text(0)? {
        "granted" => Reply::Granted { fence: number(1)?, attempt: small(2)? },
        "crash_loop" => Reply::CrashLoop { fence: number(1)?, claims: small(2)? },
        "unresolved" => {
            Reply::Unresolved { fence: number(1)?, attempt: small(2)?, relay: record(3)? }
        }
        "busy" => Reply::Busy,
        "suspect" => Reply::Suspect,
        "recovering" => Reply::Recovering,
        "ask_audit" => Reply::AskAudit,
        "lost" => Reply::Lost,
        "absent" => Reply::Absent,
        "done" => Reply::Done { record: record(1)? },
        "duplicate" => Reply::Duplicate { record: record(1)? },
        "hand_off" => {
            let next = match text(1)? {
                "retry" => NextStep::Retry(small(2)?),
                "dead" => NextStep::Dead,
                "park" => NextStep::Park,
                _ => NextStep::Poison,
            };
            Reply::Republish { next, attempt: small(3)?, record: text(4)?.to_owned() }
        }
        "error" => return Err(LedgerError(anyhow::Error::msg(text(1)?.to_owned()))),
        other => return Err(LedgerError(anyhow::anyhow!("the script answered {other:?}"))),
    })
}

fn failed(error: impl Into<anyhow::Error>) -> LedgerError {
    LedgerError(error.into())
}

fn flag(set: bool) -> u8 {
    u8::from(set)
}
