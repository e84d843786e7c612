//! Text from outside, made harmless.

use std::{borrow::Cow, fmt::Write};

/// Replaces what steers a terminal or reverses the text by blanks: the text stays on its line and reads as
/// it is written.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if steers(c) { ' ' } else { c }).collect()
}

/// Writes characters that steer a terminal as JSON's escapes, such as `\u001b`, so JSON keeps its meaning.
/// Tabs and ends of lines stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_layout = |text: &str| text.starts_with(['\n', '\t']) || text.starts_with("\r\n");
    if !text.char_indices().any(|(at, c)| steers(c) && !is_layout(&text[at..])) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        if !steers(c) || is_layout(&text[at..]) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string can't fail.
            let _ = write!(shown, "\\u{unit:04x}");
        }
    }
    Cow::Owned(shown)
}

/// A reason without what differs from message to message: quoted texts and numbers.
pub(crate) fn kind_of_reason(reason: &str) -> String {
    const LONGEST: usize = 120;
    let mut kind = String::new();
    let mut chars = reason.chars().peekable();
    while let Some(next) = chars.next() {
        if next == '"' {
            while let Some(quoted) = chars.next() {
                match quoted {
                    '\\' => drop(chars.next()),
                    '"' => break,
                    _ => {}
                }
            }
            kind.push('…');
        } else if next.is_ascii_digit() {
            while chars.next_if(|next| next.is_ascii_digit() || *next == '.').is_some() {}
            kind.push('N');
        } else {
            kind.push(next);
        }
    }
    kind.chars().take(LONGEST).collect()
}

/// Whether a reader can't see this character. The joiners U+200C and U+200D are not among them: several
/// scripts need them.
pub(crate) fn is_invisible(c: char) -> bool {
    let is_filler =
        matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    is_filler || is_directional(c)
}

/// Whether a terminal could obey the character instead of showing it, or show others in its order: control
/// characters, line separators, annotations and tags.
fn steers(c: char) -> bool {
    let is_layout = matches!(c, '\u{2028}' | '\u{2029}' | '\u{206a}'..='\u{206f}');
    let is_hidden = matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    c.is_control() || is_directional(c) || is_layout || is_hidden
}

/// The marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm (UAX 9, 2).
fn is_directional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_the_line_or_steers_a_terminal() {
        assert_eq!(one_line("a\u{1b}[31mb\r\nc\u{9b}2J"), "a [31mb  c 2J");
        assert_eq!(one_line("photo\u{202e}gpj.exe"), "photo gpj.exe");
    }

    #[test]
    fn what_steers_a_terminal_is_shown_as_an_escape_and_json_keeps_its_meaning() {
        assert_eq!(printable("a\tb\r\nc\n"), "a\tb\r\nc\n");
        assert_eq!(printable("\u{1b}]0;x\u{7}\rb\u{7f}"), r"\u001b]0;x\u0007\u000db\u007f");
        let json = serde_json::json!("Año 👩‍👩‍👧 \u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{e0041}");
        let text = json.to_string();
        let shown = printable(&text);
        assert!(shown.chars().all(|c| !steers(c)) && shown.contains("Año 👩‍👩‍👧"), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).ok(), Some(json));
    }
}
