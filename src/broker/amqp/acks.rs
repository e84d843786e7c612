//! Acknowledges the messages of one channel in batches, so that the broker is woken once for many
//! of them.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::with_timeout;
use crate::crash_points::panicking;

/// How long an acknowledgement waits for others. If the process ends meanwhile, the message is
/// redelivered and the ledger recognises it.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// With a smaller prefetch, waiting would keep other messages from coming.
const MIN_PREFETCH_TO_WAIT: u16 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    Ack,
    Requeue,
}

/// Collects what is settled on one channel. When it is dropped, the rest is sent to the broker.
#[derive(Clone)]
pub(super) struct Acks(UnboundedSender<(u64, Settlement)>);

impl Acks {
    /// For a channel with this prefetch. The task ends when the last clone is dropped and
    /// everything is sent.
    pub(super) fn new(channel: Channel, prefetch: u16, queue: String) -> (Self, JoinHandle<()>) {
        let (acks, settled) = unbounded_channel();
        let wait = if prefetch < MIN_PREFETCH_TO_WAIT { Duration::ZERO } else { BATCH_DELAY };
        let acking = panicking("acknowledgements", send_all(channel, settled, wait, queue));
        (Self(acks), tokio::spawn(acking))
    }

    pub(super) fn settle(&self, tag: u64, settlement: Settlement) {
        // The task outlives every sender.
        let _ = self.0.send((tag, settlement));
    }
}

async fn send_all(
    channel: Channel,
    mut settled: UnboundedReceiver<(u64, Settlement)>,
    wait: Duration,
    queue: String,
) {
    let mut prefix = SettledPrefix::default();
    while let Some(first) = settled.recv().await {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let mut batch = vec![first];
        while let Ok(next) = settled.try_recv() {
            batch.push(next);
        }
        let commands = prefix.commands(&batch);
        // Concurrently, so that they are sent in one write.
        let sending = commands.into_iter().map(|(tag, command)| {
            let channel = &channel;
            async move {
                match command {
                    Command::Ack { multiple } => {
                        with_timeout(channel.basic_ack(tag, BasicAckOptions { multiple })).await
                    }
                    Command::Requeue => {
                        let requeue = BasicNackOptions { requeue: true, multiple: false };
                        with_timeout(channel.basic_nack(tag, requeue)).await
                    }
                }
            }
        });
        for error in join_all(sending).await.into_iter().filter_map(Result::err) {
            // The channel is lost: the broker redelivers the message, and the ledger recognises it.
            tracing::debug!(queue, %error, "a message could not be settled");
        }
        for _ in batch {
            crash_point!("after_ack");
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Ack { multiple: bool },
    Requeue,
}

/// The prefix of settled delivery tags, which count from 1 on each channel (AMQP 0-9-1, section
/// 1.1).
#[derive(Debug, Default)]
struct SettledPrefix {
    /// The highest settled tag.
    highest: u64,
    /// Unsettled tags below it. They are at most as many as the prefetch, however long one message
    /// takes.
    missing: BTreeSet<u64>,
}

impl SettledPrefix {
    /// The commands for the broker. One acknowledgement covers everything before the first
    /// unsettled tag.
    fn commands(&mut self, batch: &[(u64, Settlement)]) -> Vec<(u64, Command)> {
        for (tag, _) in batch {
            if *tag > self.highest {
                self.missing.extend(self.highest + 1..*tag);
                self.highest = *tag;
            } else {
                self.missing.remove(tag);
            }
        }
        let end = self.missing.first().map_or(self.highest, |missing| missing - 1);
        let acked =
            batch.iter().filter(|(_, settled)| *settled == Settlement::Ack).map(|(tag, _)| *tag);
        let (within, beyond): (Vec<u64>, Vec<u64>) = acked.partition(|tag| *tag <= end);
        let requeued = batch.iter().filter(|(_, settled)| *settled == Settlement::Requeue);
        // Before the acknowledgement, which would otherwise cover them.
        let mut commands: Vec<_> = requeued.map(|(tag, _)| (*tag, Command::Requeue)).collect();
        // The highest tag that is still unsettled at the broker, which refuses to settle a tag
        // twice.
        commands.extend(
            within.iter().max().map(|tag| (*tag, Command::Ack { multiple: within.len() > 1 })),
        );
        commands.extend(beyond.into_iter().map(|tag| (tag, Command::Ack { multiple: false })));
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(tags: &[u64]) -> Vec<(u64, Settlement)> {
        tags.iter().map(|tag| (*tag, Settlement::Ack)).collect()
    }

    const ONE: Command = Command::Ack { multiple: false };
    const ALL: Command = Command::Ack { multiple: true };

    #[test]
    fn one_acknowledgement_covers_all_up_to_the_first_that_is_missing() {
        let mut prefix = SettledPrefix::default();
        assert_eq!(prefix.commands(&acks(&[2, 1, 3])), [(3, ALL)]);
        assert_eq!(prefix.commands(&acks(&[4])), [(4, ONE)]);
        assert_eq!(prefix.commands(&acks(&[7, 6])), [(7, ONE), (6, ONE)]);
        // 6 and 7 are settled already, so the broker would refuse them.
        assert_eq!(prefix.commands(&acks(&[5])), [(5, ONE)]);
        assert_eq!(prefix.commands(&acks(&[10, 8, 9, 12])), [(10, ALL), (12, ONE)]);
        assert_eq!(prefix.commands(&acks(&[11])), [(11, ONE)]);
        assert_eq!(prefix.commands(&acks(&[13])), [(13, ONE)]);
    }

    #[test]
    fn one_that_takes_long_makes_nothing_grow() {
        let mut prefix = SettledPrefix::default();
        for tag in 2..10_000 {
            assert_eq!(prefix.commands(&acks(&[tag])), [(tag, ONE)]);
            assert_eq!(prefix.missing.len(), 1);
        }
        assert_eq!(prefix.commands(&acks(&[1, 10_000])), [(10_000, ALL)]);
        assert!(prefix.missing.is_empty());
    }

    #[test]
    fn what_goes_back_is_never_covered() {
        let mut prefix = SettledPrefix::default();
        let mut batch = acks(&[1, 3]);
        batch.push((2, Settlement::Requeue));
        assert_eq!(prefix.commands(&batch), [(2, Command::Requeue), (3, ALL)]);
        assert_eq!(prefix.commands(&[(4, Settlement::Requeue)]), [(4, Command::Requeue)]);
        assert_eq!(prefix.commands(&acks(&[5, 6])), [(6, ALL)]);
    }
}
