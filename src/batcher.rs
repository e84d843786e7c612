//! Groups many calls to a server into batches.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::sleep,
};

use crate::supervisor::{Supervisor, Task};

/// Most items in one batch.
const BATCH: usize = 500;

/// Runs one batch at a time, so that batches grow with the load (group commit).
pub(crate) struct Batcher<T, R> {
    items: mpsc::Sender<Submitted<T, R>>,
}

/// An item, and who waits for its result.
type Submitted<T, R> = (T, oneshot::Sender<R>);

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// `work` returns one result for each item, in order. If it panics, each item of the batch has an
    /// error.
    pub(crate) fn new<W, F>(supervisor: &Supervisor, task: Task, work: W) -> Self
    where
        W: Fn(Vec<T>) -> F + Send + Sync + 'static,
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        Self::with_delay(Duration::ZERO, supervisor, task, work)
    }

    /// Like [`Self::new`], but the first item of a batch waits this long for others.
    pub(crate) fn with_delay<W, F>(
        wait: Duration,
        supervisor: &Supervisor,
        task: Task,
        work: W,
    ) -> Self
    where
        W: Fn(Vec<T>) -> F + Send + Sync + 'static,
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        let (items, submitted) = mpsc::channel(BATCH * 2);
        let (submitted, work) = (Arc::new(Mutex::new(submitted)), Arc::new(work));
        supervisor.spawn_until_done(task, move || {
            let (submitted, work) = (submitted.clone(), work.clone());
            async move { run_batches(&mut *submitted.lock().await, wait, &*work).await }
        });
        Self { items }
    }

    /// Submits an item and waits for its result.
    pub(crate) async fn submit(&self, item: T) -> anyhow::Result<R> {
        let (result, received) = oneshot::channel();
        let sent = self.items.send((item, result)).await;
        sent.map_err(|_| anyhow::anyhow!("the batcher has ended"))?;
        received.await.context("the batch failed")
    }
}

/// Runs batches until nobody can submit any more.
async fn run_batches<T, R, W, F>(
    submitted: &mut mpsc::Receiver<Submitted<T, R>>,
    wait: Duration,
    work: &W,
) where
    W: Fn(Vec<T>) -> F,
    F: Future<Output = Vec<R>>,
{
    while let Some(first) = submitted.recv().await {
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let (mut items, mut waiting) = (vec![first.0], vec![first.1]);
        while items.len() < BATCH
            && let Ok((item, result)) = submitted.try_recv()
        {
            items.push(item);
            waiting.push(result);
        }
        for (result, waiting) in work(items).await.into_iter().zip(waiting) {
            // The caller is gone if its task was aborted at the end of a drain.
            let _ = waiting.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_fails_its_batch_and_the_next_batch_is_run() {
        let supervisor = Supervisor::default();
        let batcher = Batcher::new(&supervisor, Task::AuditWriter, async |items: Vec<u8>| {
            assert!(!items.contains(&0), "no zero");
            items
        });
        let failed = tokio::join!(batcher.submit(1), batcher.submit(0));
        assert!(failed.0.is_err() && failed.1.is_err());
        assert!(supervisor.tasks().all()["audit_writer"].failure.is_some());
        assert_eq!(batcher.submit(2).await.unwrap(), 2);
    }
}
