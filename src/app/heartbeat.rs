//! Renews this instance's key in Redis, and keeps the ledger's epoch.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::services::Services;
use crate::{
    audit::{Audit, store::MongoAudit},
    config::Settings,
    health::Health,
    ledger::{Ledger, LedgerError, redis::RedisLedger},
    supervisor::{Supervisor, Task},
};

#[derive(Clone)]
pub(super) struct Heartbeat {
    ledger: Arc<RedisLedger>,
    audit: Arc<MongoAudit>,
    instance: String,
    renewal: Duration,
    health: Health,
}

impl Heartbeat {
    pub(super) fn build(
        settings: &Settings,
        services: &Services,
        instance: String,
        health: &Health,
    ) -> Self {
        Self {
            ledger: services.ledger.clone(),
            audit: services.audit.clone(),
            instance,
            renewal: settings.instance_renewal,
            health: health.clone(),
        }
    }

    pub(super) fn spawn(self, supervisor: &Supervisor, end: &CancellationToken) -> JoinHandle<()> {
        supervisor.spawn_forever(Task::InstanceHeartbeat, end, move || self.clone().run())
    }

    async fn run(self) {
        let Self { ledger, audit, instance, renewal, health } = self;
        let mut ticks = interval(renewal);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (renewing, asking) = (health.redis.when("renewing"), health.mongodb.when("asking"));
        loop {
            ticks.tick().await;
            let renewed = async {
                ledger.renew(&instance).await?;
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
