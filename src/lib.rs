//! usher consumes booking, payment, account and contact events from RabbitMQ, turns each into the
//! notifications that its routes ask for, sends each exactly as often as it should, and leaves an
//! audit record of every delivery in MongoDB. Redis holds the ledger that keeps anything from
//! going out twice.
//!
//! # One way through
//! ```text
//! broker ──► event ──► routing ──► ledger ──► template ──► channel ──► ledger + audit ──► broker
//! receive    parse     route       claim      render       send        record (both)      settle
//! ```
//! [`delivery::Pipeline::process`] reads as that sentence. Dependencies point the same way: only
//! [`broker::amqp`] knows lapin, only [`ledger::redis`] and the [`stream_source`] Redis, only the
//! stores ([`audit::store`], [`scheduler::mongo`], [`api::outbox`], [`template::store`]) MongoDB, only
//! [`channel::email`] lettre.
//!
//! Mail for later leaves the line after `route` for the [`scheduler`] and comes back as a hand-off when
//! it is due. What changes a booking is kept there as well, before the event's own mail is looked
//! at, and read when a mail about a booking is about to be sent.
//!
//! What upstream writes into Redis Streams comes to the broker over the [`stream_source`].
//!
//! [`api`] is a door beside the broker: what comes in there is kept in [`api::outbox`] and published, so
//! that it goes the same way as everything else. What becomes of it is read from the audit, and told
//! by the [`api::feed`] to those who listen.
//!
//! An **event** is what upstream published. A **delivery** is one message to one recipient over
//! one channel that a route asks for; an event has none, one or more. An **attempt** is one try at
//! a delivery, counted from 1. The source message is acknowledged when each of its deliveries is
//! over or has a confirmed hand-off, and the records of that are durable.
//!
//! # Guarantees and their limits
//! Nothing is lost: a message is acknowledged only after its outcome is durable in ledger and
//! audit, or its hand-off confirmed. Nothing is sent twice: a delivery is claimed before it is
//! touched, latched before its body goes out, and a process that dies after the latch leaves an
//! `unknown` that is parked, not sent again, unless its route says `resend`. Exactly-once over
//! SMTP is impossible: a process killed between the server's acceptance and our reading of it
//! leaves `unknown`, and if Redis loses the latch at the same time, one second mail goes out with
//! the same Message-ID.

#[macro_use]
pub mod crash_points;

pub mod api;
pub mod app;
pub mod audit;
mod batches;
pub mod broker;
pub mod channel;
pub mod cli;
pub mod clients;
pub mod config;
mod contract;
pub mod delivery;
mod duration;
pub mod embedded;
pub mod event;
pub mod failure;
pub mod health;
pub mod ledger;
pub mod logging;
pub mod metrics;
pub mod routing;
pub mod scheduler;
pub mod stream_source;
pub mod template;
mod text;
pub mod tls;
pub mod trace;
