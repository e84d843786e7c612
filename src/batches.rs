//! Work for a server that is done in batches, so that many ask it at the price of one.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

/// Most questions in one batch.
const BATCH: usize = 500;

/// One batch under way at a time, so that a batch grows with the load (group commit).
pub(crate) struct Batches<Q, A> {
    questions: mpsc::Sender<(Q, oneshot::Sender<A>)>,
}

impl<Q: Send + 'static, A: Send + 'static> Batches<Q, A> {
    /// `work` answers a batch, in its order.
    pub(crate) fn new<W, F>(work: W) -> Self
    where
        W: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send,
    {
        Self::gathering(Duration::ZERO, work)
    }

    /// The same for what nobody is in a hurry for: the first question of a batch waits so long for others.
    pub(crate) fn gathering<W, F>(wait: Duration, work: W) -> Self
    where
        W: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send,
    {
        let (questions, mut asked) = mpsc::channel::<(Q, oneshot::Sender<A>)>(BATCH * 2);
        tokio::spawn(async move {
            while let Some(first) = asked.recv().await {
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                let (mut questions, mut waiting) = (vec![first.0], vec![first.1]);
                while questions.len() < BATCH
                    && let Ok((question, answer)) = asked.try_recv()
                {
                    questions.push(question);
                    waiting.push(answer);
                }
                for (answer, waiting) in work(questions).await.into_iter().zip(waiting) {
                    // Nobody waits any more when its task was aborted at the end of a drain.
                    let _ = waiting.send(answer);
                }
            }
        });
        Self { questions }
    }

    /// Asks within a batch.
    ///
    /// # Errors
    /// The batches have ended.
    pub(crate) async fn ask(&self, question: Q) -> anyhow::Result<A> {
        let (answer, answered) = oneshot::channel();
        let sent = self.questions.send((question, answer)).await;
        sent.map_err(|_| anyhow::anyhow!("the batches have ended"))?;
        Ok(answered.await?)
    }
}
