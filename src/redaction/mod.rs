//! Keeps secrets and personal data out of what is logged, recorded or shown.

mod address_matcher;
mod mask;

pub use address_matcher::AddressMatcher;
pub use mask::{mask_address, mask_addresses, mask_named, mask_secrets};

/// Replaces a text that was erased.
pub const ERASED: &str = "(erased)";
