//! Finds a mail address or a phone number in texts, JSON and message bodies.

use std::ops::Range;

use serde_json::Value;

use super::ERASED;

/// Matches an address regardless of case, or a number however its digits are grouped.
#[derive(Debug, Clone)]
pub struct AddressMatcher(Wanted);

#[derive(Debug, Clone)]
enum Wanted {
    /// In lower case.
    Address(String),
    /// The digits after the plus sign.
    Number(String),
}

/// Digits from which on a number is found without its plus sign. Shorter ones may be anything.
const MIN_BARE_DIGITS: usize = 10;

impl AddressMatcher {
    pub fn new(recipient: &str) -> Self {
        let recipient = recipient.trim();
        Self(match recipient.strip_prefix('+') {
            Some(number) => Wanted::Number(number.chars().filter(char::is_ascii_digit).collect()),
            None => Wanted::Address(recipient.to_lowercase()),
        })
    }

    /// Whether the text contains the address or number. It does not match as part of a longer one.
    pub fn is_in(&self, text: &str) -> bool {
        match &self.0 {
            Wanted::Address(address) => is_address_in(address, text),
            Wanted::Number(digits) => !numbers_in(digits, text).is_empty(),
        }
    }

    pub fn is_within(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.is_in(text),
            Value::Array(items) => items.iter().any(|item| self.is_within(item)),
            Value::Object(fields) => {
                fields.iter().any(|(name, value)| self.is_in(name) || self.is_within(value))
            }
            Value::Number(number) => self.is_in(&number.to_string()),
            _ => false,
        }
    }

    pub fn is_in_body(&self, body: &[u8]) -> bool {
        match crate::event::read_json(body) {
            Ok(value) => self.is_within(&value),
            Err(_) => self.is_in(&String::from_utf8_lossy(body)),
        }
    }

    /// The text with the address or number replaced by [`ERASED`].
    pub fn cut_from(&self, text: &str) -> String {
        if let Wanted::Number(digits) = &self.0 {
            let mut kept = text.to_owned();
            for found in numbers_in(digits, text).into_iter().rev() {
                kept.replace_range(found, ERASED);
            }
            return kept;
        }
        let words = text.split_inclusive(char::is_whitespace);
        let kept =
            words.map(|word| if self.is_in(word) { format!("{ERASED} ") } else { word.to_owned() });
        kept.collect::<String>().trim_end().to_owned()
    }
}

fn is_address_in(address: &str, text: &str) -> bool {
    // Most texts contain no address.
    if address.is_empty() || text.len() < address.len() || !text.contains('@') {
        return false;
    }
    let text = text.to_lowercase();
    text.match_indices(address).any(|(at, found)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + found.len()..].chars();
        let next = after.next();
        // A full stop at the end of a sentence is not part of the domain.
        let goes_on = match next {
            Some('.' | '-') => after.next().is_some_and(char::is_alphanumeric),
            other => other.is_some_and(|c| c.is_alphanumeric() || c == '_'),
        };
        !before.is_some_and(is_of_a_name) && !goes_on
    })
}

/// Where a number stands: with a plus sign or 00 before it, or bare if it is long. Its digits may be grouped.
fn numbers_in(digits: &str, text: &str) -> Vec<Range<usize>> {
    let runs = digit_runs(text);
    let mut found: Vec<Range<usize>> = Vec::new();
    for (first, run) in runs.iter().enumerate() {
        if found.last().is_some_and(|last| run.start < last.end) {
            continue;
        }
        let before = text[..run.start].trim_end_matches(is_of_a_number);
        let is_marked = before.ends_with('+');
        let start = if is_marked { before.len() - 1 } else { run.start };
        for prefix in ["", "00"] {
            let is_long = digits.len() >= MIN_BARE_DIGITS;
            if let Some(rest) = text[run.clone()].strip_prefix(prefix)
                && (is_marked || !prefix.is_empty() || is_long)
                && let Some(end) = end_of_number(digits, rest, &runs[first..], text)
            {
                found.push(start..end);
                break;
            }
        }
    }
    found
}

fn digit_runs(text: &str) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
        match runs.last_mut().filter(|run| run.end == at) {
            Some(run) => run.end += 1,
            None => runs.push(at..at + 1),
        }
    }
    runs
}

/// Where the number ends that begins with `start`, the first of these runs.
fn end_of_number(digits: &str, start: &str, runs: &[Range<usize>], text: &str) -> Option<usize> {
    let mut rest = digits.strip_prefix(start)?;
    let mut last = runs.first()?;
    for run in &runs[1..] {
        let between = &text[last.end..run.start];
        if rest.is_empty() || !between.chars().all(is_of_a_number) {
            break;
        }
        let Some(after) = rest.strip_prefix(&text[run.clone()]) else { break };
        (rest, last) = (after, run);
    }
    rest.is_empty().then_some(last.end)
}

/// Characters that group digits.
fn is_of_a_number(c: char) -> bool {
    c.is_whitespace() || matches!(c, '-' | '.' | '(' | ')' | '/' | '\u{2010}'..='\u{2013}')
}

/// Characters allowed before the @ (RFC 5322 section 3.2.3), except those that often surround an
/// address.
fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&*+-./?^_{|}~".contains(c)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_is_found_however_it_is_grouped_and_is_no_part_of_another() {
        let ana = AddressMatcher::new("+57 300 123 4567");
        for text in [
            "+573001234567",
            "call +57 (300) 123-4567 today",
            "0057 300.123.4567",
            "+ 57 300 1234567",
            "573001234567",
            "The 'To' number +573001234567, is not valid",
            "573001234567 573007654321",
            "+573007654321/+57 300-1234567",
            "2 tickets, 57 300 123 4567",
        ] {
            assert!(ana.is_in(text), "{text}");
        }
        for text in ["", "+57300123456", "+5730012345678", "9573001234567", "ana@example.com"] {
            assert!(!ana.is_in(text), "{text}");
        }
        assert!(ana.is_within(&json!({"phone": 573_001_234_567_u64})));
        assert_eq!(
            ana.cut_from("ñ +57 300 1234567, twice: 573001234567."),
            "ñ (erased), twice: (erased)."
        );
        let short = AddressMatcher::new("+1234567");
        assert!(short.is_in("+1234567") && !short.is_in("order 1234567"));
    }

    /// The fuzz target `forget` without a fuzzer.
    #[test]
    fn what_was_cut_out_is_not_found_any_more() {
        let pieces =
            ["+", "0", "57", "3", "1", " ", "-", "(", "/", "00", "x", "@", "ñ", "\n", "a@b.c", "."];
        let mut seed = 1_u64;
        let mut next = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let mut text =
                |most| (0..next(most)).map(|_| pieces[next(pieces.len())]).collect::<String>();
            let (before, after, digits) = (text(12), text(12), text(8));
            let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
            if digits.is_empty() {
                continue;
            }
            for person in [format!("+{digits}"), "a@b.c".to_owned()] {
                let matcher = AddressMatcher::new(&person);
                let about = format!("{before}\n<{person}>\n{after}");
                assert!(matcher.is_in(&about), "{person} in {about:?}");
                let cut = matcher.cut_from(&about);
                assert!(!matcher.is_in(&cut), "{person} in {about:?}: {cut:?}");
            }
        }
    }

    #[test]
    fn an_address_is_found_wherever_it_stands_and_is_no_part_of_another() {
        let ana = AddressMatcher::new(" Ana@Example.com");
        for text in [
            "ana@example.com",
            "550 <ANA@example.com>: no such user",
            "mailto:ana@example.com",
            "write to ana@example.com.",
            "'ana@example.com', bob@example.com",
            "juana@example.com,ana@example.com",
        ] {
            assert!(ana.is_in(text), "{text}");
        }
        for text in [
            "",
            "juana@example.com",
            "x.ana@example.com",
            "ana@example.com.co",
            "ana@example.community",
            "ana@example.com-pany.test",
            "ana at example.com",
        ] {
            assert!(!ana.is_in(text), "{text}");
        }
        assert!(ana.is_within(&json!({"a": [{"b": "Ana@example.com"}]})));
        assert!(ana.is_in_body(br#"{"to": "an\u0061@example.com"}"#));
        assert!(ana.is_in_body(b"no JSON, but ana@example.com"));
        assert_eq!(ana.cut_from("call from ana@example.com today"), "call from (erased) today");
    }
}
