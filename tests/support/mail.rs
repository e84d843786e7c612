//! A mail, parsed for the tests.

use mail_parser::{Message, MessageParser, MimeHeaders, PartType};

/// A received mail.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    /// The sender in the envelope.
    pub(crate) from: String,
    /// Parameters of MAIL, such as `SMTPUTF8`.
    pub(crate) parameters: String,
    /// The recipient in the envelope.
    pub(crate) to: String,
    /// Headers and body as received, without dot stuffing.
    pub(crate) raw: Vec<u8>,
}

impl Mail {
    fn parsed(&self) -> Message<'_> {
        MessageParser::default().parse(&self.raw).expect("a mail")
    }

    pub(crate) fn subject(&self) -> String {
        self.parsed().subject().unwrap_or_default().to_owned()
    }

    /// Name and address of the only mailbox in `From`.
    pub(crate) fn sender(&self) -> (String, String) {
        let mail = self.parsed();
        let from = mail.from().expect("a sender").as_list().expect("a list");
        let [from] = from else { panic!("{from:?}") };
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        (text(from.name()), text(from.address()))
    }

    /// Without its angle brackets.
    pub(crate) fn message_id(&self) -> String {
        self.parsed().message_id().unwrap_or_default().to_owned()
    }

    /// The text part.
    pub(crate) fn text(&self) -> String {
        self.parsed().body_text(0).unwrap_or_default().into_owned()
    }

    pub(crate) fn html(&self) -> String {
        self.parsed().body_html(0).unwrap_or_default().into_owned()
    }

    /// The media types of its parts, each with those inside it in brackets.
    pub(crate) fn tree(&self) -> String {
        tree(&self.parsed(), 0)
    }

    /// The content of the part with this file name.
    ///
    /// # Panics
    /// There is none.
    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        let mail = self.parsed();
        let part = mail.parts.iter().find(|part| part.attachment_name() == Some(name));
        part.unwrap_or_else(|| panic!("no {name} in {}", self.tree())).contents().to_vec()
    }

    /// The raw header lines, with folding.
    pub(crate) fn head(&self) -> String {
        let text = String::from_utf8_lossy(&self.raw);
        text.split("\r\n\r\n").next().unwrap_or_default().to_owned()
    }
}

fn tree(mail: &Message<'_>, part: u32) -> String {
    let part = &mail.parts[part as usize];
    let kind = part.content_type().map(|kind| (kind.ctype(), kind.subtype().unwrap_or_default()));
    let (kind, subtype) = kind.unwrap_or(("text", "plain"));
    match &part.body {
        PartType::Multipart(inner) => {
            let inner: Vec<_> = inner.iter().map(|part| tree(mail, *part)).collect();
            format!("{kind}/{subtype}({})", inner.join(" "))
        }
        _ => format!("{kind}/{subtype}"),
    }
}
