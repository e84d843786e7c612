//! Connections to MongoDB and Redis.

pub(crate) mod bson_time;
pub mod mongo;
pub(crate) mod redis;
