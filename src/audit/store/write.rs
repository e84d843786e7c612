//! Writes records in unordered batches with majority and journal.

use std::{sync::Arc, time::Duration};

use mongodb::Collection;

use super::chain::ChainWriter;
use crate::{
    audit::Record,
    batcher::Batcher,
    clients::mongo::{InsertError, insert_all},
    metrics::{InternalEvent, Metrics},
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
        chain: Option<Arc<ChainWriter>>,
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
                let (deliveries, chain) = (deliveries.clone(), chain.clone());
                async move {
                    match chain {
                        Some(chain) => chain.write(records).await,
                        None => insert_all::<_, Record>(deliveries, records).await,
                    }
                }
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
        RecordUnstorable { record: &record, reason }.emit(&self.metrics);
        Ok(())
    }
}

/// A stub took the place of a record that MongoDB can't store.
struct RecordUnstorable<'a> {
    record: &'a Record,
    reason: &'a str,
}

impl InternalEvent for RecordUnstorable<'_> {
    fn emit(self, metrics: &Metrics) {
        metrics.record_unstorable();
        let Self { record, reason } = self;
        tracing::error!(
            delivery_id = %record.delivery_id,
            event.id = record.event.id,
            reason,
            "a record can't be stored, a stub is in its place"
        );
    }
}
