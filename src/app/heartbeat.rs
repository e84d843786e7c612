//! Renews this instance's key in Redis, keeps the ledger's epoch, and compares clocks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{services::Services, telemetry::Telemetry};
use crate::{
    audit::{Audit, store::MongoAudit},
    clock::{Clocks, Skew, Store},
    config::Settings,
    health::Health,
    ledger::{InstanceName, LedgerError, redis::RedisLedger},
    metrics::{InternalEvent, Metrics},
    status::InstanceReporter,
    supervisor::{Supervisor, Task},
};

/// How long the start waits for the stores' clocks.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a renewal waits for one: what it renews must not expire meanwhile.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// A clock that is further off is wrong.
const WRONG: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Heartbeat {
    ledger: Arc<RedisLedger>,
    audit: Arc<MongoAudit>,
    instance: String,
    reporter: InstanceReporter,
    claims_as: Arc<InstanceName>,
    renewal: Duration,
    health: Health,
    metrics: Metrics,
    clocks: ClockWatch,
}

impl Heartbeat {
    pub(super) fn build(
        settings: &Settings,
        services: &Services,
        instance: String,
        reporter: InstanceReporter,
        claims_as: Arc<InstanceName>,
        telemetry: &Telemetry,
    ) -> Self {
        Self {
            ledger: services.ledger.clone(),
            audit: services.audit.clone(),
            instance,
            reporter,
            claims_as,
            renewal: settings.instance_renewal,
            health: telemetry.health.clone(),
            metrics: telemetry.metrics.clone(),
            clocks: ClockWatch::default(),
        }
    }

    pub(super) fn spawn(self, supervisor: &Supervisor, end: &CancellationToken) -> JoinHandle<()> {
        supervisor.spawn_forever(Task::InstanceHeartbeat, end, move || self.clone().run())
    }

    /// Compares clocks before anything is done by them. A store that is down is not waited for.
    pub(super) async fn first_look_at_clocks(&self) {
        let look = self.clocks.look(&self.ledger, &self.audit, &self.metrics);
        let _ = timeout(FIRST_LOOK_TIMEOUT, look).await;
    }

    async fn run(self) {
        let Self { ledger, audit, instance, reporter, claims_as, renewal, health, metrics, clocks } =
            self;
        // Which server kept the ledger at the last renewal.
        let mut server = None;
        let mut ticks = interval(renewal);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (renewing, asking) = (health.redis.when("renewing"), health.mongodb.when("asking"));
        loop {
            ticks.tick().await;
            clocks.look(&ledger, &audit, &metrics).await;
            let renewed = async {
                let met = renew(&ledger, &claims_as, server.as_deref().unwrap_or_default()).await?;
                if server.as_ref() != Some(&met) {
                    LedgerMoved { is_first: server.is_none(), is_hidden: met.is_empty() }
                        .emit(&metrics);
                    if server.replace(met).is_some() {
                        // What it had claimed there may have come back, or be lost.
                        claims_as.change();
                    }
                }
                tell_status(&ledger, &instance, &reporter).await;
                if ledger.has_epoch().await? {
                    asking.forget();
                } else {
                    // Not waited for: to renew is more urgent than to know.
                    match audit.is_empty().await {
                        Ok(empty) => ledger.keep_epoch(empty).await?,
                        Err(error) => asking.down(&error),
                    }
                }
                Ok::<(), LedgerError>(())
            };
            match renewed.await {
                Ok(()) => renewing.up(),
                Err(error) => renewing.down(&error),
            }
        }
    }
}

/// Tells operators how this instance is. Nothing depends on it.
async fn tell_status(ledger: &RedisLedger, instance: &str, reporter: &InstanceReporter) {
    let status = serde_json::to_string(&reporter.report()).unwrap_or_default();
    if let Err(error) = ledger.say_of_instance(instance, &status).await {
        tracing::debug!(%error, "the status of this instance was not stored");
    }
}

/// Renews the leases of all names that this process claims under; gives the server that took them.
async fn renew(
    ledger: &RedisLedger,
    claims_as: &InstanceName,
    before: &str,
) -> Result<String, LedgerError> {
    let mut server = String::new();
    for name in claims_as.in_use() {
        server = ledger.renew_at(&name, before).await?;
    }
    Ok(server)
}

/// The ledger is with another server than before, or with the same one, started again.
struct LedgerMoved {
    is_first: bool,
    is_hidden: bool,
}

impl InternalEvent for LedgerMoved {
    fn emit(self, metrics: &Metrics) {
        if self.is_hidden {
            tracing::warn!(
                "Redis does not tell which server it is (INFO): the audit is consulted before each first claim"
            );
        } else if !self.is_first {
            metrics.ledger_moved();
            tracing::warn!(
                "Redis was started again or failed over: the audit is consulted before each first claim"
            );
        }
    }
}

/// What is known of the clocks, and which of them were wrong at the last look.
#[derive(Clone, Default)]
struct ClockWatch(Arc<Mutex<(Clocks, BTreeMap<&'static str, bool>)>>);

impl ClockWatch {
    /// Asks the stores for their time. One that does not answer keeps the clock that it had.
    async fn look(&self, ledger: &RedisLedger, audit: &MongoAudit, metrics: &Metrics) {
        let (redis, mongodb) = tokio::join!(timed(ledger.time()), timed(audit.time()));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (clocks, wrong) = &mut *known;
        for (store, answer) in [(Store::Redis, redis), (Store::MongoDb, mongodb)] {
            if let Some((asked, answered, time)) = answer {
                clocks.heard(store, asked..answered, time);
            }
        }
        let Skew { host, redis, mongodb } = clocks.agree();
        for (clock, skew) in [("host", Some(host)), ("redis", redis), ("mongodb", mongodb)] {
            if let Some(skew_ms) = skew {
                ClockCompared { clock, skew_ms, wrong }.emit(metrics);
            }
        }
    }
}

/// A store's time, and when it was asked for and came.
async fn timed<E>(time: impl Future<Output = Result<i64, E>>) -> Option<(Instant, Instant, i64)> {
    let asked = Instant::now();
    let time = timeout(LOOK_TIMEOUT, time).await.ok()?.ok()?;
    Some((asked, Instant::now(), time))
}

struct ClockCompared<'a> {
    clock: &'static str,
    skew_ms: i64,
    /// The clocks that were compared before, and whether they were wrong.
    wrong: &'a mut BTreeMap<&'static str, bool>,
}

impl InternalEvent for ClockCompared<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { clock, skew_ms, wrong } = self;
        metrics.clock_skew(clock, skew_ms as f64 / 1000.0);
        let is_wrong = u128::from(skew_ms.unsigned_abs()) > WRONG.as_millis();
        let was_wrong = wrong.insert(clock, is_wrong).unwrap_or(false);
        if is_wrong && !was_wrong {
            tracing::error!(clock, skew_ms, "this clock is wrong: usher goes by the others");
        } else if was_wrong && !is_wrong {
            tracing::info!(clock, skew_ms, "this clock is right again");
        }
    }
}
