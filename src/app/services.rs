//! RabbitMQ, Redis and MongoDB, and what stands on them.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    configuration::{self, Configuration},
    pipeline::Backends,
    telemetry::Telemetry,
};
use crate::{
    api::{
        feed::{ChangeStreams, Feed},
        outbox::{MongoRequests, Outbox},
    },
    audit::{SuppressionList, store::MongoAudit},
    broker::amqp::{AmqpBroker, Topology},
    clients::mongo::{Refused, connect},
    config::Settings,
    failure::Failure,
    health::{Backoff, Health},
    ledger::{
        InstanceName,
        redis::{ForeignLedger, RedisLedger},
    },
    metrics::Metrics,
    reason::{explained, of_mongodb},
    routing::{Identity, RoutingTable},
    scheduler::mongo::MongoScheduler,
    status_events::StatusEvents,
    stream_source::StreamSource,
    supervisor::{Supervisor, Task},
};

/// How long the start waits for Redis and MongoDB to say whose they are.
const FOREIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// An index of a large collection takes minutes to build.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(600);

/// Each connects when it is needed: a service that is down is waited for.
pub(super) struct Services {
    pub(super) ledger: Arc<RedisLedger>,
    pub(super) audit: Arc<MongoAudit>,
    pub(super) scheduler: Arc<MongoScheduler>,
    pub(super) broker: Arc<AmqpBroker>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) stream_source: Option<Arc<StreamSource>>,
    pub(super) feed: Option<Feed>,
    pub(super) suppressions: Arc<SuppressionList>,
}

impl Services {
    pub(super) async fn build(
        configuration: &Configuration,
        topology: Arc<Topology>,
        telemetry: &Telemetry,
        instance: &str,
        supervisor: &Supervisor,
    ) -> Result<Self, Failure> {
        let (settings, metrics) = (&configuration.settings, &telemetry.metrics);
        let ledger = configuration::open_ledger(settings, supervisor)?;
        let audit =
            configuration::open_chained_audit(settings, instance, metrics.clone(), supervisor);
        let audit = audit.await?;
        let scheduler = MongoScheduler::new(audit.database(), supervisor);
        let identity = Identity::new(settings.pepper.expose());
        let broker =
            AmqpBroker::new(settings.rabbitmq.clone(), topology, identity).with_metrics(metrics);
        let broker = Arc::new(broker);
        let outbox = Outbox::new(
            MongoRequests::new(audit.database(), settings.audit_retention),
            broker.clone(),
            telemetry.health.rabbitmq.clone(),
            &configuration.routing,
        );
        Ok(Self {
            ledger: Arc::new(ledger),
            audit: Arc::new(audit),
            scheduler: Arc::new(scheduler),
            outbox: Arc::new(outbox),
            stream_source: stream_source(configuration, &broker, telemetry)?,
            feed: feed(configuration).await?,
            suppressions: Arc::default(),
            broker,
        })
    }

    /// Ends the start if Redis has the ledger of another deployment, or MongoDB its instances. While Redis
    /// does not answer, each use of the ledger checks first.
    pub(super) async fn refuse_other_deployments(&self) -> Result<(), Failure> {
        let claim = timeout(FOREIGN_TIMEOUT, self.ledger.claim_for_deployment());
        let look = timeout(FOREIGN_TIMEOUT, self.audit.foreign_instance(crate::clock::now()));
        let (claimed, foreign) = tokio::join!(claim, look);
        match (claimed, foreign) {
            (Ok(Err(error)), _) if error.0.is::<ForeignLedger>() => {
                Err(Failure::config(format!("REDIS_URL: {}", explained(&error.0))))
            }
            (_, Ok(Ok(Some(foreign)))) => Err(Failure::config(format!("MONGODB_URI: {foreign}"))),
            _ => Ok(()),
        }
    }

    pub(super) fn backends(
        &self,
        settings: &Settings,
        instance: &str,
        claims_as: &Arc<InstanceName>,
        supervisor: &Supervisor,
    ) -> Backends {
        let status_events = settings
            .status_events
            .then(|| Arc::new(StatusEvents::new(self.broker.clone(), instance, supervisor)));
        Backends {
            instance: instance.to_owned(),
            claims_as: claims_as.clone(),
            ledger: self.ledger.clone(),
            audit: self.audit.clone(),
            scheduler: self.scheduler.clone(),
            broker: self.broker.clone(),
            status_events,
            suppressions: self.suppressions.clone(),
        }
    }

    /// Makes indexes and views as soon as MongoDB answers.
    pub(super) fn prepare_database(
        &self,
        supervisor: &Supervisor,
        routing: &RoutingTable,
        health: &Health,
    ) {
        let stores = (self.audit.clone(), self.scheduler.clone(), self.outbox.clone());
        let (correlation, health) = (routing.correlation_names(), health.clone());
        supervisor.spawn_until_done(Task::DatabasePreparation, move || {
            prepare_database(stores.clone(), correlation.clone(), health.clone())
        });
    }

    /// Publishes what came by HTTP and was not published at once, until stopped.
    pub(super) fn sweep_outbox(&self, supervisor: &Supervisor, stop: &CancellationToken) {
        let (outbox, stopped) = (self.outbox.clone(), stop.clone());
        supervisor.spawn_until_stopped(Task::OutboxSweeper, stop, move || {
            outbox.clone().sweep(stopped.clone())
        });
    }

    /// Forwards entries of Redis Streams to the broker, until stopped.
    pub(super) fn forward_streams(
        &self,
        supervisor: &Supervisor,
        stop: &CancellationToken,
    ) -> Option<JoinHandle<()>> {
        let (stream_source, stopped) = (self.stream_source.clone()?, stop.clone());
        Some(supervisor.spawn_until_stopped(Task::StreamSource, stop, move || {
            let (stream_source, stop) = (stream_source.clone(), stopped.clone());
            async move { stream_source.run(stop).await }
        }))
    }

    /// Follows the audit for the listeners of the live feed, until `end` is cancelled.
    pub(super) fn feed_listeners(
        &self,
        supervisor: &Supervisor,
        end: &CancellationToken,
        metrics: &Metrics,
    ) {
        let Some(followed) = self.feed.clone() else { return };
        let (counted, metrics) = (followed.clone(), metrics.clone());
        supervisor.spawn_forever(Task::LiveFeed, end, move || followed.clone().run());
        supervisor.spawn_forever(Task::LiveFeedListeners, end, move || {
            let metrics = metrics.clone();
            counted.clone().count(move |listeners| metrics.listeners(listeners))
        });
    }
}

/// `None` where no stream is configured.
fn stream_source(
    configuration: &Configuration,
    broker: &Arc<AmqpBroker>,
    telemetry: &Telemetry,
) -> Result<Option<Arc<StreamSource>>, Failure> {
    let (settings, health) = (&configuration.settings, &telemetry.health.stream);
    let Some(stream) = &settings.stream else {
        health.unused();
        return Ok(None);
    };
    let stream_source = StreamSource::new(
        stream,
        configuration.routing.clone(),
        Identity::new(settings.pepper.expose()),
        broker.clone(),
        // Far longer than a living instance takes, unless the broker is down.
        settings.instance_ttl * 2,
        health.clone(),
        telemetry.metrics.clone(),
    );
    let stream_source =
        stream_source.map_err(|error| Failure::config(format!("STREAM_URL: {error}")))?;
    Ok(Some(Arc::new(stream_source)))
}

/// On connections of its own, which its streams keep busy; `None` without the API.
async fn feed(configuration: &Configuration) -> Result<Option<Feed>, Failure> {
    let settings = &configuration.settings;
    if settings.api.is_none() {
        return Ok(None);
    }
    let database = connect(&settings.mongodb, &settings.mongodb_database).await;
    let database = database
        .map_err(|error| Failure::config(format!("MONGODB_URI: {}", of_mongodb(&error))))?;
    let to_customers = configuration.routing.reschedule_notices().into_iter().collect();
    Ok(Some(Feed::new(ChangeStreams::new(database, to_customers))))
}

async fn prepare_database(
    (audit, scheduler, outbox): (Arc<MongoAudit>, Arc<MongoScheduler>, Arc<Outbox>),
    correlation: Vec<String>,
    health: Health,
) {
    let mut backoff = Backoff::default();
    let preparing = health.mongodb.when("preparing");
    loop {
        let prepared = prepare(&audit, &scheduler, outbox.requests(), &correlation);
        match timeout(PREPARE_TIMEOUT, prepared).await {
            Ok(Ok(refused)) => {
                for Refused { what, reason } in refused {
                    tracing::warn!(
                        what,
                        reason,
                        "MongoDB refuses to create it; usher setup does, as a user who may"
                    );
                }
                break;
            }
            Ok(Err(error)) => preparing.down(&explained(&error)),
            Err(_) => preparing.down(&format_args!("no answer within {PREPARE_TIMEOUT:?}")),
        }
        tokio::time::sleep(backoff.step()).await;
    }
    preparing.up();
}

/// Creates indexes, views and validators that are missing; gives what usher's user may not create.
pub(crate) async fn prepare(
    audit: &MongoAudit,
    scheduler: &MongoScheduler,
    requests: &MongoRequests,
    correlation: &[String],
) -> anyhow::Result<Vec<Refused>> {
    let mut refused = audit.prepare(correlation).await?;
    refused.extend(scheduler.prepare().await?);
    refused.extend(requests.prepare().await?);
    Ok(refused)
}
