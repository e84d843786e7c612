//! Consumes: one channel for each queue, one task for each message, bounded by prefetch.

use std::{
    ops::Deref,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{join_all, try_join_all},
};
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SetOnce},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Topology,
    acks::{Acks, Settlement},
    close_gracefully, connect, headers,
    intake::{Arrival, Intake},
    topology::{QUEUE_ANSWER, is_away},
    with_timeout,
};
use crate::{
    broker::Handler,
    config::Endpoint,
    event,
    health::{Backoff, Dependency},
    reason::explained,
    routing::Identity,
};

/// How long a message that panicked waits before it goes back to its queue.
const PANIC_DELAY: Duration = Duration::from_secs(5);

/// Consumes messages until stopped.
pub struct Consumers {
    pub server: Endpoint,
    pub topology: Arc<Topology>,
    /// Tells usher's own messages from forged ones.
    pub identity: Identity,
    /// Prefetch of each queue.
    pub prefetch: u16,
    /// Prefetch of queues with mail that must not delay other mail.
    pub prefetch_low: u16,
    pub health: Dependency,
    /// Each queue that is consumed.
    pub queues: Vec<Dependency>,
    /// Set once messages can be processed. Nothing is received before: a kill would cost each message one of its
    /// deliveries.
    pub begin: Arc<SetOnce<()>>,
    /// Stops consuming; messages in progress are finished.
    pub stop: CancellationToken,
    /// Abandons messages in progress; they go back to the broker.
    pub abandon: CancellationToken,
    /// All messages in progress.
    pub tasks: TaskTracker,
    /// Memory for messages in progress: [`WORK_KIB`] permits of one KiB. Messages of a lost connection are
    /// finished too, and the broker does not count them, so prefetch alone is no bound.
    pub permits: Arc<Semaphore>,
    /// Memory for received messages: [`RECEIVED_BYTES`].
    pub received: Arc<Semaphore>,
}

/// Prefetch of a source queue as long as what comes was delivered before. RabbitMQ drops what it has delivered too
/// often, and a kill then counts for one message instead of a whole prefetch.
const TAKE_OVER_PREFETCH: u16 = 1;

/// Whether a queue still gives what was delivered before, to this process or to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TakeOver {
    UnderWay,
    /// Something new has come, and the consumer is cancelled.
    Ending,
    Over,
}

/// How often a queue is looked for whose node is down, while all others are consumed.
const AWAY_LOOK: Duration = Duration::from_secs(5);

/// Memory for messages in progress, in KiB.
pub const WORK_KIB: usize = 64 * 1024;
/// Least memory of a message, in KiB: its event, its mail and its record.
const LEAST_KIB: usize = 32;
/// Copies of a body that exist at most while it is processed: received, parsed, as variables, as mail,
/// encoded, on the wire.
const COPIES: usize = 10;
/// Memory of a JSON value beside its text, in bytes, roughly.
const VALUE_BYTES: usize = 200;

/// Number of permits for a message.
fn permits(body: &[u8]) -> u32 {
    let bytes = body.len() * COPIES + event::values(body) * VALUE_BYTES;
    // Less than 2^32.
    (bytes / 1024).clamp(LEAST_KIB, WORK_KIB) as u32
}

/// A connection whose session may be dropped half-way, as by a panic: messages that it holds
/// unacknowledged would stay with it for as long as one of them is under way.
struct CloseWhenDropped(Arc<Connection>);

impl Deref for CloseWhenDropped {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for CloseWhenDropped {
    fn drop(&mut self) {
        if self.0.status().connected() {
            let connection = self.0.clone();
            tokio::spawn(
                async move { close_gracefully(&connection, "the session was dropped").await },
            );
        }
    }
}

/// Starts a consumer with this prefetch, and leaves the channel's earlier ones as they are.
async fn start(channel: &Channel, queue: &str, prefetch: u16) -> lapin::Result<Consumer> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    channel.basic_consume(queue.into(), "".into(), options, arguments).await
}

impl Consumers {
    /// Consumes until stopped and drained. Reconnects whenever the connection is lost.
    pub async fn run(&self, handler: Handler) {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            if let Err(error) = self.session(&handler).await {
                self.health.down(&explained(&error));
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = tokio::time::sleep(backoff.after(began.elapsed())) => {}
                }
            }
        }
        // Messages of connections that were lost.
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// One connection: until it is lost or the drain ends.
    async fn session(&self, handler: &Handler) -> anyhow::Result<()> {
        let connection = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            connected = connect(&self.server, "consume", Some(self.received.clone())) => connected?,
        };
        let (connection, intake) = connection;
        let connection = CloseWhenDropped(Arc::new(connection));
        with_timeout(Topology::refuse_streams(self.topology.sources(), &connection)).await?;
        with_timeout(self.topology.declare(&connection)).await?;
        self.health.up();
        let queues = self.topology.consumed().map(|(queue, slowly)| {
            let prefetch = if slowly { self.prefetch_low } else { self.prefetch };
            self.consume(&connection, &intake, queue, prefetch, handler)
        });
        let channels = match try_join_all(queues).await {
            Ok(channels) => channels,
            Err(error) => {
                // Otherwise its unacknowledged messages would stay with it.
                close_gracefully(&connection, "starting over").await;
                return Err(error);
            }
        };
        // Stopped. A channel closes when it is dropped, and messages in progress are acknowledged
        // over their own channel. So the channels stay until then.
        self.tasks.close();
        self.tasks.wait().await;
        let (channels, acking): (Vec<_>, Vec<_>) = channels.into_iter().flatten().unzip();
        join_all(acking).await;
        // Everything is settled: if the broker is gone by now, nothing is lost.
        close_gracefully(&connection, "drained").await;
        drop(channels);
        Ok(())
    }

    /// A consumer of a queue, as soon as its node is up; `None` when stopped before.
    async fn subscribe(
        &self,
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> anyhow::Result<Option<(Channel, Consumer)>> {
        let name = format!("queue:{queue}");
        let health = self.queues.iter().find(|one| one.name() == name);
        loop {
            let subscribed = timeout(QUEUE_ANSWER, async {
                let channel = connection.create_channel().await?;
                let consumer = start(&channel, queue, prefetch).await?;
                Ok((channel, consumer))
            });
            let reason = match subscribed.await {
                Ok(Ok(subscribed)) => {
                    if let Some(health) = health.filter(|one| one.failures() > 0) {
                        health.up();
                    }
                    return Ok(Some(subscribed));
                }
                Ok(Err(error)) if is_away(&error) => explained(&error.into()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => format!("no answer within {QUEUE_ANSWER:?}"),
            };
            if let Some(health) = health {
                health.down(&reason);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(AWAY_LOOK) => {}
            }
            // It may have been deleted, or never been bound.
            with_timeout(self.topology.declare(connection)).await?;
        }
    }

    /// Consumes one queue. Returns `Ok` with the channel and the acknowledging task when stopped,
    /// and an error when connection or consumer is lost.
    async fn consume(
        &self,
        connection: &Connection,
        intake: &Intake,
        queue: String,
        prefetch: u16,
        handler: &Handler,
    ) -> anyhow::Result<Option<(Channel, JoinHandle<()>)>> {
        tokio::select! {
            () = self.stop.cancelled() => return Ok(None),
            () = self.begin.wait() => {}
        }
        let is_source = self.topology.sources().iter().any(|source| source.name == queue);
        let first = if is_source { prefetch.min(TAKE_OVER_PREFETCH) } else { prefetch };
        let Some((channel, mut consumer)) = self.subscribe(connection, &queue, first).await? else {
            return Ok(None);
        };
        let mut take_over = if first < prefetch { TakeOver::UnderWay } else { TakeOver::Over };
        let (acks, mut acking) = Acks::new(channel.clone(), prefetch, queue.clone());
        let mut may_be_stream = false;
        let mut is_stopping = false;
        loop {
            let delivery = tokio::select! {
                biased;
                // Without it the broker would soon send nothing more.
                ended = &mut acking => match ended {
                    Err(panicked) if panicked.is_panic() => resume_unwind(panicked.into_panic()),
                    _ => anyhow::bail!("nobody acknowledges what came from {queue}"),
                },
                () = self.stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    if take_over != TakeOver::Ending {
                        let options = BasicCancelOptions::default();
                        with_timeout(channel.basic_cancel(consumer.tag(), options)).await?;
                    }
                    // Messages that the broker has sent meanwhile go back when the connection closes, which
                    // costs each one of its deliveries. What was delivered before may have none left.
                    match take_over {
                        TakeOver::Over => return Ok(Some((channel, acking))),
                        TakeOver::UnderWay | TakeOver::Ending => continue,
                    }
                }
                delivery = consumer.next() => delivery,
            };
            match delivery {
                Some(Ok(delivery)) => {
                    if take_over == TakeOver::UnderWay && !delivery.redelivered && !is_stopping {
                        take_over = TakeOver::Ending;
                        let options = BasicCancelOptions::default();
                        with_timeout(channel.basic_cancel(consumer.tag(), options)).await?;
                    }
                    // Not more than a hint: a publisher may set this header, too.
                    if !may_be_stream && headers::has_stream_offset(&delivery.properties) {
                        may_be_stream = true;
                        tracing::error!(
                            queue,
                            "the queue seems to be a stream, whose earlier events are never delivered"
                        );
                    }
                    let arrival = intake.take(channel.id(), delivery.delivery_tag);
                    let wanted = permits(&delivery.data);
                    let permit = tokio::select! {
                        biased;
                        // Unacknowledged, it goes back when the connection closes.
                        () = self.stop.cancelled(), if take_over == TakeOver::Over => continue,
                        permit = self.permits.clone().acquire_many_owned(wanted) => permit?,
                    };
                    self.spawn((delivery, arrival), &queue, handler, permit, acks.clone());
                }
                Some(Err(error)) => return Err(error.into()),
                None if is_stopping => return Ok(Some((channel, acking))),
                None if take_over != TakeOver::Over => {
                    take_over = TakeOver::Over;
                    consumer = with_timeout(start(&channel, &queue, prefetch)).await?;
                }
                // The queue was deleted or moved: reconnect, declare and consume again.
                None => anyhow::bail!("the consumer of {queue} was cancelled by the broker"),
            }
        }
    }

    fn spawn(
        &self,
        (mut delivery, mut arrival): (Delivery, Arrival),
        queue: &str,
        handler: &Handler,
        permit: OwnedSemaphorePermit,
        acks: Acks,
    ) {
        let tag = delivery.delivery_tag;
        let message = headers::message(&mut delivery, &mut arrival, queue, &self.identity);
        let (handler, abandon, queue) = (handler.clone(), self.abandon.clone(), queue.to_owned());
        self.tasks.spawn(async move {
            let _memory = (permit, arrival);
            let work = AssertUnwindSafe(handler(message)).catch_unwind();
            let done = tokio::select! {
                // Not acknowledged: the broker redelivers it once the connection is closed.
                () = abandon.cancelled() => return,
                done = work => done,
            };
            if done.is_ok() {
                acks.settle(tag, Settlement::Ack);
            } else {
                tracing::error!(queue, "processing a message panicked, it goes back to its queue");
                tokio::time::sleep(PANIC_DELAY).await;
                acks.settle(tag, Settlement::Requeue);
            }
        });
    }
}
