//! Renews this instance's key in Redis, takes part in recoveries of the ledger, keeps its epoch, and compares
//! clocks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{services::Services, telemetry::Telemetry};
use crate::{
    audit::{Audit, store::MongoAudit},
    clock::{Clocks, Skew, Store},
    config::Settings,
    duration::millis,
    health::{Dependency, Health},
    ledger::{
        Input, InstanceName, Ledger, LedgerError,
        redis::{Recovery, RedisLedger, Stage},
    },
    metrics::{InternalEvent, Metrics},
    status::InstanceReporter,
    supervisor::{Supervisor, Task},
};

/// How long the start waits for the stores' clocks.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a renewal waits for one: what it renews must not expire meanwhile.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a registration in MongoDB counts for this instance, and after how long it is tried again.
const REGISTERED: Duration = Duration::from_secs(600);
const REGISTERED_AGAIN: Duration = Duration::from_secs(30);
/// How often a recovery of the ledger is looked at.
const RECOVERY_LOOK: Duration = Duration::from_millis(200);
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
        let mut ticks = interval(self.renewal);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (renewing, asking) =
            (self.health.redis.when("renewing"), self.health.mongodb.when("asking"));
        let mut standing = Standing::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.ledger.moved(), if standing.registered_until.is_some() => sleep(RECOVERY_LOOK).await,
                () = sleep(RECOVERY_LOOK), if standing.is_recovering => {}
            }
            self.clocks.look(&self.ledger, &self.audit, &self.metrics).await;
            self.register(&mut standing, &asking).await;
            let renewed = async {
                for name in self.claims_as.in_use() {
                    self.ledger.renew(&name).await?;
                }
                self.recover(&mut standing).await?;
                tell_status(&self.ledger, &self.instance, &self.reporter).await;
                if self.ledger.has_epoch().await? {
                    asking.forget();
                } else {
                    // Not waited for: to renew is more urgent than to know.
                    match self.audit.is_empty().await {
                        Ok(empty) => self.ledger.keep_epoch(empty).await?,
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

    /// Registers this instance before its first claim, since a recovery waits for registered ones. Afterwards it
    /// is seldom done again: a renewal must not wait for MongoDB.
    async fn register(&self, standing: &mut Standing, asking: &Dependency) {
        if standing.registered_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let is_first = standing.registered_until.is_none();
        let registering = self.audit.register_instance(&self.instance, crate::clock::now());
        let refused = match timeout(LOOK_TIMEOUT, registering).await {
            Ok(Ok(is_permitted)) => {
                if !is_permitted && is_first {
                    tracing::warn!(
                        "MongoDB's user may not write the collection instances: a recovery of the ledger takes its full time"
                    );
                }
                standing.registered_until = Some(Instant::now() + REGISTERED);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LOOK_TIMEOUT:?}"),
        };
        if is_first {
            asking.down(&refused);
        } else {
            standing.registered_until = Some(Instant::now() + REGISTERED_AGAIN);
        }
    }

    /// Where the server is not the one that was met: writes again what is latched, marks itself, and ends
    /// the grace when it may end.
    async fn recover(&self, standing: &mut Standing) -> Result<(), LedgerError> {
        if standing.registered_until.is_none() {
            return Ok(());
        }
        let before = standing.marked_at.clone().unwrap_or_default();
        let mut known = self.ledger.look_at_server(&before).await?;
        let is_first = standing.marked_at.is_none();
        if known.server.is_empty() {
            if is_first {
                tracing::warn!(
                    "Redis does not tell which server it is (INFO): the audit is consulted before each first claim"
                );
                standing.marked_at = Some(String::new());
            }
            return Ok(());
        }
        let is_new = before != known.server;
        if is_new || (known.stage == Stage::Recovering && !standing.is_recovering) {
            if !is_first {
                LedgerMoved.emit(&self.metrics);
                standing.has_moved = true;
                // What it had claimed there may have come back, or be lost.
                self.claims_as.change();
            }
            self.ledger.meet(&known.server);
            let latched = self.claims_as.latched();
            for (delivery, latch) in &latched {
                self.ledger.apply(delivery, Input::Reclaim(latch.clone())).await?;
            }
            standing.reclaimed = latched.len();
            known = self.ledger.mark(&self.instance, &self.claims_as.in_use()).await?;
            standing.marked_at = Some(known.server.clone());
            standing.is_recovering = known.stage == Stage::Recovering;
        }
        if known.stage == Stage::Recovering {
            let registered = timeout(LOOK_TIMEOUT / 2, self.audit.registered_instances()).await;
            // Who is registered is not known: then the grace takes its full time.
            let registered = registered.ok().and_then(Result::ok);
            let registered = registered.unwrap_or_else(|| vec!["unknown".to_owned()]);
            known = self.ledger.end_grace(&registered).await?;
        }
        if known.stage != Stage::Recovering {
            standing.is_recovering = false;
            // A new installation recovers from nothing.
            if std::mem::take(&mut standing.has_moved) || known.missing > 0 {
                let reclaimed = standing.reclaimed;
                LedgerRecovered { reclaimed, recovery: &known }.emit(&self.metrics);
            }
        }
        Ok(())
    }
}

/// Where this instance stands with the ledger.
#[derive(Default)]
struct Standing {
    /// When it registers again; `None` before the first time.
    registered_until: Option<Instant>,
    /// The server where it marked itself last; empty where Redis does not tell.
    marked_at: Option<String>,
    /// It has marked itself, and claims are not open yet.
    is_recovering: bool,
    /// From a server that it had met, or the data there are gone.
    has_moved: bool,
    /// How much it wrote again there.
    reclaimed: usize,
}

/// Tells operators how this instance is. Nothing depends on it.
async fn tell_status(ledger: &RedisLedger, instance: &str, reporter: &InstanceReporter) {
    let status = serde_json::to_string(&reporter.report()).unwrap_or_default();
    if let Err(error) = ledger.write_instance_status(instance, &status).await {
        tracing::debug!(%error, "the status of this instance was not stored");
    }
}

/// The ledger is with another server than before, or with the same one, started again or emptied.
struct LedgerMoved;

impl InternalEvent for LedgerMoved {
    fn emit(self, metrics: &Metrics) {
        metrics.ledger_moved();
        tracing::warn!(
            "Redis was started again, failed over or lost its data: claims wait until each instance has written again what it is sending"
        );
    }
}

/// Claims are open again.
struct LedgerRecovered<'a> {
    reclaimed: usize,
    recovery: &'a Recovery,
}

impl InternalEvent for LedgerRecovered<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { reclaimed, recovery: Recovery { waited, marked, missing, .. } } = self;
        metrics.ledger_reclaimed(reclaimed);
        tracing::warn!(
            reclaimed,
            waited_ms = millis(*waited),
            instances = marked,
            missing,
            "the ledger has recovered: the audit is consulted before each first claim"
        );
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
