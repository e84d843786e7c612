//! The mail channel: connections that are kept open, at most `SMTP_CONNECTIONS` at once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult,
};
use futures_util::future::BoxFuture;

use super::{
    allowance::{Allowance, Place},
    dialogue::{Session, Transacted},
    policy::PolicyRefusals,
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
pub struct SmtpChannel(Arc<Shared>);

struct Shared {
    sender: Sender,
    pool: Pool<Connections>,
    circuit_breaker: CircuitBreaker,
    policy: PolicyRefusals,
    mails_per_connection: u32,
    allowance: Arc<Allowance>,
    /// While the breaker is open, one at a time finds out whether the server is back.
    probe: tokio::sync::Mutex<()>,
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
        Ok(Self(Arc::new(Shared {
            sender,
            pool,
            circuit_breaker: CircuitBreaker::new(health),
            policy: PolicyRefusals::default(),
            mails_per_connection: settings.mails_per_connection,
            allowance: Arc::new(Allowance::new(settings.connections)),
            probe: tokio::sync::Mutex::default(),
        })))
    }

    /// Has the use of its connections shown.
    pub fn watched_by(self, metrics: &crate::metrics::Metrics) -> Self {
        let shared = self.0.clone();
        metrics.watch_pool("smtp", move || {
            let waiting = shared.allowance.waiting();
            deadpool::Status { max_size: shared.allowance.limit(), waiting, ..shared.pool.status() }
        });
        self
    }

    /// Opens a connection, logs in and says goodbye.
    ///
    /// # Errors
    /// In which phase it failed and why.
    pub async fn test(settings: &Smtp) -> Result<(), String> {
        let session = Server::new(settings.clone())?.connect().await;
        session.map_err(|error| error.to_string())?.quit().await;
        Ok(())
    }
}

#[async_trait]
impl Channel for SmtpChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        crate::channel::email::check_recipient(address)
    }

    async fn ready(&self) -> Box<dyn Slot> {
        let shared = &self.0;
        loop {
            if let Some(until) = shared.circuit_breaker.open_until() {
                tokio::time::sleep_until(until.into()).await;
                continue;
            }
            let _probe = match shared.circuit_breaker.is_tripped() {
                true => Some(shared.probe.lock().await),
                false => None,
            };
            if shared.circuit_breaker.open_until().is_some() {
                continue;
            }
            let place = shared.allowance.place().await;
            match shared.pool.get().await {
                Ok(mut session) => {
                    session.is_reused = Object::metrics(&session).recycle_count > 0;
                    if !session.is_reused {
                        shared.circuit_breaker.connected();
                    }
                    let shared = shared.clone();
                    return Box::new(SmtpSlot { shared, session, _place: place });
                }
                Err(PoolError::Backend(error)) => {
                    let open = shared.pool.manager().server.open_connections();
                    if error.is_busy && open > 0 {
                        shared.allowance.refused_beside(open);
                    } else {
                        // It refuses everything, which says nothing of how many it allows.
                        shared.allowance.reset();
                        shared.circuit_breaker.trip(&error, false);
                    }
                }
                Err(error) => shared.circuit_breaker.trip(&error, false),
            }
        }
    }
}

struct SmtpSlot {
    shared: Arc<Shared>,
    session: Object<Connections>,
    _place: Place,
}

#[async_trait]
impl Slot for SmtpSlot {
    async fn send(mut self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome {
        let mail = match self.shared.sender.compose_aside(message).await {
            Ok(mail) => mail,
            Err(reason) => return Outcome::Impossible(reason),
        };
        let transacted = self.session.transact(mail, latch).await;
        let Self { shared, session, _place } = *self;
        let outcome = shared.judge(transacted, &message.recipient);
        if !session.is_clean {
            // Dropped, not returned: whatever the server still says belongs to this mail.
            drop(Object::take(session));
        } else if session.carried >= shared.mails_per_connection {
            // Nobody has to wait for its goodbye.
            tokio::spawn(Object::take(session).quit());
        }
        outcome
    }
}

impl Shared {
    /// What a transaction says of the server, beside what became of its mail.
    fn judge(&self, transacted: Transacted, recipient: &str) -> Outcome {
        let mut outcome = transacted.outcome;
        if let (Outcome::Refused { reply, .. }, Some((command, said))) =
            (&outcome, transacted.policy)
            && self.policy.hit_everybody(command, &said, recipient)
        {
            let reason = format!(
                "{} {} ({command}; every recipient is refused like this: look at the login, at the \
                 sender (FROM_EMAIL), and at what the server lets usher send)",
                reply.code, reply.reply
            );
            outcome = Outcome::Unavailable(reason, Some(reply.clone()));
        }
        match &outcome {
            Outcome::Unavailable(reason, _) => self.circuit_breaker.trip(reason, true),
            Outcome::Sent(_) => {
                self.policy.accepted();
                self.circuit_breaker.close();
            }
            Outcome::Refused { .. } => self.circuit_breaker.close(),
            _ => {}
        }
        outcome
    }
}

impl Manager for Connections {
    // Large: the pool would move it at every use.
    type Type = Box<Session>;
    type Error = Unavailable;

    async fn create(&self) -> Result<Box<Session>, Unavailable> {
        // Large too, and seldom needed: it would make every task larger.
        Box::pin(self.server.connect()).await.map(Box::new)
    }

    async fn recycle(
        &self,
        session: &mut Box<Session>,
        metrics: &Metrics,
    ) -> RecycleResult<Unavailable> {
        // A task that was dropped in the middle of a transaction gave it back as it was.
        if !session.is_clean {
            return Err(RecycleError::message("a transaction was left open"));
        }
        let is_alive =
            session.is_quiet() && (metrics.last_used() <= IDLE || session.is_alive().await);
        is_alive.then_some(()).ok_or_else(|| RecycleError::message("closed by the server"))
    }
}
