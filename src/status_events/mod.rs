//! Status events: what became of upstream's events, published to the topic exchange `usher.status`
//! before the source message is acknowledged.

mod event;
pub(crate) mod schema;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

pub use event::{Action, StatusEvent};

use crate::{
    batcher::Batcher,
    broker::{BrokerError, StatusPublisher},
    supervisor::{Supervisor, Task},
};

/// Publishes status events in batches, each with the next number of this instance.
pub struct StatusEvents {
    batches: Batcher<Arc<StatusEvent>, Result<(), BrokerError>>,
}

impl StatusEvents {
    pub fn new(
        publisher: Arc<dyn StatusPublisher>,
        instance: &str,
        supervisor: &Supervisor,
    ) -> Self {
        let (instance, last) = (Arc::<str>::from(instance), Arc::new(AtomicU64::new(0)));
        let batches = Batcher::new(supervisor, Task::StatusEvents, move |events: Vec<_>| {
            let (publisher, instance, last) = (publisher.clone(), instance.clone(), last.clone());
            async move {
                let message = |event: &Arc<StatusEvent>| {
                    event.message(&instance, || last.fetch_add(1, Ordering::Relaxed) + 1)
                };
                publisher.publish_status(events.iter().map(message).collect()).await
            }
        });
        Self { batches }
    }

    /// Publishes an event; the broker has confirmed it when this returns. The event keeps its number
    /// when it is published again after an error.
    pub async fn publish(&self, event: &Arc<StatusEvent>) -> Result<(), BrokerError> {
        self.batches.submit(event.clone()).await.map_err(BrokerError)?
    }
}
