//! Composes the mail: the headers around the MIME tree of [`super::mime`].

use std::{fmt::Write, sync::Arc, time::SystemTime};

use lettre::{
    address::Envelope,
    message::{
        Mailbox, Mailboxes,
        header::{self, HeaderName, HeaderValue, Headers},
    },
};
use sha2::{Digest, Sha256};

use super::{address::parse, dkim::Signer, encoding, mime::parts};
use crate::{
    channel::{MailSeal, Outgoing},
    config::Dkim,
    receipts::ReturnPath,
    routing::DeliveryId,
};

/// Longest word of a display name, in bytes. lettre folds between words only and may escape each byte, and
/// a line has at most 998 bytes (RFC 5322 2.1.1).
const MAX_NAME_WORD: usize = 450;

/// A larger mail is composed off the runtime's threads, in bytes.
const LARGE: usize = 64 * 1024;

/// Headers of every mail. The first two prevent out-of-office replies: RFC 3834 section 5, and Exchange's
/// own header. The last is required by RFC 2045 section 4.
const COMMON_HEADERS: &str =
    "Auto-Submitted: auto-generated\r\nX-Auto-Response-Suppress: All\r\nMIME-Version: 1.0\r\n";

/// The sender of all mail, with its DKIM key.
#[derive(Debug, Clone)]
pub struct Sender {
    from: Mailbox,
    /// The `From` header; the same in every mail.
    from_line: String,
    reply_to: Option<Mailbox>,
    signer: Option<Arc<Signer>>,
    /// Where reports go; `None`: to the sender.
    return_path: Option<ReturnPath>,
    /// The header that the relay takes a mail's idempotency key from.
    idempotency_header: Option<HeaderName>,
}

/// A mail ready for SMTP.
#[derive(Debug)]
pub struct Composed {
    /// Sender and recipient of the SMTP transaction.
    pub envelope: Envelope,
    /// Headers and body with CRLF line ends, dots not yet doubled.
    pub text: String,
    from: Mailbox,
}

impl Composed {
    pub fn seal(&self) -> MailSeal {
        MailSeal {
            from_address: self.from.email.to_string(),
            from_name: self.from.name.clone().unwrap_or_default(),
            sha256: hex::encode(Sha256::digest(&self.text)),
        }
    }
}

impl Sender {
    /// # Errors
    /// An address is invalid.
    pub fn new(name: &str, address: &str, reply_to: Option<&str>) -> Result<Self, String> {
        let from = Mailbox::new(Some(name.to_owned()), parse(address)?);
        if name.split(' ').any(|word| word.len() > MAX_NAME_WORD) {
            return Err("a word of the sender's name is longer than a header line".to_owned());
        }
        let mut header = Headers::new();
        header.set(header::From::from(Mailboxes::from(from.clone())));
        let from_line = header.to_string();
        let reply_to = reply_to.map(parse).transpose()?.map(|address| Mailbox::new(None, address));
        Ok(Self {
            from,
            from_line,
            reply_to,
            signer: None,
            return_path: None,
            idempotency_header: None,
        })
    }

    /// Signs every mail with DKIM.
    ///
    /// # Errors
    /// The key can't be used. The reason shows nothing of it.
    pub fn signing(self, dkim: &Dkim) -> Result<Self, String> {
        let domain = dkim.domain.as_deref().unwrap_or_else(|| self.domain());
        let signer = Signer::new(&dkim.selector, domain, dkim.private_key.expose())?;
        Ok(Self { signer: Some(Arc::new(signer)), ..self })
    }

    /// Has reports about its mail sent to this address.
    pub fn returning_to(self, path: ReturnPath) -> Self {
        Self { return_path: Some(path), ..self }
    }

    /// Gives every mail its delivery's id as idempotency key.
    ///
    /// # Errors
    /// It can't be a header.
    pub fn with_idempotency_header(self, name: &str) -> Result<Self, String> {
        let name = HeaderName::new_from_ascii(name.to_owned());
        let name = name.map_err(|_| "is not the name of a header".to_owned())?;
        Ok(Self { idempotency_header: Some(name), ..self })
    }

    pub fn address(&self) -> &str {
        self.from.email.as_ref()
    }

    /// An envelope's sender such as its mails have, and the setting that it comes from.
    pub fn sample_envelope_sender(&self) -> (String, &'static str) {
        match &self.return_path {
            Some(path) => (path.sample(), "BOUNCE_ADDRESS"),
            None => (self.address().to_owned(), "the sender, FROM_EMAIL"),
        }
    }

    /// The domain of the sender's address, used as the right side of Message-IDs.
    pub fn domain(&self) -> &str {
        self.from.email.domain()
    }

    /// Composes and signs the mail; a large one off the runtime's threads.
    ///
    /// # Errors
    /// As [`compose`](Self::compose).
    pub async fn compose_aside(&self, outgoing: &Outgoing) -> Result<Composed, String> {
        if outgoing.bytes() <= LARGE {
            return self.compose(outgoing);
        }
        let (sender, outgoing) = (self.clone(), outgoing.clone());
        match tokio::task::spawn_blocking(move || sender.compose(&outgoing)).await {
            Ok(composed) => composed,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(ended) => Err(ended.to_string()),
            },
        }
    }

    /// Composes and signs the mail.
    ///
    /// # Errors
    /// The message can't become a mail.
    pub fn compose(&self, outgoing: &Outgoing) -> Result<Composed, String> {
        let own = outgoing.extras.sender.as_deref().unwrap_or(self);
        let to = parse(&outgoing.recipient)?;
        let from = match &self.return_path {
            // The relay's own, whatever brand the mail has.
            Some(path) => parse(&match DeliveryId::from_message_id(&outgoing.message_id) {
                Some(delivery) => path.address(&delivery),
                None => path.plain(),
            })?,
            None => own.from.email.clone(),
        };
        let envelope =
            Envelope::new(Some(from), vec![to.clone()]).map_err(|error| error.to_string())?;
        let mut headers = Headers::with_capacity(5);
        headers.set(header::To::from(Mailboxes::from(Mailbox::new(None, to))));
        headers.insert_raw(
            encoding::subject(&outgoing.rendered.subject).map_err(|error| error.to_string())?,
        );
        headers.set(header::MessageId::from(outgoing.message_id.clone()));
        let date = outgoing.date.unwrap_or_else(crate::clock::now);
        headers.set(header::Date::new(SystemTime::from(date)));
        if let Some(name) = &self.idempotency_header
            && let Some(delivery) = DeliveryId::from_message_id(&outgoing.message_id)
        {
            headers.insert_raw(HeaderValue::new(name.clone(), delivery.to_string()));
        }
        let asked = outgoing.extras.reply_to.as_deref().and_then(reply_address);
        if let Some(reply_to) = asked.or_else(|| own.reply_to.clone()) {
            headers.set(header::ReplyTo::from(Mailboxes::from(reply_to)));
        }
        let parts = parts(outgoing, &own.from)?.formatted();
        let parts = str::from_utf8(&parts).map_err(|error| error.to_string())?;
        // With room for the final dot.
        let mut text = String::with_capacity(parts.len() + 1024);
        write!(text, "{}{headers}{COMMON_HEADERS}{parts}", own.from_line)
            .map_err(|error| error.to_string())?;
        if let Some(signer) = &own.signer {
            text = signer.sign(&text, date)?;
        }
        Ok(Composed { envelope, text, from: own.from.clone() })
    }
}

/// An address from the event for the `Reply-To` header. An address beyond ASCII is left out: it would need
/// SMTPUTF8 at every hop (RFC 6532).
fn reply_address(address: &str) -> Option<Mailbox> {
    let address = parse(address).ok()?;
    AsRef::<str>::as_ref(&address).is_ascii().then(|| Mailbox::new(None, address))
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
            date: None,
            rendered: Rendered {
                subject: "Añoranza".into(),
                html: "<p>ñ</p>".into(),
                text: "ñ".into(),
                template,
                brand: None,
                time_zone: None,
                instead_of: None,
            },
            extras,
        };
        sender.compose(&outgoing).unwrap().text
    }

    #[test]
    fn a_name_that_makes_no_header_is_refused() {
        let sender = |name: &str| Sender::new(name, "noreply@example.com", None);
        assert!(sender(&"\"".repeat(450)).is_ok());
        assert!(sender(&"x".repeat(451)).is_err());
        assert!(sender(&"Cine ".repeat(400)).is_ok());
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
    #[test]
    fn many_lines_take_no_longer_than_few() {
        let sender = Sender::new("Cine", "noreply@example.com", None).unwrap();
        let template = TemplateRef { name: "t".into(), locale: "es".into(), version: "1".into() };
        let outgoing = Outgoing {
            recipient: "user@example.com".into(),
            message_id: "<0123@example.com>".into(),
            date: None,
            rendered: Rendered {
                subject: "s".into(),
                html: "ñ\n".repeat(300_000),
                text: String::new(),
                template,
                brand: None,
                time_zone: None,
                instead_of: None,
            },
            extras: Extras::default(),
        };
        let began = std::time::Instant::now();
        let mail = sender.compose(&outgoing).unwrap().text;
        assert!(mail.len() > 900_000);
        // It took minutes when each line end moved all that follows it.
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
