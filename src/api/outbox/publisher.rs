//! Publishes requests: at once, or later by any instance.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Kind, MongoRequests, NewRequest, Request, RequestError, State, failed};
use crate::{
    broker::amqp::AmqpBroker,
    health::{self, Backoff, Dependency},
    routing::RoutingTable,
};

/// How long a caller waits for the database, which may silently swallow a request.
const INSERT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for the broker. An unconfirmed event is published again later.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request belongs to the instance that stored it. Longer than `PUBLISH_TIMEOUT`, so
/// that nobody else publishes it meanwhile.
const LEASE: SignedDuration = SignedDuration::from_secs(10);
/// How often unpublished requests are looked up.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Stores requests and publishes them.
pub struct Outbox {
    requests: MongoRequests,
    broker: Arc<AmqpBroker>,
    rabbitmq: Dependency,
    queues: HashMap<Kind, String>,
}

fn queues_of(routing: &RoutingTable) -> HashMap<Kind, String> {
    let queue = |kind: Kind| Some((kind, routing.queue_of(kind.event_type())?.to_owned()));
    Kind::ALL.into_iter().filter_map(queue).collect()
}

/// Outcome of submitting a request.
#[derive(Debug)]
pub enum Submitted {
    /// Stored.
    New(Request),
    /// Submitted before; the stored request.
    Known(Request),
    /// Submitted before, and still in progress.
    InProgress,
    /// Another request has this id.
    Conflict,
}

impl Outbox {
    pub fn new(
        requests: MongoRequests,
        broker: Arc<AmqpBroker>,
        rabbitmq: Dependency,
        routing: &RoutingTable,
    ) -> Self {
        Self { requests, broker, rabbitmq, queues: queues_of(routing) }
    }

    /// Whether requests would go to the same queues by these routes.
    pub(crate) fn fits(&self, routing: &RoutingTable) -> bool {
        self.queues == queues_of(routing)
    }

    pub fn requests(&self) -> &MongoRequests {
        &self.requests
    }

    /// Whether a route handles this kind of request.
    pub fn is_wanted(&self, kind: Kind) -> bool {
        self.queues.contains_key(&kind)
    }

    /// Stores a request durably, and publishes it if the broker is available.
    pub async fn submit(&self, new: &NewRequest) -> Result<Submitted, RequestError> {
        let inserted = timeout(INSERT_TIMEOUT, self.requests.insert(new, LEASE)).await;
        let mut request = match inserted.map_err(failed)?? {
            Ok(request) => request,
            Err(known) if known.kind != new.kind || known.body != new.body => {
                return Ok(Submitted::Conflict);
            }
            Err(known) if known.state == State::Pending && known.claim_at > crate::clock::now() => {
                return Ok(Submitted::InProgress);
            }
            Err(known) => return Ok(Submitted::Known(known)),
        };
        crash_point!("after_request_kept");
        if !matches!(self.rabbitmq.state(), health::State::Down(_))
            && let Ok(true) = timeout(PUBLISH_TIMEOUT, self.publish(&request)).await
        {
            crash_point!("after_request_published");
            request.state = State::Queued;
            // Without the mark it is published twice, and the ledger recognises the id.
            if let Err(error) = self.requests.mark_queued(&request.id).await {
                tracing::warn!(event.id = request.id, %error, "a published request could not be marked");
            }
            crash_point!("after_request_marked");
        } else if let Err(error) = self.requests.release(&request.id).await {
            tracing::warn!(event.id = request.id, %error, "a request waits for its lease to end");
        }
        Ok(Submitted::New(request))
    }

    /// Publishes unpublished requests until stopped.
    pub async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let wait = match self.sweep_once().await {
                Ok(()) => {
                    backoff = Backoff::default();
                    POLL_INTERVAL
                }
                // The health of the database is reported elsewhere.
                Err(_) => backoff.step(),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn sweep_once(&self) -> Result<(), RequestError> {
        if matches!(self.rabbitmq.state(), health::State::Down(_)) {
            return Ok(());
        }
        for request in self.requests.claim(LEASE).await? {
            crash_point!("after_request_claimed");
            if !self.publish(&request).await {
                // The lease of the others ends at the same time.
                break;
            }
            crash_point!("after_request_republished");
            self.requests.mark_queued(&request.id).await?;
            tracing::info!(event.id = request.id, "a request was published later");
        }
        Ok(())
    }

    /// Whether the broker has confirmed it.
    async fn publish(&self, request: &Request) -> bool {
        let Some(queue) = self.queues.get(&request.kind) else { return false };
        match self.broker.publish_event(&request.message(queue)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(event.id = request.id, %error, "a request will be published later");
                false
            }
        }
    }
}
