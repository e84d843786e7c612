//! Writes records in unordered batches with majority and journal.

use std::{sync::Arc, time::Duration};

use mongodb::Collection;

use crate::{
    audit::Record,
    batcher::Batcher,
    clients::mongo::{InsertError, insert_all},
    metrics::Metrics,
    supervisor::{Supervisor, Task},
};

/// How long a record waits for others to be written with. Only the acknowledgement of its message
/// waits for it.
const BATCH_DELAY: Duration = Duration::from_millis(2);

pub(super) struct Writer {
    batches: Batcher<Arc<Record>, Result<bool, InsertError>>,
    metrics: Metrics,
}

impl Writer {
    pub(super) fn new(
        deliveries: Collection<Record>,
        metrics: Metrics,
        supervisor: &Supervisor,
    ) -> Self {
        let counted = metrics.clone();
        let batches = Batcher::with_delay(
            BATCH_DELAY,
            supervisor,
            Task::AuditWriter,
            move |records: Vec<_>| {
                counted.audit_batch(records.len());
                insert_all::<_, Record>(deliveries.clone(), records)
            },
        );
        Self { batches, metrics }
    }

    /// Writes a record. Its stub replaces a record that MongoDB can't store.
    pub(super) async fn write(&self, record: Arc<Record>) -> anyhow::Result<()> {
        let Err(refused) = self.batches.submit(record.clone()).await? else { return Ok(()) };
        let InsertError::Unstorable(reason) = &refused else { return Err(refused.into()) };
        // If the stub is refused as well, the record is not at fault.
        self.batches.submit(Arc::new(record.stub(reason))).await??;
        self.metrics.record_unstorable();
        let (delivery_id, event_id) = (&record.delivery_id, &record.event.id);
        tracing::error!(%delivery_id, event.id = event_id, reason, "a record can't be stored, a stub is in its place");
        Ok(())
    }
}
