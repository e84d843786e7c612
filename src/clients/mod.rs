//! How the services are reached: settings to connections.

pub(crate) mod bson_time;
pub mod mongo;
pub(crate) mod redis;
