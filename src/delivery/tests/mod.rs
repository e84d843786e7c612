//! The delivery line as a whole, without services: what comes in, what goes out, what is kept.

mod bookings;
mod claim;
mod crash;
mod fan_out;
mod later;
mod not_sent;
mod outcome;
mod rejected;
mod republish;
mod support;
