//! Text from outside, made harmless.

/// Replaces control characters by blanks: the text stays on its line and can't steer a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn nothing_breaks_the_line_or_steers_a_terminal() {
        assert_eq!(one_line("a\u{1b}[31mb\r\nc\u{9b}2J"), "a [31mb  c 2J");
    }
}
