//! Groups many calls to a server into batches.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

/// Most items in one batch.
const BATCH: usize = 500;

/// Runs one batch at a time, so that batches grow with the load (group commit).
pub(crate) struct Batcher<T, R> {
    items: mpsc::Sender<(T, oneshot::Sender<R>)>,
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// `work` returns one result for each item, in order.
    pub(crate) fn new<W, F>(work: W) -> Self
    where
        W: Fn(Vec<T>) -> F + Send + 'static,
        F: Future<Output = Vec<R>> + Send,
    {
        Self::with_delay(Duration::ZERO, work)
    }

    /// Like [`Self::new`], but the first item of a batch waits this long for others.
    pub(crate) fn with_delay<W, F>(wait: Duration, work: W) -> Self
    where
        W: Fn(Vec<T>) -> F + Send + 'static,
        F: Future<Output = Vec<R>> + Send,
    {
        let (items, mut submitted) = mpsc::channel::<(T, oneshot::Sender<R>)>(BATCH * 2);
        tokio::spawn(async move {
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
        });
        Self { items }
    }

    /// Submits an item and waits for its result.
    pub(crate) async fn submit(&self, item: T) -> anyhow::Result<R> {
        let (result, received) = oneshot::channel();
        let sent = self.items.send((item, result)).await;
        sent.map_err(|_| anyhow::anyhow!("the batcher has ended"))?;
        Ok(received.await?)
    }
}
