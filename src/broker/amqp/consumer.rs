//! Consuming: one channel for each queue, each message a task, prefetch the only bound.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{join_all, try_join_all},
};
use lapin::{
    Channel, Connection,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Topology,
    acks::{Acks, Settled},
    connect, headers, in_time,
    intake::{Arrival, Intake},
    say_goodbye,
};
use crate::{
    broker::Handler,
    config::Endpoint,
    event,
    health::{Backoff, Dependency},
};

/// What is put in between the broker's delivery and a second one of a message that panicked.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// A session that lasted for longer was a good one: the next failure is a new one.
const STEADY: Duration = Duration::from_secs(10);

/// Takes messages until told to stop.
pub struct Consumers {
    /// Where the broker is.
    pub server: Endpoint,
    /// What is consumed.
    pub topology: Arc<Topology>,
    /// Messages under way at once for each queue.
    pub prefetch: u16,
    /// The same for mail that must not delay other mail.
    pub prefetch_low: u16,
    /// Whether the broker answers.
    pub health: Dependency,
    /// Ends the taking; what is under way goes on.
    pub stop: CancellationToken,
    /// Ends what is under way; it goes back to the broker.
    pub abandon: CancellationToken,
    /// Everything under way.
    pub tasks: TaskTracker,
    /// The memory for messages under way: [`WORK_KIB`] places of a KiB. What was taken over a connection
    /// that is lost goes on, and the broker knows nothing of it, so its prefetch alone is no bound.
    pub places: Arc<Semaphore>,
    /// The memory for messages that were received: [`RECEIVED_BYTES`].
    pub received: Arc<Semaphore>,
}

/// Memory for messages under way, in KiB.
pub const WORK_KIB: usize = 96 * 1024;
/// What each message takes at least, in KiB: its event, its mail and its record.
const LEAST_KIB: usize = 32;
/// How often the bytes of a body are held while it is worked on: as it came, parsed, as variables, as
/// mail, encoded, on the wire.
const COPIES: usize = 10;
/// What a value takes beside its bytes, roughly.
const VALUE_BYTES: usize = 200;

/// The places that a message takes.
fn places(body: &[u8]) -> u32 {
    let bytes = body.len() * COPIES + event::values(body) * VALUE_BYTES;
    // Fewer than 2^32.
    (bytes / 1024).clamp(LEAST_KIB, WORK_KIB) as u32
}

impl Consumers {
    /// Consumes, reconnecting whenever the connection is lost, until stopped and drained.
    pub async fn run(&self, handler: Handler) {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            if let Err(error) = self.session(&handler).await {
                if began.elapsed() > STEADY {
                    backoff = Backoff::default();
                }
                self.health.down(&format_args!("{error:#}"));
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = tokio::time::sleep(backoff.step()) => {}
                }
            }
        }
        // What was taken over connections that are lost by now.
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// One connection, from its opening to its loss or to the end of the drain.
    async fn session(&self, handler: &Handler) -> anyhow::Result<()> {
        let connection = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            connected = connect(&self.server, "consume", Some(self.received.clone())) => connected?,
        };
        let (connection, intake) = connection;
        in_time(self.topology.declare(&connection)).await?;
        self.health.up();
        let queues = self.topology.consumed().map(|(queue, slowly)| {
            let prefetch = if slowly { self.prefetch_low } else { self.prefetch };
            self.consume(&connection, &intake, queue, prefetch, handler)
        });
        let channels = match try_join_all(queues).await {
            Ok(channels) => channels,
            Err(error) => {
                // Or what it holds unacknowledged would stay with it.
                say_goodbye(&connection, "starting over").await;
                return Err(error);
            }
        };
        // Stopped. A channel closes when it is dropped, and what is under way is acknowledged over
        // its own, so they stay until then.
        self.tasks.close();
        self.tasks.wait().await;
        let (channels, told): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
        join_all(told).await;
        // Everything is settled: a broker that is gone by now has lost nothing.
        say_goodbye(&connection, "drained").await;
        drop(channels);
        Ok(())
    }

    /// One queue until stopped (`Ok`, with its channel and what still tells the broker of what is done)
    /// or until its connection or its consumer is lost.
    async fn consume(
        &self,
        connection: &Connection,
        intake: &Intake,
        queue: String,
        prefetch: u16,
        handler: &Handler,
    ) -> anyhow::Result<(Channel, JoinHandle<()>)> {
        let (channel, mut consumer) = in_time(async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer =
                channel.basic_consume(queue.as_str().into(), "".into(), options, arguments).await?;
            Ok((channel, consumer))
        })
        .await?;
        let (acks, told) = Acks::new(channel.clone(), prefetch, queue.clone());
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    // What the broker has sent meanwhile goes back when the connection closes.
                    let options = BasicCancelOptions::default();
                    in_time(channel.basic_cancel(consumer.tag(), options)).await?;
                    return Ok((channel, told));
                }
                delivery = consumer.next() => delivery,
            };
            match delivery {
                Some(Ok(delivery)) => {
                    let arrival = intake.take(channel.id(), delivery.delivery_tag);
                    let wanted = places(&delivery.data);
                    let place = tokio::select! {
                        biased;
                        // Left unacknowledged, it goes back when the connection closes.
                        () = self.stop.cancelled() => continue,
                        place = self.places.clone().acquire_many_owned(wanted) => place?,
                    };
                    self.spawn((delivery, arrival), &queue, handler, place, acks.clone());
                }
                Some(Err(error)) => return Err(error.into()),
                // The queue was deleted or moved: everything is declared and consumed anew.
                None => anyhow::bail!("the consumer of {queue} was cancelled by the broker"),
            }
        }
    }

    fn spawn(
        &self,
        (mut delivery, mut arrival): (Delivery, Arrival),
        queue: &str,
        handler: &Handler,
        place: OwnedSemaphorePermit,
        acks: Acks,
    ) {
        let tag = delivery.delivery_tag;
        let message = headers::message(&mut delivery, &mut arrival, queue);
        let (handler, abandon, queue) = (handler.clone(), self.abandon.clone(), queue.to_owned());
        self.tasks.spawn(async move {
            let _memory = (place, arrival);
            let work = AssertUnwindSafe(handler(message)).catch_unwind();
            let done = tokio::select! {
                // Not acknowledged: the broker has it again once the connection is closed.
                () = abandon.cancelled() => return,
                done = work => done,
            };
            if done.is_ok() {
                acks.settle(tag, Settled::Ack);
            } else {
                tracing::error!(queue, "processing a message panicked, it goes back");
                tokio::time::sleep(AFTER_PANIC).await;
                acks.settle(tag, Settled::Requeue);
            }
        });
    }
}
