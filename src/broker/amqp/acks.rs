//! Acknowledgements of one channel, gathered: the broker is woken once for many of them.

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

use super::in_time;

/// How long what is done waits for others. A process that ends meanwhile has it delivered again, and
/// the ledger knows it.
const GATHER: Duration = Duration::from_millis(5);
/// With less than so many messages out at once, waiting would keep others from coming.
const WORTH_WAITING: u16 = 64;

/// What is to become of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is done with.
    Ack,
    /// It goes back to its queue.
    Requeue,
}

/// Takes what is settled on one channel; dropped, all the rest is told to the broker.
#[derive(Clone)]
pub(super) struct Acks(UnboundedSender<(u64, Settled)>);

impl Acks {
    /// For a channel with so many messages out at once, and the task that ends when the last copy of
    /// this is dropped and everything is told.
    pub(super) fn new(channel: Channel, prefetch: u16, queue: String) -> (Self, JoinHandle<()>) {
        let (acks, settled) = unbounded_channel();
        let wait = if prefetch < WORTH_WAITING { Duration::ZERO } else { GATHER };
        (Self(acks), tokio::spawn(tell(channel, settled, wait, queue)))
    }

    pub(super) fn settle(&self, tag: u64, settled: Settled) {
        // The task ends only after the last of these.
        let _ = self.0.send((tag, settled));
    }
}

async fn tell(
    channel: Channel,
    mut settled: UnboundedReceiver<(u64, Settled)>,
    wait: Duration,
    queue: String,
) {
    let mut prefix = Prefix::default();
    while let Some(first) = settled.recv().await {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let mut batch = vec![first];
        while let Ok(next) = settled.try_recv() {
            batch.push(next);
        }
        let orders = prefix.orders(&batch);
        // All at once, so that they go out in one write.
        let told = orders.into_iter().map(|(tag, order)| {
            let channel = &channel;
            async move {
                match order {
                    Order::Ack { multiple } => {
                        in_time(channel.basic_ack(tag, BasicAckOptions { multiple })).await
                    }
                    Order::Requeue => {
                        let requeue = BasicNackOptions { requeue: true, multiple: false };
                        in_time(channel.basic_nack(tag, requeue)).await
                    }
                }
            }
        });
        for error in join_all(told).await.into_iter().filter_map(Result::err) {
            // Of an old generation: the broker delivers it again, and the ledger knows it.
            tracing::debug!(queue, %error, "a message could not be settled");
        }
        for _ in batch {
            crash_point!("after_ack");
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Ack { multiple: bool },
    Requeue,
}

/// Up to where everything is settled: tags count from 1 on each channel (AMQP 0-9-1, section 1.1).
#[derive(Debug, Default)]
struct Prefix {
    /// The last tag that was settled.
    highest: u64,
    /// What is still out before it: no more than the prefetch, however long one of them takes.
    missing: BTreeSet<u64>,
}

impl Prefix {
    /// What to tell the broker. One acknowledgement covers all up to where nothing is missing.
    fn orders(&mut self, batch: &[(u64, Settled)]) -> Vec<(u64, Order)> {
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
            batch.iter().filter(|(_, settled)| *settled == Settled::Ack).map(|(tag, _)| *tag);
        let (within, beyond): (Vec<u64>, Vec<u64>) = acked.partition(|tag| *tag <= end);
        let requeued = batch.iter().filter(|(_, settled)| *settled == Settled::Requeue);
        // First, or they would be covered by the acknowledgement.
        let mut orders: Vec<_> = requeued.map(|(tag, _)| (*tag, Order::Requeue)).collect();
        // The last one that the broker has still out: it refuses to settle another.
        orders.extend(
            within.iter().max().map(|tag| (*tag, Order::Ack { multiple: within.len() > 1 })),
        );
        orders.extend(beyond.into_iter().map(|tag| (tag, Order::Ack { multiple: false })));
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(tags: &[u64]) -> Vec<(u64, Settled)> {
        tags.iter().map(|tag| (*tag, Settled::Ack)).collect()
    }

    const ONE: Order = Order::Ack { multiple: false };
    const ALL: Order = Order::Ack { multiple: true };

    #[test]
    fn one_acknowledgement_covers_all_up_to_the_first_that_is_missing() {
        let mut prefix = Prefix::default();
        assert_eq!(prefix.orders(&acks(&[2, 1, 3])), [(3, ALL)]);
        assert_eq!(prefix.orders(&acks(&[4])), [(4, ONE)]);
        assert_eq!(prefix.orders(&acks(&[7, 6])), [(7, ONE), (6, ONE)]);
        // 6 and 7 are told already, so the broker would refuse a second time.
        assert_eq!(prefix.orders(&acks(&[5])), [(5, ONE)]);
        assert_eq!(prefix.orders(&acks(&[10, 8, 9, 12])), [(10, ALL), (12, ONE)]);
        assert_eq!(prefix.orders(&acks(&[11])), [(11, ONE)]);
        assert_eq!(prefix.orders(&acks(&[13])), [(13, ONE)]);
    }

    #[test]
    fn one_that_takes_long_makes_nothing_grow() {
        let mut prefix = Prefix::default();
        for tag in 2..10_000 {
            assert_eq!(prefix.orders(&acks(&[tag])), [(tag, ONE)]);
            assert_eq!(prefix.missing.len(), 1);
        }
        assert_eq!(prefix.orders(&acks(&[1, 10_000])), [(10_000, ALL)]);
        assert!(prefix.missing.is_empty());
    }

    #[test]
    fn what_goes_back_is_never_covered() {
        let mut prefix = Prefix::default();
        let mut batch = acks(&[1, 3]);
        batch.push((2, Settled::Requeue));
        assert_eq!(prefix.orders(&batch), [(2, Order::Requeue), (3, ALL)]);
        assert_eq!(prefix.orders(&[(4, Settled::Requeue)]), [(4, Order::Requeue)]);
        assert_eq!(prefix.orders(&acks(&[5, 6])), [(6, ALL)]);
    }
}
