//! The mail channel: connections that are kept open, at most `SMTP_CONNECTIONS` at once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult,
};
use futures_util::future::BoxFuture;

use super::{
    dialogue::Connection,
    server::{Server, Unavailable},
};
use crate::{
    channel::{Channel, Outcome, Outgoing, Slot, circuit_breaker::CircuitBreaker, email::Sender},
    config::Smtp,
    health::Dependency,
};

/// A connection that lay idle for longer is asked for a sign of life before it is used: servers
/// close idle ones, and the mail that met it would pay with an attempt.
const IDLE: Duration = Duration::from_secs(5);

/// Mail over SMTP.
pub struct SmtpChannel {
    sender: Sender,
    pool: Pool<Connections>,
    circuit_breaker: Arc<CircuitBreaker>,
}

struct Connections {
    server: Server,
}

impl SmtpChannel {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The TLS settings can't be used.
    pub fn new(settings: &Smtp, sender: Sender, health: Dependency) -> Result<Self, String> {
        let manager = Connections { server: Server::new(settings.clone())? };
        let pool = Pool::builder(manager)
            .max_size(settings.connections)
            // The one used last is the least likely to have been closed.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { sender, pool, circuit_breaker: Arc::new(CircuitBreaker::new(health)) })
    }

    /// Has the use of its connections shown.
    pub fn watched_by(self, metrics: &crate::metrics::Metrics) -> Self {
        let pool = self.pool.clone();
        metrics.watch_pool("smtp", move || pool.status());
        self
    }

    /// Opens a connection, logs in and says goodbye.
    ///
    /// # Errors
    /// In which phase it failed and why.
    pub async fn test(settings: &Smtp) -> Result<(), String> {
        let connection = Server::new(settings.clone())?.connect().await;
        connection.map_err(|error| error.to_string())?.quit().await;
        Ok(())
    }
}

#[async_trait]
impl Channel for SmtpChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        crate::channel::email::check_recipient(address)
    }

    async fn ready(&self) -> Box<dyn Slot> {
        loop {
            if let Some(until) = self.circuit_breaker.open_until() {
                tokio::time::sleep_until(until.into()).await;
                continue;
            }
            match self.pool.get().await {
                Ok(connection) => {
                    if Object::metrics(&connection).recycle_count == 0 {
                        self.circuit_breaker.connected();
                    }
                    let sender = self.sender.clone();
                    return Box::new(SmtpSlot {
                        sender,
                        connection,
                        circuit_breaker: self.circuit_breaker.clone(),
                    });
                }
                Err(PoolError::Backend(error)) => self.circuit_breaker.trip(&error, false),
                Err(error) => self.circuit_breaker.trip(&error, false),
            }
        }
    }
}

struct SmtpSlot {
    sender: Sender,
    connection: Object<Connections>,
    circuit_breaker: Arc<CircuitBreaker>,
}

#[async_trait]
impl Slot for SmtpSlot {
    async fn send(mut self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome {
        let mail = match self.sender.compose(message) {
            Ok(mail) => mail,
            Err(reason) => return Outcome::Impossible(reason),
        };
        let reused = Object::metrics(&self.connection).recycle_count > 0;
        let outcome = self.connection.transact(mail, latch, reused).await;
        match &outcome {
            Outcome::Unavailable(reason, _) => self.circuit_breaker.trip(reason, true),
            Outcome::Sent(_) | Outcome::Refused { .. } => self.circuit_breaker.close(),
            _ => {}
        }
        if self.connection.open_transaction {
            // Dropped, not returned: whatever the server still says belongs to this mail.
            drop(Object::take(self.connection));
        }
        outcome
    }
}

impl Manager for Connections {
    // Large: the pool would move it at every use.
    type Type = Box<Connection>;
    type Error = Unavailable;

    async fn create(&self) -> Result<Box<Connection>, Unavailable> {
        // Large too, and seldom needed: it would make every task larger.
        Box::pin(self.server.connect()).await.map(Box::new)
    }

    async fn recycle(
        &self,
        connection: &mut Box<Connection>,
        metrics: &Metrics,
    ) -> RecycleResult<Unavailable> {
        // A task that was dropped in the middle of a transaction gave it back as it was.
        if connection.open_transaction {
            return Err(RecycleError::message("a transaction was left open"));
        }
        if metrics.last_used() > IDLE && !connection.is_alive().await {
            return Err(RecycleError::message("closed by the server"));
        }
        Ok(())
    }
}
