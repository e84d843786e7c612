//! A failure that ends the process, and its exit code (sysexits.h).

use crate::reason::explained;

/// EX_DATAERR: the input was wrong.
pub const EXIT_DATA: u8 = 65;
/// EX_UNAVAILABLE: a service can't be reached.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// EX_SOFTWARE: anything else that went wrong.
pub const EXIT_SOFTWARE: u8 = 70;
/// EX_TEMPFAIL: it has to be tried again.
pub const EXIT_TEMPORARY: u8 = 75;
/// EX_CONFIG: the settings, routes or templates are wrong.
pub const EXIT_CONFIG: u8 = 78;

/// A failure and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// The input can't be used.
    pub(crate) fn data(text: impl Into<String>) -> Self {
        Self::new(EXIT_DATA, anyhow::anyhow!(text.into()))
    }

    /// A service can't be reached.
    pub(crate) fn unavailable(error: impl Into<anyhow::Error>) -> Self {
        Self::new(EXIT_UNAVAILABLE, error)
    }

    pub(crate) fn config(text: impl Into<String>) -> Self {
        Self::new(EXIT_CONFIG, anyhow::anyhow!(text.into()))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&explained(&self.error))
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(EXIT_SOFTWARE, error)
    }
}
