//! usher consumes booking, payment, account and contact events from RabbitMQ. It turns each event into
//! the notifications that its routes define, sends each notification once, and leaves an audit record
//! of every delivery in MongoDB. Redis holds the ledger that prevents second sends.
//!
//! # The way of an event
//! ```text
//! broker ──► event ──► routing ──► ledger ──► template ──► channel ──► ledger + audit ──► broker
//! receive    parse     route       claim      render       send        record (both)      settle
//! ```
//! [`delivery::Pipeline::process`] is this line.
//!
//! - Mail for later leaves the line after `route` for the [`scheduler`], and comes back over the broker
//!   when it is due. The scheduler also keeps changes of bookings: they are stored before the event's
//!   own mail is handled, and read before a mail about that booking is sent.
//! - The [`stream_source`] forwards events from Redis Streams to the broker.
//! - The [`api`] stores requests in [`api::outbox`] and publishes them as events. It answers questions
//!   from the audit, and its [`api::feed`] sends new records to WebSocket clients.
//!
//! An **event** is a message that upstream published. A **delivery** is one message to one recipient
//! over one channel; a route asks for it, and an event has none, one or several. An **attempt** is one
//! try at a delivery, counted from 1. The source message is acknowledged when each of its deliveries is
//! final or republished with the broker's confirm, and the records of that are durable.
//!
//! # What may use what
//! Each module may use those on its right. They all stand above it, so there are no cycles. A test in
//! `layers.rs` holds the code against this table and the next one.
//! ```text
//! clock
//! crash_points
//! duration
//! private_files
//! reason
//! text
//! tls
//! failure        reason
//! config         duration tls
//! logging        config failure
//! clients        config reason tls
//! event          clock config
//! redaction      event
//! oauth          config redaction tls
//! health         clock redaction
//! supervisor     crash_points health
//! batcher        supervisor
//! routing        duration event
//! metrics        health routing
//! audit          batcher clients clock config event metrics reason redaction routing supervisor text
//! ledger         batcher clients clock config duration reason routing supervisor tls
//! broker         clock config crash_points duration event health metrics reason routing tls
//! status_events  audit batcher broker redaction routing supervisor
//! scheduler      batcher broker clients clock event reason redaction routing supervisor
//! status         audit broker clock duration health ledger redaction routing scheduler
//! trace          audit broker event health routing
//! receipts       audit broker clock config health ledger metrics oauth redaction routing status_events text tls
//! template       audit clients config event health metrics reason routing
//! channel        audit clock config event health ledger metrics oauth private_files receipts redaction routing template text tls
//! contract       broker duration event routing status_events template
//! embedded       audit broker config duration event ledger private_files routing scheduler
//! stream_source  broker clients clock config duration event health metrics reason routing tls
//! delivery       audit broker channel clock config event health ledger metrics redaction routing scheduler status_events template text trace
//! api            audit broker channel clients clock config delivery event health ledger metrics receipts redaction routing scheduler status stream_source trace
//! erasure        api audit scheduler
//! app            api audit broker channel clients clock config delivery duration embedded event failure health ledger logging metrics private_files reason receipts redaction routing scheduler status status_events stream_source supervisor template tls trace
//! cli            api app audit broker channel config contract delivery embedded erasure event failure ledger logging metrics private_files reason receipts redaction routing scheduler status status_events stream_source supervisor template text
//! ```
//!
//! # Who knows which service
//! ```text
//! lapin          broker/amqp reason
//! redis          clients/redis ledger/redis reason stream_source
//! mongodb        clients/bson_time clients/mongo reason audit/store scheduler/mongo template/store api/outbox/store api/feed/change_stream
//! lettre         channel/email
//! rusqlite       embedded
//! ```
//!
//! # Guarantees and their limits
//! - **Nothing is lost.** A message is acknowledged only after its outcome is durable in ledger and
//!   audit, or after the broker confirmed its republish.
//! - **Nothing is sent twice.** A delivery is claimed before it is touched, and latched before its body
//!   goes out. If a process dies after the latch, the delivery is `unknown`: it is parked and not sent
//!   again, unless its route says `resend`.
//! - **The limit.** Exactly-once is impossible over SMTP: a process that is killed between the server's
//!   acceptance and the read of its reply leaves `unknown`. If Redis loses the latch and its owner can't
//!   write it again (it died, froze or was cut off), a second mail goes out with the same Message-ID.

#[macro_use]
pub mod crash_points;

pub mod api;
pub mod app;
pub mod audit;
mod batcher;
pub mod broker;
pub mod channel;
pub mod cli;
pub mod clients;
mod clock;
pub mod config;
mod contract;
pub mod delivery;
mod duration;
pub mod embedded;
mod erasure;
pub mod event;
pub mod failure;
pub mod health;
#[cfg(test)]
mod layers;
pub mod ledger;
pub mod logging;
pub mod metrics;
mod oauth;
mod private_files;
mod reason;
pub mod receipts;
pub mod redaction;
pub mod routing;
pub mod scheduler;
pub mod status;
pub mod status_events;
pub mod stream_source;
pub mod supervisor;
pub mod template;
mod text;
pub mod tls;
pub mod trace;
