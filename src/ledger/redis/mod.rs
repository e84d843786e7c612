//! The ledger in Redis: one script call for all inputs of the moment.

mod deployment;
mod recovery;
mod script;

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use redis::{RedisResult, Script};
use tokio::sync::Notify;

use self::{
    deployment::open_key,
    recovery::Met,
    script::{SCRIPT, Submitted, apply_all, call, decode_reply, key},
};
pub use self::{
    deployment::{Deployment, ForeignLedger},
    recovery::{Recovery, Stage},
};
use super::{Admission, Input, Ledger, LedgerError, MarkBudget, Reply, WaitingMark};
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

/// Line of an entry that holds the record; see the script.
const RECORD_LINE: usize = 10;

/// Most marks of deliveries that wait which are found by one key.
const MOST_IN_LIST: usize = 100;

/// Nobody has looked for expected events while no instance did for this long.
const LOOK_PAUSE: Duration = Duration::from_secs(60);
/// How long it is known when an expected event came last.
const EXPECTED_KEPT: Duration = Duration::from_secs(40 * 86_400);

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
    expected: Script,
    marks: MarkBudget,
    windows: Windows,
    met: Mutex<Met>,
    /// The server is another one than was met last, or recovers.
    moved: Notify,
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
        let rate = Script::new(include_str!("../rate.lua"));
        let renew = Script::new(include_str!("../renew.lua"));
        let recover =
            Script::new(concat!(include_str!("../server.lua"), include_str!("../recover.lua")));
        let instances = Script::new(include_str!("../instances.lua"));
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
            waiting: Script::new(include_str!("../waiting.lua")),
            expected: Script::new(include_str!("../expected.lua")),
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

    /// Sees that Redis takes writes: a replica, or a server without memory or disk, only answers reads.
    pub async fn test(&self) -> Result<(), LedgerError> {
        let mut connection = self.connection.last();
        let mut write = redis::cmd("SET");
        write.arg("usher:check").arg("").arg("PX").arg(1_000);
        write.query_async(&mut connection).await.map_err(failed)
    }

    /// What a failover would cost, where the server is not set up for one.
    pub async fn advice(&self) -> Result<Option<&'static str>, LedgerError> {
        let mut connection = self.connection.last();
        let mut info = redis::cmd("INFO");
        let told: RedisResult<String> = info.arg("replication").query_async(&mut connection).await;
        let told = match told {
            Ok(told) => told,
            Err(error) if error.code() == Some("NOPERM") => {
                return Ok(Some(
                    "its user lacks +info, so a failover goes unseen, and the audit is consulted before each first claim",
                ));
            }
            Err(error) => return Err(failed(error)),
        };
        let has = |line: &str| told.lines().any(|it| it.starts_with(line));
        // INFO has this line only with the setting.
        let can_lose = !has("connected_slaves:0") && !has("min_slaves_good_slaves:");
        Ok(can_lose.then_some(
            "it has replicas and no min-replicas-to-write, so a primary that is cut off goes on and mail can go out twice",
        ))
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

    /// The status of each living instance of this deployment.
    pub async fn instances(&self) -> Result<Vec<String>, LedgerError> {
        self.write_status("", "").await
    }

    /// Stores the status of an instance, for as long as the instance counts as alive.
    pub async fn write_instance_status(
        &self,
        instance: &str,
        status: &str,
    ) -> Result<(), LedgerError> {
        self.write_status(instance, status).await.map(drop)
    }

    /// The instance has ended.
    pub async fn forget_instance(&self, instance: &str) -> Result<(), LedgerError> {
        self.write_status(instance, "").await.map(drop)
    }

    async fn write_status(&self, instance: &str, status: &str) -> Result<Vec<String>, LedgerError> {
        let mut connection = self.connection.last();
        let deployment = self.deployment.as_ref().map_or("", |deployment| &deployment.key);
        let mut call = self.instances.key(format!("usher:instances:{deployment}"));
        call.arg(instance).arg(status).arg(millis(self.windows.instance_ttl));
        call.invoke_async(&mut connection).await.map_err(failed)
    }

    /// Tells when expected events came here last. Returns for each since when somebody has looked without a pause,
    /// and when it came last to any instance.
    pub async fn look_for_events(
        &self,
        events: &[(&str, Option<Timestamp>)],
    ) -> Result<Vec<(Timestamp, Option<Timestamp>)>, LedgerError> {
        let deployment = self.deployment.as_ref().map_or("", |deployment| &deployment.key);
        let mut call = self.expected.key(format!("usher:expected:{deployment}"));
        call.arg(millis(LOOK_PAUSE)).arg(millis(EXPECTED_KEPT));
        for (event, came) in events {
            call.arg(event).arg(came.map_or(0, Timestamp::as_millisecond));
        }
        let mut connection = self.connection.last();
        let times: Vec<i64> = call.invoke_async(&mut connection).await.map_err(failed)?;
        let pairs = times.chunks_exact(2).map(|pair| {
            let at = Timestamp::from_millisecond;
            Ok((at(pair[0])?, (pair[1] > 0).then(|| at(pair[1])).transpose()?))
        });
        pairs.collect::<Result<_, jiff::Error>>().map_err(failed)
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

fn waiting_key(key: &str) -> String {
    format!("usher:waiting:{key}")
}

fn failed(error: impl Into<anyhow::Error>) -> LedgerError {
    LedgerError(error.into())
}

fn flag(set: bool) -> u8 {
    u8::from(set)
}
