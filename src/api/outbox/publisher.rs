//! From the collection to the broker: at once, or later by whoever looks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Asked, Kind, MongoRequests, Request, RequestError, State, failed};
use crate::{
    broker::amqp::AmqpBroker,
    health::{self, Backoff, Dependency},
    routing::RoutingTable,
};

/// How long the caller waits for the database, which may swallow a request without a word.
const INSERT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the caller waits for the broker; what it did not confirm by then is published later.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request is only one's own: longer than the patience, so that nobody publishes it meanwhile.
const LEASE: SignedDuration = SignedDuration::from_secs(10);
/// How often it is looked at what was not published.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Takes requests and publishes them.
pub struct Outbox {
    requests: MongoRequests,
    broker: Arc<AmqpBroker>,
    rabbitmq: Dependency,
    queues: HashMap<Kind, String>,
}

/// What became of a request that was handed in.
#[derive(Debug)]
pub enum Submitted {
    /// It is kept.
    New(Request),
    /// It was handed in before, and this is what was kept then.
    Known(Request),
    /// It was handed in before, and is being dealt with right now.
    InProgress,
    /// Another one was handed in with its id before.
    Other,
}

impl Outbox {
    /// Publishes to the queues that the routes name.
    pub fn new(
        requests: MongoRequests,
        broker: Arc<AmqpBroker>,
        rabbitmq: Dependency,
        routing: &RoutingTable,
    ) -> Self {
        let queues = Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, routing.queue_of(kind.event_type())?.to_owned())));
        Self { requests, broker, rabbitmq, queues: queues.collect() }
    }

    /// What was handed in.
    pub fn requests(&self) -> &MongoRequests {
        &self.requests
    }

    /// Whether any route asks for mail about this.
    pub fn is_wanted(&self, kind: Kind) -> bool {
        self.queues.contains_key(&kind)
    }

    /// Takes a request: it is durable when this returns, and with the broker unless that is away.
    ///
    /// # Errors
    /// It could not be kept.
    pub async fn submit(&self, asked: &Asked) -> Result<Submitted, RequestError> {
        let inserted = timeout(INSERT_PATIENCE, self.requests.insert(asked, LEASE)).await;
        let mut request = match inserted.map_err(failed)?? {
            Ok(request) => request,
            Err(known) if known.kind != asked.kind || known.body != asked.body => {
                return Ok(Submitted::Other);
            }
            Err(known) if known.state == State::Pending && known.claim_at > Timestamp::now() => {
                return Ok(Submitted::InProgress);
            }
            Err(known) => return Ok(Submitted::Known(known)),
        };
        crash_point!("after_request_kept");
        if !matches!(self.rabbitmq.state(), health::State::Down(_))
            && let Ok(true) = timeout(PATIENCE, self.publish(&request)).await
        {
            crash_point!("after_request_published");
            request.state = State::Queued;
            // Not to know it costs a second publishing, whose id the ledger knows.
            if let Err(error) = self.requests.queued(&request.id).await {
                tracing::warn!(event.id = request.id, %error, "a request could not be marked");
            }
            crash_point!("after_request_marked");
        } else if let Err(error) = self.requests.release(&request.id).await {
            tracing::warn!(event.id = request.id, %error, "a request waits for the end of its lease");
        }
        Ok(Submitted::New(request))
    }

    /// Publishes what was not, until told to stop.
    pub async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let wait = match self.sweep_once().await {
                Ok(()) => {
                    backoff = Backoff::default();
                    LOOK_AGAIN
                }
                // Whether the database answers is told by those who need it.
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
                // The others are claimed no longer than this one.
                break;
            }
            crash_point!("after_request_republished");
            self.requests.queued(&request.id).await?;
            tracing::info!(event.id = request.id, "a request was published later");
        }
        Ok(())
    }

    /// Whether the broker has it for good.
    async fn publish(&self, request: &Request) -> bool {
        let Some(queue) = self.queues.get(&request.kind) else { return false };
        match self.broker.publish_event(&request.message(queue)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(event.id = request.id, %error, "a request is to be published later");
                false
            }
        }
    }
}
