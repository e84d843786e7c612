//! What the server says it can do (RFC 5321 4.1.1.1).

use super::reply::Reply;

/// The service extensions that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) pipelining: bool,
    pub(super) eight_bit_mime: bool,
    pub(super) smtputf8: bool,
    pub(super) starttls: bool,
    /// Largest mail in bytes (RFC 1870).
    pub(super) size: Option<u64>,
    pub(super) has_size: bool,
    /// SASL mechanisms, in capitals.
    pub(super) mechanisms: Vec<String>,
}

impl Capabilities {
    /// From the reply to EHLO.
    pub(super) fn read(reply: &Reply) -> Self {
        let mut found = Self::default();
        // The first line is the server's name.
        for line in reply.lines.iter().skip(1) {
            let line = line.trim().to_ascii_uppercase();
            // `AUTH=` was written before RFC 2554, and still is beside the other.
            let line =
                line.strip_prefix("AUTH=").map_or(line.clone(), |rest| format!("AUTH {rest}"));
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("PIPELINING") => found.pipelining = true,
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("SMTPUTF8") => found.smtputf8 = true,
                Some("STARTTLS") => found.starttls = true,
                Some("SIZE") => {
                    found.has_size = true;
                    found.size =
                        words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
                }
                Some("AUTH") => found.mechanisms.extend(words.map(ToOwned::to_owned)),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Capabilities {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Capabilities::read(&Reply { code: 250, lines })
    }

    #[test]
    fn capabilities_are_read_in_any_case() {
        let found =
            read(&["mx.test PIPELINING", "pipelining", "8bitMIME ", "Size 1000", "auth=login"]);
        assert!(found.pipelining && found.eight_bit_mime && !found.smtputf8 && !found.starttls);
        assert_eq!((found.size, found.mechanisms), (Some(1000), vec!["LOGIN".to_owned()]));
    }

    #[test]
    fn what_stands_in_the_first_line_or_inside_a_word_is_no_capability() {
        let found =
            read(&["STARTTLS", "X-PIPELINING", "PIPELINING2", "NO SMTPUTF8", "", "AUTHX PLAIN"]);
        assert_eq!(found, Capabilities::default());
    }

    #[test]
    fn mechanisms_of_both_spellings_are_gathered_and_a_size_of_nothing_is_no_limit() {
        let found = read(&["mx", "AUTH  PLAIN\tlogin", "AUTH=XOAUTH2", "SIZE 0", "AUTH"]);
        assert_eq!(found.mechanisms, ["PLAIN", "LOGIN", "XOAUTH2"]);
        assert!(found.has_size && found.size.is_none());
        assert_eq!(read(&["mx", "SIZE"]).size, None);
        assert_eq!(read(&["mx", "SIZE many"]).size, None);
    }
}
