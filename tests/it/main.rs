//! The integration tests: the real binary against RabbitMQ, Redis, a MongoDB-compatible server and
//! two mail servers, one real and one scripted. `tests/run` starts them.
//!
//! Each test has a virtual host, a database and a pepper of its own, so that they can all run at
//! once. They wait for conditions, never for a time; where the time is the subject of a test, the
//! test says so.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod arrival;
mod audit;
mod audit_queries;
mod bad_input;
mod bookings;
mod broker;
mod commands;
mod conformance;
mod connections;
mod contract;
mod crash;
mod dead_letters;
mod dead_letters_api;
mod dead_letters_corrected;
mod deliveries_api;
mod deploy;
mod dkim;
mod docs;
mod erase;
mod evidence;
mod expected;
mod feed;
mod handlebars;
mod http;
mod indexes;
mod init;
mod ledger;
mod ledger_calls;
mod ledger_lost;
mod ledger_model;
mod ledger_properties;
mod mail_parts;
mod mail_server;
mod mailbox;
mod main_line;
mod oauth;
mod observability;
mod operation;
mod order_shipped;
mod postfix;
mod receipts;
mod receipts_ses;
mod refusals;
mod relays;
mod reload;
mod repeated;
mod resend;
mod roles;
mod routes;
mod scheduled;
mod scheduler;
mod second_opinion;
mod sms;
mod statistics;
mod status;
mod status_events;
mod streams;
mod templates;
mod tls;
mod traces;
mod unicode;
mod waiting;
