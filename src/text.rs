//! Text from outside, made harmless.

/// Replaces control characters, and those that reverse the text, by blanks: the text stays on its line,
/// reads as it is written and can't steer a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_directional(c) { ' ' } else { c }).collect()
}

/// Whether a reader can't see this character. The joiners U+200C and U+200D are not among them: several
/// scripts need them.
pub(crate) fn is_invisible(c: char) -> bool {
    let is_filler =
        matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    is_filler || is_directional(c)
}

/// The marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm (UAX 9, 2).
fn is_directional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn nothing_breaks_the_line_or_steers_a_terminal() {
        assert_eq!(one_line("a\u{1b}[31mb\r\nc\u{9b}2J"), "a [31mb  c 2J");
        assert_eq!(one_line("photo\u{202e}gpj.exe"), "photo gpj.exe");
    }
}
