//! The broker: RabbitMQ and embedded.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, Semaphore, SetOnce},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use usher::{
    broker::{
        Broker, DeliveryHeaders, Destination, Handler, Message, Republish,
        amqp::{AmqpBroker, Consumers, Topology},
    },
    embedded::broker::EmbeddedBroker,
    event::Properties,
    health::Dependency,
    routing::{Identity, Priority},
};

use super::{Backend, database, delivery_id, endpoint, on_both};
use crate::support::{eventually, in_time, world::World};

/// The one wait there is a queue for.
const WAIT: Duration = Duration::from_millis(300);

on_both! { rabbitmq:
    what_is_due_at_once_comes_as_it_was_republished,
    mail_of_low_priority_comes_as_it_was_republished,
    what_is_for_later_comes_after_its_wait,
    dead_letters_stay_where_they_are,
    what_is_processed_does_not_come_again,
    what_was_abandoned_comes_again_and_says_so,
}

/// A broker, and how to take from it.
struct TestBroker {
    world: Option<World>,
    embedded: Option<EmbeddedBroker>,
    broker: Box<dyn Broker>,
}

/// Somebody who takes messages.
struct Consumer {
    stop: CancellationToken,
    abandon: CancellationToken,
    task: JoinHandle<()>,
}

impl TestBroker {
    async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Embedded => {
                let broker = EmbeddedBroker::new(database());
                Self { world: None, embedded: Some(broker.clone()), broker: Box::new(broker) }
            }
            Backend::Service => {
                let world = World::new().await;
                let broker = AmqpBroker::new(endpoint(world.amqp_url()), topology(), identity());
                Self { world: Some(world), embedded: None, broker: Box::new(broker) }
            }
        }
    }

    async fn republish(&self, republish: &Republish) {
        in_time("a confirm", self.broker.republish(republish)).await.expect("a confirm");
    }

    /// Takes messages until told to stop.
    fn consume(&self, handler: Handler) -> Consumer {
        let (stop, abandon) = (CancellationToken::new(), CancellationToken::new());
        let task = match (&self.embedded, &self.world) {
            (Some(broker), _) => {
                let (broker, stop, abandon) = (broker.clone(), stop.clone(), abandon.clone());
                tokio::spawn(async move {
                    let never = CancellationToken::new();
                    broker.consume(handler, stop, abandon, never).await.expect("the file");
                })
            }
            (None, Some(world)) => {
                let consumers = Consumers {
                    queues: Vec::new(),
                    begin: Arc::new(SetOnce::new_with(Some(()))),
                    server: endpoint(world.amqp_url()),
                    topology: topology(),
                    identity: identity(),
                    prefetch: 10,
                    prefetch_low: 10,
                    health: Dependency::new("rabbitmq"),
                    stop: stop.clone(),
                    abandon: abandon.clone(),
                    tasks: TaskTracker::new(),
                    permits: Arc::new(Semaphore::new(10_000)),
                    received: Arc::new(Semaphore::new(10_000_000)),
                };
                tokio::spawn(async move { consumers.run(handler).await })
            }
            (None, None) => unreachable!("it is one of the two"),
        };
        Consumer { stop, abandon, task }
    }

    /// How many are in `usher.dead`, `usher.poison` and `usher.parked`.
    async fn aside(&self) -> [u32; 3] {
        match (&self.embedded, &self.world) {
            (Some(broker), _) => {
                let waiting = broker.waiting().await.expect("the file");
                [waiting.dead, waiting.poison, waiting.parked]
            }
            (None, Some(world)) => [
                world.broker.depth("usher.dead").await,
                world.broker.depth("usher.poison").await,
                world.broker.depth("usher.parked").await,
            ],
            (None, None) => unreachable!("it is one of the two"),
        }
    }
}

impl Consumer {
    /// Has it finish what is under way.
    async fn stop(self) {
        self.stop.cancel();
        in_time("the consumer stops", self.task).await.expect("no panic");
    }

    /// Has it hand back what is under way.
    async fn give_up(self) {
        self.abandon.cancel();
        self.stop().await;
    }
}

fn identity() -> Identity {
    Identity::new("pepper")
}

fn topology() -> Arc<Topology> {
    Arc::new(Topology::new(&[], &[WAIT]))
}

/// A delivery on its way to this place.
fn republish(destination: Destination) -> Republish {
    Republish {
        delivery_headers: DeliveryHeaders {
            delivery_id: delivery_id(),
            event_id: "e-1".to_owned(),
            route: "r".to_owned(),
            channel: "email".to_owned(),
            recipient: "ñ@example.com".to_owned(),
            attempt: 2,
            origin: "q".to_owned(),
            reason: "RCPT answered 451 ñ".to_owned(),
            masked: false,
            arrived_at: Some(Timestamp::UNIX_EPOCH),
            relay: Some("backup".to_owned()),
            template: Some("ab12".to_owned()),
            corrected: true,
        },
        destination,
        body: "{\"a\": \"ñ\"}".into(),
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            message_id: Some("m-1".to_owned()),
            correlation_id: Some("c-1".to_owned()),
            timestamp: Some(1_700_000_000),
            ..Properties::default()
        },
    }
}

/// A handler that keeps everything, and what it kept.
fn keeping() -> (Handler, Arc<Mutex<Vec<Message>>>) {
    let kept = Arc::<Mutex<Vec<Message>>>::default();
    let into = kept.clone();
    let handler: Handler = Arc::new(move |message| {
        into.lock().expect("no panic").push(message);
        Box::pin(std::future::ready(()))
    });
    (handler, kept)
}

async fn until_kept(kept: &Mutex<Vec<Message>>, count: usize) -> Vec<Message> {
    let enough = async || {
        let kept = kept.lock().expect("no panic").clone();
        (kept.len() >= count).then_some(kept)
    };
    eventually(&format!("{count} messages"), enough).await
}

async fn comes_as_it_was_republished(backend: Backend, destination: Destination) {
    let broker = TestBroker::new(backend).await;
    let (handler, kept) = keeping();
    let consumer = broker.consume(handler);
    let republished = republish(destination);
    broker.republish(&republished).await;
    let message = until_kept(&kept, 1).await.remove(0);
    assert_eq!(message.delivery_headers, Some(republished.delivery_headers));
    assert_eq!(message.body, republished.body);
    assert_eq!(message.properties, republished.properties);
    assert!(!message.redelivered);
    consumer.stop().await;
}

async fn what_is_due_at_once_comes_as_it_was_republished(backend: Backend) {
    for priority in Priority::ALL {
        comes_as_it_was_republished(backend, Destination::Later(Duration::ZERO, priority)).await;
    }
}

async fn mail_of_low_priority_comes_as_it_was_republished(backend: Backend) {
    comes_as_it_was_republished(backend, Destination::Low).await;
}

async fn what_is_for_later_comes_after_its_wait(backend: Backend) {
    let broker = TestBroker::new(backend).await;
    let (handler, kept) = keeping();
    let consumer = broker.consume(handler);
    // Where the queues have to be made first, that takes longer than the wait.
    broker.republish(&republish(Destination::Low)).await;
    until_kept(&kept, 1).await;
    let published = Timestamp::now();
    broker.republish(&republish(Destination::Later(WAIT, Priority::High))).await;
    let message = until_kept(&kept, 2).await.remove(1);
    let waited = message.received_at.duration_since(published).unsigned_abs();
    // The broker's clock has milliseconds.
    assert!(waited + Duration::from_millis(1) >= WAIT, "{waited:?}");
    consumer.stop().await;
}

async fn dead_letters_stay_where_they_are(backend: Backend) {
    let broker = TestBroker::new(backend).await;
    let (handler, kept) = keeping();
    let consumer = broker.consume(handler);
    for destination in [Destination::Dead, Destination::Poison, Destination::Parked] {
        broker.republish(&republish(destination)).await;
    }
    // What comes after them shows that they don't.
    broker.republish(&republish(Destination::Low)).await;
    until_kept(&kept, 1).await;
    let all = eventually("three dead letters", async || {
        let aside = broker.aside().await;
        (aside.iter().sum::<u32>() == 3).then_some(aside)
    });
    assert_eq!(all.await, [1, 1, 1]);
    consumer.stop().await;
    assert_eq!(kept.lock().expect("no panic").len(), 1);
}

async fn what_is_processed_does_not_come_again(backend: Backend) {
    let broker = TestBroker::new(backend).await;
    let (handler, kept) = keeping();
    let consumer = broker.consume(handler.clone());
    let first = republish(Destination::Low);
    broker.republish(&first).await;
    until_kept(&kept, 1).await;
    consumer.stop().await;
    let consumer = broker.consume(handler);
    broker.republish(&republish(Destination::Low)).await;
    let kept = until_kept(&kept, 2).await;
    assert_eq!(kept.len(), 2);
    assert_ne!(kept[1].delivery_headers, Some(first.delivery_headers));
    consumer.stop().await;
}

async fn what_was_abandoned_comes_again_and_says_so(backend: Backend) {
    let broker = TestBroker::new(backend).await;
    let taken = Arc::new(Notify::new());
    let seen = taken.clone();
    let handler: Handler = Arc::new(move |_| {
        seen.notify_one();
        Box::pin(std::future::pending())
    });
    let consumer = broker.consume(handler);
    let republished = republish(Destination::Low);
    broker.republish(&republished).await;
    in_time("a message", taken.notified()).await;
    consumer.give_up().await;
    let (handler, kept) = keeping();
    let consumer = broker.consume(handler);
    let again = until_kept(&kept, 1).await.remove(0);
    assert_eq!(again.delivery_headers, Some(republished.delivery_headers));
    assert!(again.redelivered);
    consumer.stop().await;
}
