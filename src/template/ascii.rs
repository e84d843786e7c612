//! HTML in ASCII and short lines, so that a mail's HTML part needs no transfer encoding.
//!
//! To encode a part costs more than to render it, and makes it larger. Characters beyond ASCII are
//! written as references, which are the same to every reader; lines are broken within tags, where
//! white space has no meaning.

use std::fmt::Write;

/// A line is broken at the first tag after this many bytes; RFC 5322 2.1.1 allows 998.
const LONG: usize = 400;

/// A template's HTML; its expressions stay as they are.
pub(super) fn template(html: &str) -> String {
    let mut ascii = String::with_capacity(html.len() + html.len() / 8);
    let mut column = 0;
    let mut rest = html;
    while !rest.is_empty() {
        let (markup, expression, after) = match rest.split_once("{{") {
            Some((markup, after)) => match after.split_once("}}") {
                Some((expression, after)) => (markup, Some(expression), after),
                None => (rest, None, ""),
            },
            None => (rest, None, ""),
        };
        let mut in_name = false;
        for letter in markup.chars() {
            if letter == ' ' && in_name && column > LONG {
                // The blank between a tag's name and its attributes.
                ascii.push('\n');
                (column, in_name) = (0, false);
                continue;
            }
            in_name = letter == '<' || (in_name && letter.is_ascii_alphanumeric());
            column = if letter == '\n' { 0 } else { column + 1 };
            push(&mut ascii, letter);
        }
        if let Some(expression) = expression {
            // Writing to a String can't fail.
            let _ = write!(ascii, "{{{{{expression}}}}}");
            column += expression.len();
        }
        rest = after;
    }
    ascii
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
    use super::*;

    #[test]
    fn markup_is_ascii_and_expressions_stay() {
        let html = "<p>Pel\u{ed}cula \u{b7} {{plural n \"d\u{ed}a\" \"d\u{ed}as\"}}</p>";
        let ascii = "<p>Pel&#237;cula &#183; {{plural n \"d\u{ed}a\" \"d\u{ed}as\"}}</p>";
        assert_eq!(template(html), ascii);
        assert_eq!(template("{{open"), "{{open");
    }

    #[test]
    fn long_lines_are_broken_within_tags_only() {
        let row = "<tr><td class=\"a b\">a  b {{#if (eq a \"<td x\")}}c{{/if}}</td></tr>";
        let html = row.repeat(30);
        let broken = template(&html);
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
