//! Follows the suppression list of the database.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{SuppressionList, store::MongoAudit},
    supervisor::{Supervisor, Task},
};

/// How long a change takes to be seen, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How far the clocks of those who change the list may lie apart.
const OVERLAP: SignedDuration = SignedDuration::from_mins(1);

pub(super) fn spawn(
    audit: &Arc<MongoAudit>,
    list: &Arc<SuppressionList>,
    supervisor: &Supervisor,
    end: &CancellationToken,
) {
    let (audit, list) = (audit.clone(), list.clone());
    supervisor
        .spawn_forever(Task::SuppressionWatch, end, move || watch(audit.clone(), list.clone()));
}

async fn watch(audit: Arc<MongoAudit>, list: Arc<SuppressionList>) {
    let mut since = Timestamp::UNIX_EPOCH;
    let mut is_read = true;
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        match audit.suppressions_since(since).await {
            Ok(changed) => {
                if let Some(last) = changed.last() {
                    since = since.max(last.changed_at - OVERLAP);
                }
                list.apply(changed);
                is_read = true;
            }
            // Told once; mail goes on by what is known.
            Err(error) if is_read => {
                tracing::warn!(%error, "the suppression list can't be read");
                is_read = false;
            }
            Err(_) => {}
        }
    }
}
