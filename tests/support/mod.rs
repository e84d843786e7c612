//! Support for the tests: a world on the shared services for each ([`world`]), the real
//! binary ([`usher`]), and a scripted mail server ([`smtp`]).

pub(crate) mod broker;
pub(crate) mod collector;
pub(crate) mod dovecot;
pub(crate) mod events;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod mail;
pub(crate) mod mongosh;
pub(crate) mod python;
pub(crate) mod raw_amqp;
pub(crate) mod smtp;
pub(crate) mod usher;
pub(crate) mod world;

use std::time::Duration;

use jiff::Timestamp;
use mongodb::{
    Collection,
    bson::{DateTime, Document, doc},
};

/// How long anything may take on a slow machine; most conditions hold within milliseconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Time between two checks of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A variable that `tests/run` exports. A missing service is a failure, never a skip.
pub(crate) fn exported(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run tests/run, which starts the services and exports it")
    })
}

/// A numbered Redis database; most tests share number 0.
pub(crate) fn redis_database(number: u8) -> String {
    let url = exported("TEST_REDIS_URL");
    let server = url.rsplit_once('/').map_or(url.as_str(), |(server, _)| server);
    format!("{server}/{number}")
}

/// Makes everything planned due then, as `usher scheduled send-now` does for one.
pub(crate) async fn make_due(planned: &Collection<Document>, due: Timestamp) {
    let due = DateTime::from_millis(due.as_millisecond());
    let set = doc! {"$set": {"due": due, "claim_at": due}};
    planned.update_many(doc! {"state": "planned"}, set).await.expect("an answer");
}

/// Polls until the condition returns a value.
///
/// # Panics
/// It returns none within [`DEADLINE`].
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let look_again = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    in_time(what, look_again).await
}

/// The result within [`DEADLINE`]; a service that hangs fails the test instead of blocking it.
///
/// # Panics
/// There is none.
pub(crate) async fn in_time<T>(what: &str, coming: impl Future<Output = T>) -> T {
    let came = tokio::time::timeout(DEADLINE, coming).await;
    came.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}
