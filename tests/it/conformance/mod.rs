//! What each pair of stores has to do alike: those of the embedded mode and those on services.
//! `cargo test --test it conformance::` with `embedded` in the name needs no service.

mod audit;
mod broker;
mod ledger;
mod scheduler;

use std::ops::Deref;

use usher::{
    config::{Endpoint, Secret, TlsFiles},
    embedded::Database,
    routing::DeliveryId,
};

use crate::support::world::World;

/// Makes a test of each behaviour on each of the two stores.
macro_rules! on_both {
    ($service:ident: $($behaviour:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour($crate::conformance::Backend::Embedded).await;
            })+
        }
        mod $service {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour($crate::conformance::Backend::Service).await;
            })+
        }
    };
}
use on_both;

/// Which of the two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Embedded,
    Service,
}

/// A store, and the world that it lives in.
struct Store<T: ?Sized> {
    store: Box<T>,
    _world: Option<World>,
}

impl<T: ?Sized> Deref for Store<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.store
    }
}

/// The embedded mode's database, in memory.
fn database() -> Database {
    Database::in_memory().expect("a database")
}

/// A server without certificates.
pub(crate) fn endpoint(url: String) -> Endpoint {
    Endpoint { url: Secret::new(url), tls: TlsFiles::default() }
}

/// An id that no other test has.
fn delivery_id() -> DeliveryId {
    let id = uuid::Uuid::new_v4().simple().to_string();
    DeliveryId::from_stored(&id).expect("an id")
}
