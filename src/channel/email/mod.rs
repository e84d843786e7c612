//! Mail. The only place that knows lettre.

mod address;
mod compose;
mod dkim;
mod encoding;
mod icalendar;
mod mime;
mod qr;
mod smtp;

pub use address::check_recipient;
pub use compose::{Composed, Sender};
pub use qr::qr_png;
pub use smtp::{SharedRates, SmtpChannel};
