//! The names of exchanges and queues. Publishers and operators rely on them.

use std::time::Duration;

use super::Destination;
use crate::{duration, routing::Priority};

/// The topic exchange that publishers use: routing keys lead to the source queues.
pub(crate) const EVENTS: &str = "usher.events";
/// The topic exchange of status events.
pub(crate) const STATUS: &str = "usher.status";
/// The direct exchange that delay queues expire into; the routing key is the priority.
pub(crate) const DUE: &str = "usher.due";
/// What no binding of [`EVENTS`] takes, until usher has judged it.
pub(crate) const UNROUTABLE: &str = "usher.unroutable";
/// Deliveries that failed for good.
pub(crate) const DEAD: &str = "usher.dead";
/// Messages that can't be parsed or that crash their process.
pub(crate) const POISON: &str = "usher.poison";
/// Deliveries whose outcome is unknown.
pub(crate) const PARKED: &str = "usher.parked";
/// Mail that must not delay other mail.
pub(crate) const LOW: &str = "usher.low";

/// The queues whose messages wait for an operator.
pub(crate) const HELD: [&str; 3] = [DEAD, POISON, PARKED];

/// The queue of deliveries with this priority that are due.
pub(crate) fn due(priority: Priority) -> String {
    format!("{DUE}.{}", priority.as_str())
}

/// The queue in which a message waits for this long; the fanout exchange in front has the same name.
pub(crate) fn delay(wait: Duration) -> String {
    format!("usher.delay.{}", duration::format(wait))
}

/// What a queue is for: `source`, `due`, `delay`, `low`, `unroutable`, `dead`, `poison` or `parked`.
pub(crate) fn kind(queue: &str) -> &'static str {
    match queue {
        DEAD => "dead",
        POISON => "poison",
        PARKED => "parked",
        LOW => "low",
        UNROUTABLE => "unroutable",
        _ if queue.starts_with("usher.due.") => "due",
        _ if queue.starts_with("usher.delay.") => "delay",
        _ => "source",
    }
}

/// Whether only usher publishes to this queue, so that it can have delivery headers.
pub(crate) fn is_own(queue: &str) -> bool {
    queue.starts_with("usher.") && queue != UNROUTABLE
}

impl Destination {
    /// The queue that the message reaches first.
    pub fn queue(self) -> String {
        match self {
            Self::Later(wait, priority) if wait.is_zero() => due(priority),
            Self::Later(wait, _) => delay(wait),
            Self::Low => LOW.to_owned(),
            Self::Dead => DEAD.to_owned(),
            Self::Poison => POISON.to_owned(),
            Self::Parked => PARKED.to_owned(),
        }
    }
}
