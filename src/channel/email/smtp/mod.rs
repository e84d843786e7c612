//! The SMTP client: connections, the dialogue on each, and what the replies mean.

mod address;
mod allowance;
mod capabilities;
mod classify;
mod dialogue;
mod login;
mod policy;
mod queue_id;
mod rate;
mod relay;
mod relays;
mod reply;
mod server;
mod wire;

pub use rate::SharedRates;
pub use relays::SmtpChannel;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
