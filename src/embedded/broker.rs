//! The broker of the embedded mode: messages are rows, and a delay is a due time.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use jiff::Timestamp;
use rusqlite::params;
use tokio::sync::{Mutex, Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Database;
use crate::{
    broker::{Broker, BrokerError, DeliveryHeaders, Destination, Handler, Message, Republish},
    event::Properties,
    routing::Priority,
};

/// The only source queue.
pub const SOURCE: &str = "events";

/// The queue of republished deliveries, due now or later.
pub const DUE: &str = "due";

/// Messages in progress at once.
const IN_FLIGHT: usize = 64;
/// Longest wait before the file is checked again.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct EmbeddedBroker {
    database: Database,
    changed: Arc<Notify>,
    in_flight: Arc<Mutex<HashSet<i64>>>,
}

/// The number of messages by queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// To be processed now or later.
    pub to_process: u32,
    pub dead: u32,
    pub poison: u32,
    pub parked: u32,
}

impl Waiting {
    /// Messages that nothing is done about until an operator does.
    pub fn put_away(self) -> u32 {
        self.dead + self.poison + self.parked
    }
}

impl EmbeddedBroker {
    pub fn new(database: Database) -> Self {
        Self { database, changed: Arc::default(), in_flight: Arc::default() }
    }

    /// Adds an event to the source queue; durable when this returns.
    pub async fn publish_event(&self, body: Vec<u8>) -> Result<(), BrokerError> {
        let seconds = u64::try_from(Timestamp::now().as_second()).ok();
        let properties = Properties { timestamp: seconds, ..Properties::default() };
        self.insert(SOURCE, Priority::High, Duration::ZERO, properties, None, body).await
    }

    /// The number of messages by queue.
    pub async fn waiting(&self) -> Result<Waiting, BrokerError> {
        let work = |connection: &mut rusqlite::Connection| {
            let mut waiting = Waiting::default();
            let mut query =
                connection.prepare("SELECT queue, count(*) FROM messages GROUP BY queue")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let (queue, count): (String, u32) = (row.get(0)?, row.get(1)?);
                match queue.as_str() {
                    "usher.dead" => waiting.dead = count,
                    "usher.poison" => waiting.poison = count,
                    "usher.parked" => waiting.parked = count,
                    _ => waiting.to_process += count,
                }
            }
            Ok(waiting)
        };
        self.database.call(work).await.map_err(BrokerError)
    }

    /// Processes messages until stopped, or until `input_ended` and none is left.
    pub async fn consume(
        &self,
        handler: Handler,
        stop: CancellationToken,
        abandon: CancellationToken,
        input_ended: CancellationToken,
    ) -> Result<(), BrokerError> {
        let tasks = TaskTracker::new();
        loop {
            let taken = self.take().await?;
            let nothing_ready = taken.is_empty();
            for (id, message) in taken {
                let (broker, handler, abandon) = (self.clone(), handler.clone(), abandon.clone());
                tasks.spawn(async move {
                    let done = tokio::select! {
                        () = abandon.cancelled() => false,
                        done = AssertUnwindSafe(handler(message)).catch_unwind() => done.is_ok(),
                    };
                    if let Err(error) = broker.settle(id, done).await {
                        tracing::error!(%error, "a message could not be settled");
                    }
                });
            }
            if nothing_ready && input_ended.is_cancelled() {
                let nothing_waits = self.waiting().await?.to_process == 0;
                if nothing_waits && self.in_flight.lock().await.is_empty() {
                    break;
                }
            }
            let wait = if nothing_ready { self.until_due().await? } else { Duration::ZERO };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    async fn take(&self) -> Result<Vec<(i64, Message)>, BrokerError> {
        let in_flight = self.in_flight.lock().await.clone();
        let room = IN_FLIGHT.saturating_sub(in_flight.len());
        if room == 0 {
            return Ok(Vec::new());
        }
        let work = move |connection: &mut rusqlite::Connection| {
            let now = Timestamp::now().as_millisecond();
            let mut taken = Vec::new();
            let mut query = connection.prepare_cached(
                "SELECT id, queue, taken, properties, hand_off, body FROM messages
                 WHERE queue IN ('events', 'due') AND due_ms <= ?1 ORDER BY priority, id LIMIT ?2",
            )?;
            let mut rows = query.query(params![now, (IN_FLIGHT + room) as i64])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                if in_flight.contains(&id) || taken.len() == room {
                    continue;
                }
                let properties: String = row.get(3)?;
                let delivery_headers: Option<String> = row.get(4)?;
                let message = Message {
                    queue: row.get(1)?,
                    redelivered: row.get(2)?,
                    is_authentic: true,
                    received_at: Timestamp::now(),
                    properties: serde_json::from_str(&properties)?,
                    delivery_headers: delivery_headers
                        .as_deref()
                        .map(serde_json::from_str::<DeliveryHeaders>)
                        .transpose()?,
                    body: row.get(5)?,
                };
                taken.push((id, message));
            }
            drop(rows);
            for (id, _) in &taken {
                connection.execute("UPDATE messages SET taken = 1 WHERE id = ?1", [id])?;
            }
            Ok(taken)
        };
        let taken = self.database.call(work).await.map_err(BrokerError)?;
        self.in_flight.lock().await.extend(taken.iter().map(|(id, _)| *id));
        Ok(taken)
    }

    async fn settle(&self, id: i64, done: bool) -> Result<(), BrokerError> {
        if done {
            let work = move |connection: &mut rusqlite::Connection| {
                connection.execute("DELETE FROM messages WHERE id = ?1", [id])?;
                Ok(())
            };
            self.database.call(work).await.map_err(BrokerError)?;
        }
        self.in_flight.lock().await.remove(&id);
        self.changed.notify_one();
        Ok(())
    }

    async fn until_due(&self) -> Result<Duration, BrokerError> {
        let work = |connection: &mut rusqlite::Connection| {
            let next: Option<i64> = connection.query_row(
                "SELECT min(due_ms) FROM messages WHERE queue = 'due' AND due_ms > ?1",
                [Timestamp::now().as_millisecond()],
                |row| row.get(0),
            )?;
            let wait = next.map(|due| due - Timestamp::now().as_millisecond());
            Ok(Duration::from_millis(
                wait.and_then(|wait| u64::try_from(wait).ok()).unwrap_or(u64::MAX),
            ))
        };
        let wait = self.database.call(work).await.map_err(BrokerError)?;
        Ok(wait.min(POLL_INTERVAL))
    }

    async fn insert(
        &self,
        queue: &'static str,
        priority: Priority,
        wait: Duration,
        properties: Properties,
        delivery_headers: Option<DeliveryHeaders>,
        body: Vec<u8>,
    ) -> Result<(), BrokerError> {
        let work = move |connection: &mut rusqlite::Connection| {
            let due = Timestamp::now().as_millisecond()
                + i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 2);
            let reason =
                delivery_headers.as_ref().map(|delivery_headers| delivery_headers.reason.clone());
            let delivery_headers =
                delivery_headers.as_ref().map(serde_json::to_string).transpose()?;
            connection.execute(
                "INSERT INTO messages (queue, priority, due_ms, properties, hand_off, reason, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    queue,
                    priority as i64,
                    due,
                    serde_json::to_string(&properties)?,
                    delivery_headers,
                    reason,
                    body
                ],
            )?;
            Ok(())
        };
        self.database.call(work).await.map_err(BrokerError)?;
        self.changed.notify_one();
        Ok(())
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn republish(&self, republish: &Republish) -> Result<(), BrokerError> {
        let (queue, priority, wait) = match republish.destination {
            Destination::Later(wait, priority) => (DUE, priority, wait),
            Destination::Low => (DUE, Priority::Low, Duration::ZERO),
            Destination::Dead => ("usher.dead", Priority::High, Duration::ZERO),
            Destination::Poison => ("usher.poison", Priority::High, Duration::ZERO),
            Destination::Parked => ("usher.parked", Priority::High, Duration::ZERO),
        };
        let (properties, delivery_headers) =
            (republish.properties.clone(), republish.delivery_headers.clone());
        self.insert(
            queue,
            priority,
            wait,
            properties,
            Some(delivery_headers),
            republish.body.clone(),
        )
        .await
    }
}
