//! Signs how long the audit's logs are, and takes that out of MongoDB.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::store::MongoAudit,
    config::Settings,
    metrics::Metrics,
    status_events::{StatusEvent, StatusEvents},
    supervisor::{Supervisor, Task},
};

/// How long the broker may take for a status event. The next checkpoint says more.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where checkpoints come from and go to.
#[derive(Clone)]
pub(super) struct Checkpoints {
    pub(super) interval: Duration,
    pub(super) file: Option<PathBuf>,
    pub(super) audit: Arc<MongoAudit>,
    pub(super) status_events: Option<Arc<StatusEvents>>,
    pub(super) metrics: Metrics,
}

impl Checkpoints {
    /// `None` without a key.
    pub(super) fn build(
        settings: &Settings,
        audit: &Arc<MongoAudit>,
        status_events: Option<&Arc<StatusEvents>>,
        metrics: &Metrics,
    ) -> Option<Self> {
        settings.checkpoint_key.as_ref()?;
        Some(Self {
            interval: settings.checkpoint_interval,
            file: settings.checkpoint_file.clone(),
            audit: audit.clone(),
            status_events: status_events.cloned(),
            metrics: metrics.clone(),
        })
    }

    pub(super) fn spawn(&self, supervisor: &Supervisor, end: &CancellationToken) {
        self.metrics.checkpointed(crate::clock::now(), self.interval);
        let checkpoints = self.clone();
        supervisor.spawn_forever(Task::Checkpoints, end, move || checkpoints.clone().run());
    }

    async fn run(self) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.audit.checkpoint().await {
                Ok(notes) => self.publish(notes).await,
                Err(error) => tracing::warn!(%error, "no checkpoint of the audit was stored"),
            }
        }
    }

    /// Closes the logs of this instance.
    pub(super) async fn close(&self) {
        match self.audit.close_logs().await {
            Ok(notes) => self.publish(notes).await,
            Err(error) => {
                tracing::warn!(%error, "the logs of the audit are not closed; another instance will");
            }
        }
    }

    /// Without the file, the notes are written with the next ones.
    async fn publish(&self, notes: Vec<String>) {
        if let Err(error) = self.write(&notes).await {
            tracing::error!(%error, "CHECKPOINT_FILE can't be written");
            self.audit.put_back(notes);
            return;
        }
        for note in &notes {
            tracing::info!(note, "checkpoint of the audit");
        }
        crash_point!("after_chain_noted");
        self.metrics.checkpointed(crate::clock::now(), self.interval);
        let Some(status_events) = &self.status_events else { return };
        for event in notes.iter().filter_map(|note| StatusEvent::of_checkpoint(note)) {
            let event = Arc::new(event);
            match timeout(BROKER_TIMEOUT, status_events.publish(&event)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a checkpoint is not published as a status event");
                }
                Err(_) => tracing::warn!("a checkpoint is not published as a status event yet"),
            }
        }
    }

    async fn write(&self, notes: &[String]) -> std::io::Result<()> {
        let Some(path) = self.file.clone().filter(|_| !notes.is_empty()) else { return Ok(()) };
        let notes = notes.to_vec();
        let appended = tokio::task::spawn_blocking(move || append(&path, &notes)).await;
        appended.unwrap_or_else(|panicked| Err(panicked.into()))
    }
}

/// One JSON object for each checkpoint, durable when this returns.
fn append(path: &Path, notes: &[String]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let mut lines = String::new();
    if last_byte(path).is_ok_and(|last| last != b'\n') {
        // A full disk cut the last line short.
        lines.push('\n');
    }
    for note in notes {
        lines.push_str(&serde_json::json!({"note": note}).to_string());
        lines.push('\n');
    }
    // In one write, so that instances may share the file.
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

fn last_byte(path: &Path) -> std::io::Result<u8> {
    let (mut file, mut last) = (File::open(path)?, [0]);
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_note_after_a_line_that_was_cut_short_has_a_line_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        append(file.path(), &["one".to_owned()]).unwrap();
        file.as_file().set_len(7).unwrap();
        for note in ["one", "two"] {
            append(file.path(), &[note.to_owned()]).unwrap();
        }
        let lines = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(lines, "{\"note\"\n{\"note\":\"one\"}\n{\"note\":\"two\"}\n");
    }
}
