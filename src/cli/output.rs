//! What a terminal shows: how wide it is, colours, tables and bars.

use std::io::IsTerminal;

use crate::audit::Status;

/// Where the output goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// In characters; `None` where nothing has to be cut.
    pub(crate) width: Option<usize>,
    has_colours: bool,
}

/// A colour of the terminal's own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
    Good,
    Bad,
    Warning,
    Faint,
}

/// One column of a table.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// Whether it may be cut where the terminal is too narrow.
    pub(crate) may_shrink: bool,
    pub(crate) is_number: bool,
}

impl Column {
    /// A text that is shown whole.
    pub(crate) const fn whole(name: &'static str) -> Self {
        Self { name, may_shrink: false, is_number: false }
    }

    /// A text that may be cut.
    pub(crate) const fn text(name: &'static str) -> Self {
        Self { name, may_shrink: true, is_number: false }
    }

    /// A number.
    pub(crate) const fn number(name: &'static str) -> Self {
        Self { name, may_shrink: false, is_number: true }
    }
}

/// A column is not cut to less.
const NARROWEST: usize = 8;
const GAP: usize = 2;

impl Screen {
    /// Standard output. `COLUMNS` counts where there is no terminal, too.
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let stated = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let found = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        let width = stated.or_else(|| is_terminal.then(found).flatten());
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { width, has_colours: is_terminal && !no_colour }
    }

    /// The text in a colour, where there are any.
    pub(crate) fn paint(self, text: &str, colour: Colour) -> String {
        if !self.has_colours || text.trim().is_empty() {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Good => 32,
            Colour::Bad => 31,
            Colour::Warning => 33,
            Colour::Faint => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Rows below names. `colour` may give one for a row's second cell.
    pub(crate) fn table(
        self,
        columns: &[Column],
        rows: &[Vec<String>],
        colour: impl Fn(usize) -> Option<Colour>,
    ) -> String {
        let widths = self.widths(columns, rows);
        let line = |cells: &[String], colour: Option<Colour>| {
            let mut line = String::new();
            for (number, (column, width)) in columns.iter().zip(&widths).enumerate() {
                let cell = fit(cells.get(number).map_or("", String::as_str), *width);
                let space = " ".repeat(width - cell.chars().count());
                let cell = if column.is_number { space + &cell } else { cell + &space };
                let cell = match colour.filter(|_| number == 1) {
                    Some(colour) => self.paint(&cell, colour),
                    None => cell,
                };
                line.push_str(&cell);
                line.push_str(&" ".repeat(GAP));
            }
            line.trim_end().to_owned()
        };
        let names: Vec<String> = columns.iter().map(|column| column.name.to_owned()).collect();
        let mut lines = vec![self.paint(&line(&names, None), Colour::Faint)];
        lines.extend(rows.iter().enumerate().map(|(number, row)| line(row, colour(number))));
        lines.join("\n")
    }

    fn widths(self, columns: &[Column], rows: &[Vec<String>]) -> Vec<usize> {
        let widest = |number: usize, column: &Column| {
            let cells = rows.iter().filter_map(|row| row.get(number));
            let cells = cells.map(|cell| one_line(cell).chars().count());
            cells.chain([column.name.chars().count()]).max().unwrap_or_default()
        };
        let mut widths: Vec<usize> =
            columns.iter().enumerate().map(|(number, column)| widest(number, column)).collect();
        let Some(width) = self.width else { return widths };
        // Character by character from the widest that may give one.
        while widths.iter().sum::<usize>() + GAP * (columns.len() - 1) > width {
            let shrinkable = widths.iter_mut().zip(columns);
            let shrinkable =
                shrinkable.filter(|(it, column)| column.may_shrink && **it > NARROWEST);
            match shrinkable.map(|(width, _)| width).max() {
                Some(widest) => *widest -= 1,
                None => break,
            }
        }
        widths
    }

    /// So much of `whole` as a bar of at most this many characters, in eighths.
    pub(crate) fn bar(part: u64, whole: u64, width: usize) -> String {
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        if whole == 0 || part == 0 {
            return String::new();
        }
        // What there is of is never invisible.
        let eighths = ((part as f64 / whole as f64) * (width * 8) as f64).round().max(1.0) as usize;
        format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
    }
}

/// The colour of a status.
pub(crate) fn colour_of(status: Status) -> Colour {
    match status {
        Status::Sent | Status::Simulated => Colour::Good,
        Status::Failed | Status::Unknown | Status::Rejected => Colour::Bad,
        Status::Retrying => Colour::Warning,
        Status::Suppressed | Status::Superseded | Status::Duplicate => Colour::Faint,
    }
}

/// Cut to this many characters, with a sign that it was.
pub(crate) fn fit(text: &str, width: usize) -> String {
    let text = one_line(text);
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// No text that comes from outside may break a line or command the terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_the_terminal_and_cuts_only_what_may_be_cut() {
        let columns = [Column::whole("ID"), Column::text("WORDS"), Column::number("N")];
        let row = |id: &str, words: &str, n: &str| [id, words, n].map(str::to_owned).to_vec();
        let rows = [row("1234567890", &"x".repeat(40), "7"), row("1", "é\u{1b}[2J\n", "1234")];
        let narrow = Screen { width: Some(32), has_colours: false };
        let printed = narrow.table(&columns, &rows, |_| None);
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[1], format!("1234567890  {}…     7", "x".repeat(13)));
        assert_eq!(lines[2], "1           é [2J           1234");
        let wide = Screen { width: None, has_colours: false };
        assert!(wide.table(&columns, &rows, |_| None).contains(&"x".repeat(40)));
    }

    #[test]
    fn bars_grow_in_eighths_and_little_is_not_nothing() {
        for (part, bar) in
            [(0, ""), (1, "▏"), (500, "█████"), (560, "█████▋"), (1000, "██████████")]
        {
            assert_eq!(Screen::bar(part, 1000, 10), bar);
        }
    }
}
