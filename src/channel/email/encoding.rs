//! Encodes subjects and bodies for transport.

use std::{borrow::Cow, fmt};

use email_encoding::headers::{rfc2047, writer::EmailWriter};
use lettre::message::header::{HeaderName, HeaderValue};
use memchr::memchr_iter;

/// A header is folded between words, and its lines should have at most 78 bytes (RFC 5322 2.1.1).
const MAX_WORD: usize = 76;

/// Longest line of a body that is sent without encoding, in bytes (RFC 5322 2.1.1).
const MAX_LINE: usize = 998;

/// Encodes a subject so that every mail reader shows it unchanged.
///
/// lettre encodes words beyond ASCII only. Two more kinds need it: words that look encoded, which
/// readers would decode, and words longer than a line.
pub(super) fn subject(text: &str) -> Result<HeaderValue, fmt::Error> {
    let name = HeaderName::new_from_ascii_str("Subject");
    let is_safe = |word: &str| word.len() <= MAX_WORD && !word.contains("=?");
    if text.split(' ').all(is_safe) {
        return Ok(HeaderValue::new(name, text.to_owned()));
    }
    let mut encoded = String::new();
    rfc2047::encode(text, &mut EmailWriter::new(&mut encoded, "Subject: ".len(), 0, false))?;
    Ok(HeaderValue::dangerous_new_pre_encoded(name, text.to_owned(), encoded))
}

/// The body with CRLF line ends, if it can be sent without encoding: ASCII without control characters,
/// in lines that are not too long (RFC 2045 2.7).
pub(super) fn seven_bit(text: &str) -> Option<Vec<u8>> {
    let stray = |byte: u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t');
    // Looks at every byte: a loop without a branch is vectorised.
    if !text.is_ascii() || text.bytes().fold(false, |found, byte| found | stray(byte)) {
        return None;
    }
    let mut body = Vec::with_capacity(text.len() + text.len() / 32 + 2);
    let mut begin = 0;
    for end in memchr_iter(b'\n', text.as_bytes()).chain([text.len()]) {
        if end - begin > MAX_LINE {
            return None;
        }
        if begin > 0 {
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(&text.as_bytes()[begin..end]);
        begin = end + 1;
    }
    Some(body)
}

/// A body with the line ends of mail. lettre inserts them one by one, and moves the rest of the body each
/// time.
pub(super) fn crlf(body: &str) -> String {
    body.replace('\n', "\r\n")
}

/// Normalises line ends and replaces each control character by U+FFFD. Mail may contain neither a lone CR
/// (RFC 5322 2.3) nor a NUL (RFC 2045 2.7).
pub(super) fn body(text: &str) -> Cow<'_, str> {
    let is_stray = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_stray) {
        return Cow::Borrowed(text);
    }
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    Cow::Owned(lines.replace(is_stray, "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_body() {
        assert_eq!(body("ñ\n\tx"), "ñ\n\tx");
        assert_eq!(
            body("a\r\nb\rc\r\r\nd\0\u{1b}[1m\u{9b}"),
            "a\nb\nc\n\nd\u{fffd}\u{fffd}[1m\u{fffd}"
        );
    }

    #[test]
    fn what_needs_no_encoding_gets_none() {
        assert_eq!(seven_bit("a\nb\n").unwrap(), b"a\r\nb\r\n");
        assert_eq!(seven_bit("").unwrap(), b"");
        for text in ["\u{f1}", "a\rb", "\0", &"x".repeat(999)] {
            assert_eq!(seven_bit(text), None);
        }
    }

    #[test]
    fn subjects_are_encoded_where_they_must_be() {
        let line = |text: &str| {
            let mut headers = lettre::message::header::Headers::new();
            headers.insert_raw(subject(text).unwrap());
            headers.to_string()
        };
        assert_eq!(line("What? 1=1 & so on"), "Subject: What? 1=1 & so on\r\n");
        assert_eq!(line("Hello Ñ"), "Subject: Hello =?utf-8?b?w5E=?=\r\n");
        assert_eq!(line("a =?utf-8?q?b?="), "Subject: =?utf-8?b?YSA9P3V0Zi04P3E/Yj89?=\r\n");
        let long = line(&"x".repeat(5000));
        assert!(long.lines().all(|line| line.len() <= 78), "{long}");
    }
}
