//! Replies (RFC 5321 4.2): strict about codes and line ends, tolerant of any bytes in the text.
//!
//! `smtp-proto` was tried first. It takes the code of a reply from its first line alone (`250-` and
//! then `550` is 250), and it drops the text of what is longer than 4 096 bytes.

use std::fmt::Write;

use memchr::memmem;

/// Longest reply that is read, in bytes. RFC 5321 4.5.3.1.5 allows 512 for a line; some say more.
const MAX_REPLY: usize = 1024 * 1024;
/// Longest text that is kept of a reply, in characters.
const MAX_TEXT: usize = 500;

/// A complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The text of each line, printable.
    pub(super) lines: Vec<String>,
}

/// The server says something that is no reply. Whatever comes next can't be told apart either, so
/// the connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an SMTP reply: {0}")]
pub(super) struct Malformed(String);

/// A reply in the making.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    code: Option<u16>,
    /// Two lines had different codes of one kind.
    is_mixed: bool,
    lines: Vec<String>,
    read: usize,
    /// Where no line end was found before.
    searched: usize,
}

impl ReplyReader {
    /// Takes whole lines from the front of `input`, until they are a reply.
    ///
    /// # Errors
    /// It can't become a reply any more.
    pub(super) fn take(&mut self, input: &mut Vec<u8>) -> Result<Option<Reply>, Malformed> {
        let mut taken = 0;
        let reply = loop {
            let rest = &input[taken..];
            let Some(end) = memmem::find(&rest[self.searched..], b"\r\n") else {
                // The last byte may be the first half of a line end.
                self.searched = rest.len().saturating_sub(1);
                if self.read + rest.len() > MAX_REPLY {
                    return Err(Malformed(format!("more than {MAX_REPLY} bytes")));
                }
                break None;
            };
            let line = &rest[..self.searched + end];
            taken += line.len() + 2;
            self.read += line.len() + 2;
            self.searched = 0;
            let is_last = self.line(line)?;
            if self.read > MAX_REPLY {
                return Err(Malformed(format!("more than {MAX_REPLY} bytes")));
            }
            if is_last {
                let reader = std::mem::take(self);
                break reader.code.map(|code| Reply { code, lines: reader.lines });
            }
        };
        input.drain(..taken);
        Ok(reply)
    }

    /// Whether this line is the last one.
    fn line(&mut self, line: &[u8]) -> Result<bool, Malformed> {
        let malformed = || Malformed(shortened(&printable(line)));
        let (code, rest) = line.split_first_chunk::<3>().ok_or_else(malformed)?;
        if !matches!(code, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']) {
            return Err(malformed());
        }
        let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        let (is_last, text) = match rest {
            [] => (true, rest),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(malformed()),
        };
        if let Some(before) = self.code.replace(code) {
            self.is_mixed |= before != code;
            // RFC 5321 4.2.1 has one code for all lines. What is refused by two codes is refused;
            // what is accepted by one line and not by another is anybody's guess.
            if before / 100 != code / 100 || (self.is_mixed && code < 400) {
                return Err(Malformed(format!("{before}- and then {code}")));
            }
        }
        self.lines.push(printable(text));
        Ok(is_last)
    }
}

impl Reply {
    /// Its lines as one text.
    pub(super) fn text(&self) -> String {
        shortened(&self.lines.join(" "))
    }

    /// The enhanced status code (RFC 2034) that its text begins with.
    pub(super) fn enhanced(&self) -> Option<Enhanced> {
        self.lines.iter().find_map(|line| Enhanced::parse(line.split(' ').next()?))
    }
}

/// An enhanced status code (RFC 3463): class, subject and detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Enhanced(pub(super) u16, pub(super) u16, pub(super) u16);

impl Enhanced {
    fn parse(word: &str) -> Option<Self> {
        let number = |part: &str| {
            let is_number =
                (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| part.parse().ok()).flatten()
        };
        let mut parts = word.split('.').map(number);
        let code = Self(parts.next()??, parts.next()??, parts.next()??);
        (parts.next().is_none() && matches!(code.0, 2 | 4 | 5)).then_some(code)
    }
}

impl std::fmt::Display for Enhanced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Bytes as text: what is no character, or none to print, stands there as its number.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let number = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => text.push(' '),
                c if c.is_control() => number(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        number(&mut text, chunk.invalid());
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Option<Reply>, Vec<u8>), Malformed> {
        let mut input = bytes.to_vec();
        let reply = ReplyReader::default().take(&mut input)?;
        Ok((reply, input))
    }

    fn whole(bytes: &[u8]) -> Reply {
        let (reply, left) = read(bytes).unwrap();
        assert!(left.is_empty(), "{left:?}");
        reply.unwrap()
    }

    #[test]
    fn the_code_counts_and_any_text_will_do() {
        for (bytes, code, text) in [
            (&b"250 ok\r\n"[..], 250, "ok"),
            (b"250\r\n", 250, ""),
            (b"354 \r\n", 354, ""),
            (b"354\r\n", 354, ""),
            (b"571 blocked\r\n", 571, "blocked"),
            (b"220-a\r\n220-\r\n220 b\r\n", 220, "a  b"),
            (b"250 gr\xfc\xdfe\r\n", 250, "gr\\xfc\\xdfe"),
            (b"250 a\x00b\x1b[1m\r\n", 250, "a\\x00b\\x1b[1m"),
            (b"250 a\rb\nc\r\n", 250, "a\\x0db\\x0ac"),
            (b"550-5.1.1 no\r\n554 5.1.1 user\r\n", 554, "5.1.1 no 5.1.1 user"),
            ("250 grüße\tdir\r\n".as_bytes(), 250, "grüße dir"),
        ] {
            let reply = whole(bytes);
            assert_eq!((reply.code, reply.text().as_str()), (code, text), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_none() {
        for bytes in [
            &b"\r\n"[..],
            b"ok\r\n",
            b"25\r\n",
            b"2500 ok\r\n",
            b"25O ok\r\n",
            b" 250 ok\r\n",
            b"250\tok\r\n",
            b"250_ok\r\n",
            b"100 go on\r\n",
            b"650 ok\r\n",
            b"000 ok\r\n",
            b"250-ok\r\nmore\r\n",
            b"250-ok\r\n550 no\r\n",
            b"550-no\r\n250 ok\r\n",
            b"250-ok\r\n251 ok\r\n",
            b"250-ok\r\n251-ok\r\n250 ok\r\n",
            b"354-a\r\n250 ok\r\n",
            b"\xff50 ok\r\n",
        ] {
            let found = read(bytes);
            assert!(found.is_err(), "{bytes:?}: {found:?}");
        }
    }

    #[test]
    fn a_line_ends_with_both_its_bytes_and_not_before() {
        for bytes in [&b"250 ok"[..], b"250 ok\n", b"250 ok\r", b"250-ok\r\n", b"25", b""] {
            let (reply, left) = read(bytes).unwrap();
            assert_eq!(reply, None, "{bytes:?}");
            assert!(left.len() <= bytes.len());
        }
    }

    #[test]
    fn a_reply_in_pieces_is_the_same_reply_and_takes_no_byte_of_the_next() {
        let bytes = b"250-first\r\n250-\r\n250 5.1.1 last\r\n354 go on\r\n";
        for size in 1..=bytes.len() {
            let (mut reader, mut input, mut replies) = (ReplyReader::default(), Vec::new(), vec![]);
            for piece in bytes.chunks(size) {
                input.extend_from_slice(piece);
                while let Some(reply) = reader.take(&mut input).unwrap() {
                    replies.push(reply.code);
                }
            }
            assert_eq!(replies, [250, 354], "in pieces of {size}");
            assert!(input.is_empty());
        }
    }

    #[test]
    fn long_replies_count_and_endless_ones_do_not() {
        let long = whole(&[&b"250 "[..], &[b'x'; 70_000], b"\r\n"].concat());
        assert_eq!((long.code, long.text().len()), (250, MAX_TEXT));
        assert!(read(&[b'2'; MAX_REPLY + 1]).is_err());
        assert!(read(&b"250-x\r\n".repeat(MAX_REPLY / 7 + 1)).is_err());
    }

    #[test]
    fn enhanced_codes_are_read_where_there_are_some() {
        let enhanced = |text: &str| Reply { code: 550, lines: vec![text.to_owned()] }.enhanced();
        assert_eq!(enhanced("5.1.1 no such user"), Some(Enhanced(5, 1, 1)));
        assert_eq!(enhanced("5.2.252 SendAsDenied; x"), Some(Enhanced(5, 2, 252)));
        for text in ["no such user", "5.1 x", "5.1.1.1 x", "192.0.2 x", "5..1 x", "5.1.1000 x", ""]
        {
            assert_eq!(enhanced(text), None, "{text}");
        }
    }
}
