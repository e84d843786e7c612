//! A mail as the tests look at it.

use mail_parser::{Message, MessageParser};

/// One mail that arrived somewhere.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    /// The sender in the envelope.
    pub(crate) from: String,
    /// The recipient in the envelope.
    pub(crate) to: String,
    /// Headers and body as they came, dots not doubled any more.
    pub(crate) raw: Vec<u8>,
}

impl Mail {
    fn parsed(&self) -> Message<'_> {
        MessageParser::default().parse(&self.raw).expect("a mail")
    }

    pub(crate) fn subject(&self) -> String {
        self.parsed().subject().unwrap_or_default().to_owned()
    }

    /// Without its angle brackets.
    pub(crate) fn message_id(&self) -> String {
        self.parsed().message_id().unwrap_or_default().to_owned()
    }

    /// The part for people without HTML.
    pub(crate) fn text(&self) -> String {
        self.parsed().body_text(0).unwrap_or_default().into_owned()
    }

    pub(crate) fn html(&self) -> String {
        self.parsed().body_html(0).unwrap_or_default().into_owned()
    }

    /// The header lines as they travelled, folded lines and all.
    pub(crate) fn head(&self) -> String {
        let text = String::from_utf8_lossy(&self.raw);
        text.split("\r\n\r\n").next().unwrap_or_default().to_owned()
    }
}
