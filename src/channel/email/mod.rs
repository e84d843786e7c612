//! Mail. The only place that knows lettre.

mod address;
mod calendar;
mod dkim;
mod message;
mod parts;
mod pool;
mod qr;
mod reply;
mod server;
mod smtp;
mod text;
mod wire;

pub use address::check_recipient;
pub use message::{Composed, Sender};
pub use pool::SmtpChannel;
pub use qr::qr_png;
