//! The MIME tree of a mail. Most are a text and an HTML part; what else there is goes around them:
//!
//! ```text
//! multipart/mixed                 with attachments or a calendar entry only
//! ├── multipart/alternative
//! │   ├── text/plain
//! │   └── multipart/related       with a QR code only
//! │       ├── text/html
//! │       └── image/png
//! ├── the attachments
//! └── text/calendar
//! ```

use lettre::message::{
    Attachment, Body, Mailbox, MultiPart, MultiPartBuilder, MultiPartKind, SinglePart,
    header::{ContentTransferEncoding, ContentType},
};

use super::{encoding, icalendar::ics};
use crate::{
    channel::{CalendarEntry, Outgoing, QrCode},
    event,
};

/// Builds the tree.
///
/// # Errors
/// A part can't be encoded.
pub(super) fn parts(outgoing: &Outgoing, sender: &Mailbox) -> Result<MultiPart, String> {
    let (rendered, extras) = (&outgoing.rendered, &outgoing.extras);
    let text = words(ContentType::TEXT_PLAIN, &rendered.text);
    let html = words(ContentType::TEXT_HTML, &rendered.html);
    // The same in each attempt, and in no text: encoded ones have no "=_".
    let id = outgoing.message_id.trim_matches(['<', '>']).split('@').next().unwrap_or_default();
    let multipart = |kind, name| MultiPart::builder().kind(kind).boundary(format!("=_{name}_{id}"));
    let alternative = multipart(MultiPartKind::Alternative, "alternative").singlepart(text);
    let alternative = match &extras.qr {
        None => alternative.singlepart(html),
        Some(qr) => {
            alternative.multipart(related(multipart(MultiPartKind::Related, "related"), html, qr)?)
        }
    };
    if extras.attachments.is_empty() && extras.calendar.is_none() {
        return Ok(alternative);
    }
    let mut mixed = multipart(MultiPartKind::Mixed, "mixed").multipart(alternative);
    for file in &extras.attachments {
        mixed = mixed.singlepart(attached(file)?);
    }
    if let Some(entry) = &extras.calendar {
        mixed = mixed.singlepart(invitation(entry, sender)?);
    }
    Ok(mixed)
}

fn words(kind: ContentType, body: &str) -> SinglePart {
    let part = SinglePart::builder().header(kind);
    match encoding::seven_bit(body) {
        Some(bytes) => {
            part.body(Body::dangerous_pre_encoded(bytes, ContentTransferEncoding::SevenBit))
        }
        None => part.body(encoding::crlf(&encoding::body(body))),
    }
}

fn related(
    multipart: MultiPartBuilder,
    html: SinglePart,
    qr: &QrCode,
) -> Result<MultiPart, String> {
    let image = Attachment::new_inline_with_name(qr.name.clone(), format!("{}.png", qr.name));
    let image = image.body(binary(qr.png.clone())?, media_type("image/png")?);
    let mut related = multipart.singlepart(html).singlepart(image);
    // RFC 2387 3.1 requires the type of the root part, and lettre leaves it out.
    let boundary = related.boundary();
    let kind = format!("multipart/related; type=\"text/html\"; boundary=\"{boundary}\"");
    related.headers_mut().set(media_type(&kind)?);
    Ok(related)
}

fn media_type(text: &str) -> Result<ContentType, String> {
    ContentType::parse(text).map_err(|error| error.to_string())
}

fn attached(file: &event::Attachment) -> Result<SinglePart, String> {
    let part = Attachment::new(file.name.clone());
    Ok(part.body(binary(file.content.clone())?, ContentType::from(file.kind.clone())))
}

/// The calendar entry as an attachment. As one of the alternatives, Outlook would show it in place of the
/// mail (MS-STANOICAL 2.2.168), or "not supported calendar message.ics". Gmail, Apple Mail and
/// Thunderbird offer to add an attachment to the calendar too.
fn invitation(entry: &CalendarEntry, sender: &Mailbox) -> Result<SinglePart, String> {
    let method = entry.method.as_str();
    // RFC 6047 2.4: the method must be that of the entry.
    let kind = media_type(&format!("text/calendar; charset=utf-8; method={method}"))?;
    let part = Attachment::new("invite.ics".to_owned());
    Ok(part.body(binary(ics(entry, sender).into_bytes())?, kind))
}

/// Always base64: 7bit, which lettre chooses for ASCII, would change line ends.
fn binary(content: Vec<u8>) -> Result<Body, String> {
    let encoded = Body::new_with_encoding(content, ContentTransferEncoding::Base64);
    encoded.map_err(|_| "a part can't be encoded".to_owned())
}

#[cfg(test)]
mod tests {
    use mail_parser::{Message, MessageParser, MimeHeaders, PartType};

    use super::{super::qr_png, *};
    use crate::{
        audit::TemplateRef, channel::Extras, event::Attachment, routing::CalendarMethod,
        template::Rendered,
    };

    fn formatted(extras: Extras) -> Vec<u8> {
        let template = TemplateRef { name: "t".into(), locale: "es".into(), version: "1".into() };
        let (subject, html, text) = ("Reserva".into(), "<p>ñ</p>".into(), "ñ".into());
        let outgoing = Outgoing {
            recipient: "user@example.com".into(),
            message_id: "<0123@example.com>".into(),
            date: None,
            rendered: Rendered {
                subject,
                html,
                text,
                template,
                brand: None,
                time_zone: None,
                instead_of: None,
            },
            extras,
        };
        parts(&outgoing, &sender()).unwrap().formatted()
    }

    fn sender() -> Mailbox {
        "Cine <noreply@example.com>".parse().unwrap()
    }

    /// Media types of a part and of all parts within it.
    fn tree(message: &Message<'_>, part: u32) -> String {
        let part = &message.parts[part as usize];
        let kind = part.content_type().unwrap();
        let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap());
        match &part.body {
            PartType::Multipart(inner) => {
                let inner: Vec<_> = inner.iter().map(|part| tree(message, *part)).collect();
                format!("{kind}({})", inner.join(" "))
            }
            _ => kind,
        }
    }

    #[test]
    fn words_alone_are_two_alternatives() {
        let mail = formatted(Extras::default());
        let mail = MessageParser::default().parse(&mail).unwrap();
        assert_eq!(tree(&mail, 0), "multipart/alternative(text/plain text/html)");
    }

    #[test]
    fn attachments_follow_the_words_byte_for_byte() {
        let files = [
            ("factura ñandú, 2024.pdf", "application/pdf", &b"%PDF\n\xff"[..]),
            ("a.csv", "text/csv; charset=utf-8", b"a,b\n1,2\r\n.\n"),
            (&format!("{}.txt", "x".repeat(200)), "text/plain; name=\"a; b\"", &[b'y'; 5000]),
        ];
        let attachments = files.map(|(name, kind, content)| Attachment {
            name: name.into(),
            kind: kind.parse().unwrap(),
            content: content.into(),
        });
        let raw = formatted(Extras { attachments: attachments.into(), ..Extras::default() });
        assert!(raw.is_ascii());
        assert!(raw.split(|byte| *byte == b'\n').all(|line| line.len() < 100));
        let mail = MessageParser::default().parse(&raw).unwrap();
        assert_eq!(
            tree(&mail, 0),
            "multipart/mixed(multipart/alternative(text/plain text/html) \
             application/pdf text/csv text/plain)"
        );
        for (index, (name, _, content)) in files.into_iter().enumerate() {
            let part = mail.attachment(u32::try_from(index).unwrap()).unwrap();
            assert_eq!(part.attachment_name(), Some(name));
            assert!(part.content_disposition().unwrap().is_attachment());
            assert_eq!(part.contents(), content);
        }
    }

    #[test]
    fn a_qr_code_is_an_image_beside_the_html() {
        let qr = QrCode { name: "qr_code".into(), png: qr_png("TRANS123").unwrap() };
        let raw = formatted(Extras { qr: Some(qr), ..Extras::default() });
        let mail = MessageParser::default().parse(&raw).unwrap();
        assert_eq!(
            tree(&mail, 0),
            "multipart/alternative(text/plain multipart/related(text/html image/png))"
        );
        let image = mail.parts.iter().find(|part| part.content_id().is_some()).unwrap();
        assert_eq!(image.content_id(), Some("qr_code"));
        assert!(image.content_disposition().unwrap().is_inline());
        assert_eq!(image.contents(), qr_png("TRANS123").unwrap());
        assert!(String::from_utf8(raw).unwrap().contains("type=\"text/html\""));
    }

    #[test]
    fn a_calendar_entry_is_a_file_after_the_attachments() {
        let calendar = CalendarEntry {
            method: CalendarMethod::Publish,
            uid: "B-1".into(),
            sequence: 0,
            stamp: "2024-12-01T17:00:00Z".parse().unwrap(),
            summary: "Añoranza".into(),
            location: String::new(),
            time: None,
        };
        let file = Attachment {
            name: "a.pdf".into(),
            kind: "application/pdf".parse().unwrap(),
            content: b"%PDF".into(),
        };
        let qr = QrCode { name: "qr_code".into(), png: qr_png("TRANS123").unwrap() };
        let raw = formatted(Extras {
            reply_to: None,
            sender: None,
            attachments: vec![file],
            qr: Some(qr),
            calendar: Some(calendar.clone()),
        });
        let mail = MessageParser::default().parse(&raw).unwrap();
        assert_eq!(
            tree(&mail, 0),
            "multipart/mixed(multipart/alternative(text/plain \
             multipart/related(text/html image/png)) application/pdf text/calendar)"
        );
        let part = mail.parts.last().unwrap();
        assert_eq!(part.attachment_name(), Some("invite.ics"));
        let kind = part.content_type().unwrap();
        assert_eq!(kind.attribute("method"), Some("PUBLISH"));
        assert_eq!(kind.attribute("charset"), Some("utf-8"));
        assert_eq!(part.contents(), ics(&calendar, &sender()).as_bytes());
    }
}
