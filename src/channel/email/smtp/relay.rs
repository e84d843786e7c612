//! One mail server: connections that are kept open, at most `SMTP_CONNECTIONS` at once, behind a circuit
//! breaker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use deadpool::{
    Status,
    managed::{Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult},
};
use futures_util::future::{BoxFuture, join_all};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    allowance::{Allowance, Place},
    classify::Command,
    dialogue::{Session, Transacted},
    policy::PolicyRefusals,
    rate::Rate,
    relays::Usability,
    server::{Server, Unavailable},
};
use crate::{
    channel::{
        Attempted, Outcome, Outgoing, Slot, SlotRequest, circuit_breaker::CircuitBreaker,
        email::Sender,
    },
    config,
    health::Dependency,
};

/// A connection that lay idle for longer is asked for a sign of life before it is used: servers
/// close idle ones, and the mail that met it would pay with an attempt.
const IDLE: Duration = Duration::from_secs(5);

pub(super) struct Relay {
    pub(super) order: u16,
    pub(super) weight: u16,
    /// The routes whose mail it takes; empty: all.
    routes: Vec<String>,
    sender: Sender,
    idempotency_window: Option<Duration>,
    pool: Pool<Connections>,
    circuit_breaker: CircuitBreaker,
    rate: Option<Rate>,
    /// Where there are several.
    name: Option<String>,
    policy: PolicyRefusals,
    mails_per_connection: u32,
    allowance: Arc<Allowance>,
    /// Held while somebody finds out whether the server is back: a task connects until it can, then one
    /// delivery at a time is tried.
    probe: Arc<Mutex<()>>,
    usability: Arc<Usability>,
    /// Counts mail that went over it although another relay comes before it.
    fallback: Counter,
}

/// What a relay is made of beside its settings.
pub(super) struct Surroundings {
    pub(super) sender: Sender,
    pub(super) health: Dependency,
    pub(super) usability: Arc<Usability>,
    pub(super) fallback: Counter,
    pub(super) rate: Option<Rate>,
    /// Whether records name it.
    pub(super) is_named: bool,
}

/// How a mail came to a relay.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// Another relay comes before it.
    pub(super) is_fallback: bool,
    /// No other relay could take the mail.
    pub(super) is_last: bool,
}

/// The only delivery that may use a relay which has still to prove that it is back.
struct Trial {
    relay: Arc<Relay>,
    probe: Option<OwnedMutexGuard<()>>,
}

struct Connections {
    server: Server,
}

impl Relay {
    pub(super) fn new(relay: &config::Relay, around: Surroundings) -> Result<Self, String> {
        let settings = &relay.smtp;
        let name = around.is_named.then(|| relay.name.clone());
        let manager = Connections { server: Server::new(settings.clone(), name.clone())? };
        let pool = Pool::builder(manager)
            .max_size(settings.connections)
            // The one used last is the least likely to have been closed.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            order: relay.order,
            weight: relay.weight,
            routes: relay.routes.clone(),
            sender: around.sender,
            idempotency_window: settings
                .idempotency_header
                .as_ref()
                .map(|_| settings.idempotency_window),
            pool,
            circuit_breaker: CircuitBreaker::new(around.health),
            rate: around.rate,
            name,
            policy: PolicyRefusals::default(),
            mails_per_connection: settings.mails_per_connection,
            allowance: Arc::new(Allowance::new(settings.connections)),
            probe: Arc::default(),
            usability: around.usability,
            fallback: around.fallback,
        })
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn takes(&self, request: SlotRequest<'_>) -> bool {
        let among =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        // One that is alone has no name.
        among(&self.routes, request.route)
            && self.name().is_none_or(|name| among(request.relays, name))
    }

    /// The use of its connections.
    pub(super) fn status(&self) -> Status {
        let (max_size, waiting) = (self.allowance.limit(), self.allowance.waiting());
        Status { max_size, waiting, ..self.pool.status() }
    }

    /// A place for one mail; `None` where the relay can't be used now. While all its connections are in
    /// use, they are waited for. `may_try`: the mail may be the one that a relay which failed is tried with.
    pub(super) async fn slot(self: &Arc<Self>, way: Way, may_try: bool) -> Option<Box<dyn Slot>> {
        if self.rate.as_ref().is_some_and(Rate::is_used_up) {
            return None;
        }
        let trial = self.admit(may_try)?;
        let (session, place) = self.connection(trial.is_some()).await?;
        if let Some(rate) = &self.rate
            && !rate.admits().await
        {
            return None;
        }
        Some(Box::new(RelaySlot { relay: self.clone(), session, _place: place, trial, way }))
    }

    /// When its rate allows the next mail, for those who found it used up.
    pub(super) fn next_by_rate(&self) -> Option<Instant> {
        self.rate.as_ref()?.next()
    }

    /// Opens a first connection. If that can't be done, it is tried again until it can.
    pub(super) async fn check(self: &Arc<Self>) {
        self.connection(false).await;
    }

    /// Ends idle connections with QUIT (RFC 5321 4.1.1.10), which takes a second at most. Others may have the
    /// server from now on.
    pub(super) async fn close(&self) {
        self.circuit_breaker.retire();
        let idle = self.pool.retain(|_, _| false).removed;
        join_all(idle.into_iter().map(|session| session.quit())).await;
    }

    /// Everybody while the breaker is closed; one at a time once the server can be reached again.
    fn admit(self: &Arc<Self>, may_try: bool) -> Option<Option<Trial>> {
        if !self.circuit_breaker.is_tripped() {
            return Some(None);
        }
        if !may_try || self.circuit_breaker.open_until().is_some() {
            return None;
        }
        let probe = self.probe.clone().try_lock_owned().ok()?;
        Some(Some(Trial { relay: self.clone(), probe: Some(probe) }))
    }

    /// A connection that is logged in; `None` if the relay gives none.
    async fn connection(self: &Arc<Self>, is_probe: bool) -> Option<(Object<Connections>, Place)> {
        loop {
            let place = self.allowance.place().await;
            // Those who had a place before may have found that it can't be used.
            if self.circuit_breaker.is_tripped() && !is_probe {
                return None;
            }
            match self.pool.get().await {
                Ok(mut session) => {
                    session.is_reused = Object::metrics(&session).recycle_count > 0;
                    if !session.is_reused {
                        self.circuit_breaker.connected();
                        self.usability.update();
                    }
                    return Some((session, place));
                }
                Err(PoolError::Backend(error)) => {
                    let open = self.pool.manager().server.open_connections();
                    if error.is_busy && open > 0 {
                        self.allowance.refused_beside(open);
                        continue;
                    }
                    // It refuses everything: the number of connections that it allows stays unknown.
                    self.allowance.reset();
                    self.trip(&error, false);
                }
                Err(error) => self.trip(&error, false),
            }
            return None;
        }
    }

    fn trip(self: &Arc<Self>, reason: &dyn std::fmt::Display, refused: bool) {
        self.circuit_breaker.trip(reason, refused);
        self.recover();
    }

    /// Tells those who wait what has changed. While the breaker is open, a task finds out when the server
    /// can be reached again; it is one at most.
    fn recover(self: &Arc<Self>) {
        if self.circuit_breaker.open_until().is_some()
            && let Ok(probe) = self.probe.clone().try_lock_owned()
        {
            let relay = self.clone();
            tokio::spawn(async move {
                let trial = Trial { relay: relay.clone(), probe: Some(probe) };
                while let Some(until) = relay.circuit_breaker.open_until() {
                    tokio::time::sleep_until(until.into()).await;
                    if relay.circuit_breaker.open_until().is_none() {
                        relay.connection(true).await;
                    }
                }
                drop(trial);
            });
        }
        self.usability.update();
    }

    /// What a transaction says of the server, beside what became of its mail.
    fn judge(self: &Arc<Self>, transacted: Transacted, recipient: &str, way: Way) -> Outcome {
        if transacted.may_go_elsewhere && !way.is_last {
            match &transacted.outcome {
                Outcome::Refused { .. } => self.works(),
                // Others need not wait for it as well.
                Outcome::Interrupted(reason, _) if transacted.is_silent => self.trip(reason, true),
                _ => {}
            }
            return Outcome::Elsewhere;
        }
        let (mut outcome, is_silent) = (transacted.outcome, transacted.is_silent);
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
            Outcome::Unavailable(reason, reply) => {
                self.trip(reason, true);
                let is_before_dot =
                    reply.as_ref().is_none_or(|reply| reply.command != Command::Dot.as_str());
                if is_before_dot && self.usability.may_another_be_used() {
                    // It starts over, and goes over another relay at once.
                    return Outcome::Withheld;
                }
            }
            Outcome::Sent(_) => {
                self.policy.accepted();
                self.works();
            }
            Outcome::Refused { .. } => self.works(),
            // Others need not wait for it as well, and lose an attempt.
            Outcome::Interrupted(reason, _) | Outcome::Unknown(reason, _)
                if is_silent && self.usability.has_several() =>
            {
                self.trip(reason, true);
            }
            _ => {}
        }
        outcome
    }

    fn works(self: &Arc<Self>) {
        let was_tripped = self.circuit_breaker.is_tripped();
        self.circuit_breaker.close();
        if was_tripped {
            self.usability.update();
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.probe = None;
        self.relay.recover();
    }
}

struct RelaySlot {
    relay: Arc<Relay>,
    session: Object<Connections>,
    _place: Place,
    trial: Option<Trial>,
    way: Way,
}

#[async_trait]
impl Slot for RelaySlot {
    fn relay(&self) -> Option<&str> {
        self.relay.name()
    }

    fn idempotency_window(&self) -> Option<Duration> {
        self.relay.idempotency_window
    }

    async fn send(
        mut self: Box<Self>,
        message: &Outgoing,
        latch: BoxFuture<'_, bool>,
    ) -> Attempted {
        let mail = match self.relay.sender.compose_aside(message).await {
            Ok(mail) => mail,
            Err(reason) => return Outcome::Impossible(reason).into(),
        };
        let seal = mail.seal();
        let transacted = self.session.transact(mail, latch).await;
        let Self { relay, session, _place, trial, way } = *self;
        let outcome = relay.judge(transacted, &message.recipient, way);
        if way.is_fallback && matches!(outcome, Outcome::Sent(_)) {
            relay.fallback.inc();
        }
        if !session.is_clean {
            // Dropped, not returned: whatever the server still says belongs to this mail.
            drop(Object::take(session));
        } else if session.carried >= relay.mails_per_connection {
            // Nobody has to wait for its goodbye.
            tokio::spawn(Object::take(session).quit());
        }
        // Not before the breaker knows.
        drop(trial);
        Attempted { outcome, mail: Some(seal) }
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
