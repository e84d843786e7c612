//! Mail. The only place that knows lettre.

mod message;
mod pool;
mod reply;
mod server;
mod smtp;

pub use message::{Composed, Sender, check_recipient};
pub use pool::SmtpChannel;
