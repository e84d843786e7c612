//! Mail. The only place that knows lettre.

mod message;
mod pool;
mod smtp;

pub use message::{Composed, Sender, check_recipient};
pub use pool::SmtpChannel;
