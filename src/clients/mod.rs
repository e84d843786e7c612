//! How the services are reached: settings to connections.

pub mod mongo;
pub(crate) mod redis;
