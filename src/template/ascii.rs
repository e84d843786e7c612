//! HTML in ASCII and short lines, so that a mail's HTML part needs no transfer encoding.
//!
//! To encode a part costs more than to render it, and makes it larger. Characters beyond ASCII are
//! written as references, which are the same to every reader; lines are broken within tags, where
//! white space has no meaning.

use std::fmt::Write;

use super::include::{Piece, print};

/// A line is broken at the first tag after this many bytes; RFC 5322 2.1.1 allows 998.
const LONG: usize = 400;

/// A template's HTML; its tags stay as they are.
pub(super) fn html(mut pieces: Vec<Piece>) -> Vec<Piece> {
    let mut writer = Writer::default();
    for piece in &mut pieces {
        match piece {
            Piece::Text(text, _) => *text = writer.text(text),
            Piece::Tag(_) => {
                // Its braces don't count: most tags print no more than what is in them.
                writer.column += print(std::slice::from_ref(piece)).len() - 4;
            }
        }
    }
    pieces
}

#[derive(Default)]
struct Writer {
    column: usize,
    /// Within `<style>` references mean nothing: CSS has escapes of its own.
    in_style: bool,
}

impl Writer {
    fn text(&mut self, markup: &str) -> String {
        let mut ascii = String::with_capacity(markup.len() + markup.len() / 8);
        let mut in_name = false;
        for (at, letter) in markup.char_indices() {
            if letter == ' ' && in_name && self.column > LONG {
                // The blank between a tag's name and its attributes.
                ascii.push('\n');
                (self.column, in_name) = (0, false);
                continue;
            }
            if letter == '<' {
                let tag = markup.as_bytes().get(at + 1..at + 7).unwrap_or_default();
                self.in_style = (self.in_style && !tag.eq_ignore_ascii_case(b"/style"))
                    || tag.get(..5).is_some_and(|it| it.eq_ignore_ascii_case(b"style"));
            }
            in_name = letter == '<' || (in_name && letter.is_ascii_alphanumeric());
            self.column = if letter == '\n' { 0 } else { self.column + 1 };
            if self.in_style && !letter.is_ascii() {
                // The blank ends the escape (CSS Syntax 4.3.7).
                let _ = write!(ascii, "\\{:x} ", u32::from(letter));
            } else {
                push(&mut ascii, letter);
            }
        }
        ascii
    }
}

/// Prints a value as text within HTML: no markup, no control characters, ASCII.
pub(super) fn escape(value: &str, out: &mut String) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b" -_.,:;/#()+@".contains(&byte);
    if value.bytes().all(is_plain) {
        out.push_str(value);
        return;
    }
    let mut letters = value.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Within attributes without quotes these would end the value.
            '`' => out.push_str("&#96;"),
            '=' => out.push_str("&#61;"),
            '\n' | '\t' => out.push(letter),
            '\r' if letters.peek() == Some(&'\n') => {}
            '\r' => out.push('\n'),
            _ if letter.is_control() => out.push_str("&#65533;"),
            _ => push(out, letter),
        }
    }
}

fn push(out: &mut String, letter: char) {
    // Readers drop references to what Unicode calls noncharacters (its section 23.7).
    let is_noncharacter =
        u32::from(letter) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&letter);
    if letter.is_ascii() || is_noncharacter {
        out.push(letter);
    } else {
        let _ = write!(out, "&#{};", u32::from(letter));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::syntax::At, *};

    fn written(markup: &str) -> String {
        let pieces = super::html(vec![Piece::Text(markup.to_owned(), At::default())]);
        print(&pieces)
    }

    #[test]
    fn markup_is_ascii() {
        let html =
            "<p>Pel\u{ed}cula \u{b7}</p><style>a::after { content: \"\u{2192}b\" }</style>\u{b7}";
        let ascii =
            "<p>Pel&#237;cula &#183;</p><style>a::after { content: \"\\2192 b\" }</style>&#183;";
        assert_eq!(written(html), ascii);
    }

    #[test]
    fn long_lines_are_broken_within_tags_only() {
        let row = "<tr><td class=\"a b\">a  b c</td></tr>";
        let html = row.repeat(50);
        let broken = written(&html);
        assert!(broken.lines().all(|line| line.len() < 2 * LONG), "{broken}");
        assert!(broken.lines().count() > 3);
        assert_eq!(broken.replace("<td\n", "<td "), html);
    }

    #[test]
    fn values_are_never_markup() {
        let escape = |value| {
            let mut out = String::new();
            super::escape(value, &mut out);
            out
        };
        assert_eq!(
            escape("<b a='1' c=`2`>\"&\" \u{f1}\u{1f600}"),
            "&lt;b a&#61;&#39;1&#39; c&#61;&#96;2&#96;&gt;&quot;&amp;&quot; &#241;&#128512;"
        );
        assert_eq!(escape("a\r\nb\rc\u{0}\u{9b}"), "a\nb\nc&#65533;&#65533;");
    }
}
