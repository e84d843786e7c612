//! Signs how long the audit's logs are, and takes that out of MongoDB.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::store::MongoAudit,
    config::Settings,
    supervisor::{Supervisor, Task},
};

pub(super) fn spawn(
    settings: &Settings,
    audit: &Arc<MongoAudit>,
    supervisor: &Supervisor,
    end: &CancellationToken,
) {
    if settings.checkpoint_key.is_none() {
        return;
    }
    let (settings, audit) = (settings.clone(), audit.clone());
    supervisor.spawn_forever(Task::Checkpoints, end, move || run(settings.clone(), audit.clone()));
}

async fn run(settings: Settings, audit: Arc<MongoAudit>) {
    let mut ticks = interval(settings.checkpoint_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match audit.checkpoint().await {
            Ok(notes) => publish(&settings, &notes).await,
            Err(error) => tracing::warn!(%error, "no checkpoint of the audit was stored"),
        }
    }
}

/// Closes the logs of this instance.
pub(super) async fn close(settings: &Settings, audit: &MongoAudit) {
    match audit.close_logs().await {
        Ok(notes) => publish(settings, &notes).await,
        Err(error) => {
            tracing::warn!(%error, "the logs of the audit are not closed; another instance will");
        }
    }
}

async fn publish(settings: &Settings, notes: &[String]) {
    for note in notes {
        tracing::info!(note, "checkpoint of the audit");
    }
    let Some(path) = settings.checkpoint_file.clone().filter(|_| !notes.is_empty()) else { return };
    let notes = notes.to_vec();
    let appended = tokio::task::spawn_blocking(move || append(&path, &notes)).await;
    if let Err(error) = appended.unwrap_or_else(|panicked| Err(panicked.into())) {
        tracing::error!(%error, "CHECKPOINT_FILE can't be written");
    }
}

/// One JSON object for each checkpoint, durable when this returns.
fn append(path: &Path, notes: &[String]) -> std::io::Result<()> {
    let mut lines = String::new();
    for note in notes {
        lines.push_str(&serde_json::json!({"note": note}).to_string());
        lines.push('\n');
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // In one write, so that instances may share the file.
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}
