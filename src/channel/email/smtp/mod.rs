//! The SMTP client: connections, the dialogue on each, and what the replies mean.

mod dialogue;
mod pool;
mod reply;
mod server;
mod wire;

pub use pool::SmtpChannel;
