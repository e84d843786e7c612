//! Mail. The only place that knows lettre.

mod calendar;
mod message;
mod parts;
mod pool;
mod qr;
mod reply;
mod server;
mod smtp;

pub use message::{Composed, Sender, check_recipient};
pub use pool::SmtpChannel;
pub use qr::qr_png;
