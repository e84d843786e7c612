//! Makes the mail: the headers, around the parts that [`super::parts`] makes.

use lettre::{
    Address, Message,
    address::Envelope,
    message::{
        Mailbox,
        header::{HeaderName, HeaderValue},
    },
};

use super::parts::parts;
use crate::channel::Outgoing;

/// In whose name mail goes out.
#[derive(Debug, Clone)]
pub struct Sender {
    from: Mailbox,
    reply_to: Option<Mailbox>,
}

/// A mail as it goes over the wire.
#[derive(Debug)]
pub struct Composed {
    /// Sender and recipient of the SMTP transaction.
    pub envelope: Envelope,
    /// Headers and body with CRLF line ends, dots not yet doubled.
    pub bytes: Vec<u8>,
}

impl Sender {
    /// From a name and an address.
    ///
    /// # Errors
    /// What is wrong with an address.
    pub fn new(name: &str, address: &str, reply_to: Option<&str>) -> Result<Self, String> {
        let from = Mailbox::new(Some(name.to_owned()), parse(address)?);
        let reply_to = reply_to.map(parse).transpose()?.map(|address| Mailbox::new(None, address));
        Ok(Self { from, reply_to })
    }

    /// The domain of the sender's address: the right side of Message-IDs.
    pub fn domain(&self) -> &str {
        self.from.email.domain()
    }

    /// Makes the mail.
    ///
    /// # Errors
    /// What about the message makes it impossible.
    pub fn compose(&self, outgoing: &Outgoing) -> Result<Composed, String> {
        let to = parse(&outgoing.recipient)?;
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&outgoing.rendered.subject)
            .message_id(Some(outgoing.message_id.clone()))
            .date_now();
        let asked = outgoing.extras.reply_to.as_deref().and_then(reply_address);
        if let Some(reply_to) = asked.or_else(|| self.reply_to.clone()) {
            builder = builder.reply_to(reply_to);
        }
        // RFC 3834 section 5, and Exchange's own word for it: no out-of-office answers.
        for (name, value) in
            [("Auto-Submitted", "auto-generated"), ("X-Auto-Response-Suppress", "All")]
        {
            let name =
                HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
            builder = builder.raw_header(HeaderValue::new(name, value.to_owned()));
        }
        let message =
            builder.multipart(parts(outgoing, &self.from)?).map_err(|error| error.to_string())?;
        Ok(Composed { envelope: message.envelope().clone(), bytes: message.formatted() })
    }
}

/// Checks an address as RFC 5321 writes it: `local@domain` and nothing around it.
///
/// # Errors
/// What is wrong with it.
pub fn check_recipient(address: &str) -> Result<(), String> {
    parse(address).map(drop)
}

/// An address of the event's own choice as a header may hold it. One that is not ASCII would need
/// SMTPUTF8 all the way (RFC 6532), which nobody can promise.
fn reply_address(address: &str) -> Option<Mailbox> {
    let address = parse(address).ok()?;
    AsRef::<str>::as_ref(&address).is_ascii().then(|| Mailbox::new(None, address))
}

fn parse(address: &str) -> Result<Address, String> {
    // The address itself is personal data and stays out of the reason.
    if address.chars().any(char::is_control) {
        return Err("invalid address: it has a control character".to_owned());
    }
    // RFC 5321 4.5.3.1.3: a path has at most 256 octets, its angle brackets included.
    if address.len() > 254 {
        return Err(format!("invalid address: {} bytes, more than 254", address.len()));
    }
    address.parse::<Address>().map_err(|error| format!("invalid address: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit::TemplateRef, channel::Extras, template::Rendered};

    fn compose(sender: &Sender, extras: Extras) -> String {
        let template = TemplateRef { name: "t".into(), locale: "es".into(), version: "1".into() };
        let outgoing = Outgoing {
            recipient: "user@example.com".into(),
            message_id: "<0123@example.com>".into(),
            rendered: Rendered {
                subject: "Añoranza".into(),
                html: "<p>ñ</p>".into(),
                text: "ñ".into(),
                template,
                instead_of: None,
            },
            extras,
        };
        String::from_utf8(sender.compose(&outgoing).unwrap().bytes).unwrap()
    }

    #[test]
    fn addresses_that_could_break_a_command_are_refused() {
        for address in [
            "",
            "nobody",
            "a@b@c",
            "a b@example.com",
            "a@example.com\r\nBcc: x@example.com",
            "<a@example.com>",
            "A <a@example.com>",
            "a@example.com, b@example.com",
            "a@",
            "@example.com",
            "a@exa mple.com",
        ] {
            assert!(check_recipient(address).is_err(), "{address:?}");
        }
        assert!(check_recipient(&format!("{}@example.com", "a".repeat(250))).is_err());
        for address in ["user@example.com", "o'hara+x@sub.example.com", "a@xn--bcher-kva.example"] {
            assert_eq!(check_recipient(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_mail_has_both_parts_and_says_that_no_person_wrote_it() {
        let sender = Sender::new("Cine", "noreply@example.com", Some("help@example.com")).unwrap();
        let mail = compose(&sender, Extras::default());
        for line in [
            "Message-ID: <0123@example.com>",
            "To: user@example.com",
            "Reply-To: help@example.com",
            "Auto-Submitted: auto-generated",
            "X-Auto-Response-Suppress: All",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Type: text/html; charset=utf-8",
        ] {
            assert!(mail.contains(&format!("{line}\r\n")), "{line} is not in\n{mail}");
        }
        assert!(mail.is_ascii());
    }

    #[test]
    fn answers_go_where_the_event_says_if_that_is_an_address() {
        let sender = Sender::new("Cine", "noreply@example.com", Some("help@example.com")).unwrap();
        for (asked, line) in [
            (Some("ana@example.org"), "Reply-To: ana@example.org"),
            (None, "Reply-To: help@example.com"),
            (Some("nobody"), "Reply-To: help@example.com"),
            (Some("a@example.org, b@example.org"), "Reply-To: help@example.com"),
            (Some("a@example.org\r\nBcc: b@example.org"), "Reply-To: help@example.com"),
            (Some("añ@example.org"), "Reply-To: help@example.com"),
        ] {
            let reply_to = asked.map(ToOwned::to_owned);
            let mail = compose(&sender, Extras { reply_to, ..Extras::default() });
            assert_eq!(mail.matches("Reply-To:").count(), 1, "{asked:?}: {mail}");
            assert!(mail.contains(&format!("{line}\r\n")), "{asked:?}: {mail}");
            assert!(!mail.contains("Bcc"), "{asked:?}: {mail}");
        }
    }
}
