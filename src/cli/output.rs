//! Everything about printing: lines, tables, colours, bars, progress and confirmation. Text comes from
//! events, replies and files, so control characters are printed as escapes, unless `--raw` is given.

use std::{
    io::{IsTerminal, Write},
    ops::Add,
    sync::atomic::{AtomicBool, Ordering},
};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, presets};
use console::{Style, Term, truncate_str};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    audit::Status,
    failure::Failure,
    text::{one_line, printable},
};

/// Blanks between two columns of a table.
const GAP: u16 = 2;

/// Whether standard output gets control characters as they are.
static RAW: AtomicBool = AtomicBool::new(false);

/// Prints control characters as they are from now on.
pub(super) fn set_raw() -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        return Err(Failure::data("--raw prints to a pipe or a file, not to a terminal"));
    }
    RAW.store(true, Ordering::Relaxed);
    Ok(())
}

/// Text that can be printed: control characters are escaped, except usher's own for colours.
#[derive(Clone)]
pub(super) struct Line(String);

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        match RAW.load(Ordering::Relaxed) {
            true => Self(text.to_owned()),
            false => Self(printable(text).into_owned()),
        }
    }
}

impl From<&String> for Line {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&Self> for Line {
    fn from(line: &Self) -> Self {
        line.clone()
    }
}

impl<T: Into<Self>> Add<T> for Line {
    type Output = Self;

    fn add(mut self, rest: T) -> Self {
        self.0.push_str(&rest.into().0);
        self
    }
}

/// Prints a line to standard output. A reader that has left is no failure.
pub(super) fn print(line: impl Into<Line>) {
    let _ = writeln!(std::io::stdout(), "{}", line.into().0);
}

pub(super) fn print_err(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// Standard output for streams of UTF-8, which [`print`] would have to hold whole.
pub(super) fn stdout() -> impl Write {
    Escaping { output: std::io::stdout(), tail: Vec::new() }
}

struct Escaping<W: Write> {
    output: W,
    /// The first bytes of a character.
    tail: Vec<u8>,
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.tail.extend_from_slice(bytes);
        let (whole, rest) = match std::str::from_utf8(&self.tail) {
            Ok(whole) => (whole, 0),
            Err(error) if error.error_len().is_none() => {
                let (whole, rest) = self.tail.split_at(error.valid_up_to());
                (std::str::from_utf8(whole).unwrap_or_default(), rest.len())
            }
            Err(error) => return Err(std::io::Error::other(error)),
        };
        self.output.write_all(Line::from(whole).0.as_bytes())?;
        self.tail.drain(..self.tail.len() - rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

/// Prints one JSON object on one line.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), serde_json::Error> {
    print(&serde_json::to_string(value)?);
    Ok(())
}

/// Width of standard output in columns: `COLUMNS`, else the terminal's; `None` where nothing has to be cut.
pub(super) fn width() -> Option<usize> {
    let stated = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    stated.or_else(|| Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)))
}

/// Cuts a text to one line of at most `width` columns.
pub(super) fn fit(text: &str, width: usize) -> String {
    truncate_str(&one_line(text), width, "…").into_owned()
}

/// Applies a style if standard output is a terminal with colours (`NO_COLOR` and `CLICOLOR` count).
pub(super) fn paint(text: &str, style: &Style) -> Line {
    Line(style.apply_to(Line::from(text).0).to_string())
}

pub(super) fn faint(text: &str) -> Line {
    paint(text, &Style::new().dim())
}

pub(super) fn status_style(status: Status) -> Style {
    match status {
        Status::Sent | Status::Simulated => Style::new().green(),
        Status::Failed | Status::Unknown | Status::Rejected => Style::new().red(),
        Status::Retrying => Style::new().yellow(),
        Status::Suppressed | Status::Superseded | Status::Duplicate => Style::new().dim(),
    }
}

#[derive(Clone, Copy)]
pub(super) enum Column {
    /// A text that is never cut.
    Whole(&'static str),
    /// A text that is cut where the terminal is too narrow.
    Text(&'static str),
    /// A number, aligned to the right.
    Number(&'static str),
}

/// Rows of one line each, below the names of their columns.
pub(super) struct Table {
    inner: comfy_table::Table,
    styles: Vec<Style>,
}

impl Table {
    /// `width` as of [`width`].
    pub(super) fn new(columns: &[Column], width: Option<usize>) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING);
        if let Some(width) = width.and_then(|width| u16::try_from(width).ok()) {
            inner.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        let names = columns.iter().map(|column| match column {
            Column::Whole(name) | Column::Text(name) | Column::Number(name) => *name,
        });
        inner.set_header(row_of_one_line(names.collect()));
        let last = columns.len().saturating_sub(1);
        for (index, (cells, column)) in inner.column_iter_mut().zip(columns).enumerate() {
            cells.set_padding((0, if index == last { 0 } else { GAP }));
            match column {
                Column::Text(_) => {}
                Column::Whole(_) => drop(cells.set_constraint(ColumnConstraint::ContentWidth)),
                Column::Number(_) => {
                    cells.set_constraint(ColumnConstraint::ContentWidth);
                    cells.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { inner, styles: Vec::new() }
    }

    pub(super) fn add(&mut self, cells: &[&str], style: Style) {
        let cells = cells.iter().map(|cell| one_line(cell).trim_end().to_owned());
        self.inner.add_row(row_of_one_line(cells.collect()));
        self.styles.push(style);
    }

    pub(super) fn header(&self) -> Line {
        let header = self.inner.lines().next();
        faint(header.unwrap_or_default().trim_end())
    }

    /// The rows, in the order in which they were added.
    pub(super) fn rows(&self) -> Vec<Line> {
        let lines = self.inner.lines().skip(1);
        lines.zip(&self.styles).map(|(line, style)| paint(line.trim_end(), style)).collect()
    }

    /// Prints the rows below the names of the columns.
    pub(super) fn print(&self) {
        print(self.header());
        self.rows().iter().for_each(print);
    }
}

fn row_of_one_line<T: ToString>(cells: Vec<T>) -> Row {
    let mut row = Row::from(cells);
    row.max_height(1);
    row
}

/// A bar of at most `width` characters for `part` of `total`, in eighths of a character.
pub(super) fn bar(part: u64, total: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if total == 0 || part == 0 {
        return String::new();
    }
    // A small part stays visible.
    let eighths = ((part as f64 / total as f64) * (width * 8) as f64).round().max(1.0) as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// A progress bar on standard error; invisible unless that is a terminal.
pub(super) fn progress(message: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(message)
}

/// Asks on the terminal; false where there is none.
pub(super) async fn confirm(question: String) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    let answer = tokio::task::spawn_blocking(move || {
        let _ = write!(std::io::stderr(), "{} [y/N] ", printable(&question));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.ok().and_then(Result::ok).unwrap_or_default();
    matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(width: Option<usize>) -> Vec<String> {
        let columns = [Column::Whole("ID"), Column::Text("WORDS"), Column::Number("N")];
        let mut table = Table::new(&columns, width);
        table.add(&["1234567890", &"x".repeat(40), "7"], Style::new());
        table.add(&["1", "é\u{1b}[2J\n", "1234"], Style::new());
        table.rows().into_iter().map(|row| row.0).collect()
    }

    #[test]
    fn a_stream_is_escaped_wherever_its_writes_are_split() {
        let text = "é\u{1b}[2J\u{9b}👩\u{202e}\n";
        for at in 0..=text.len() {
            let mut escaping = Escaping { output: Vec::new(), tail: Vec::new() };
            let (first, rest) = text.as_bytes().split_at(at);
            escaping.write_all(first).expect("written");
            escaping.write_all(rest).expect("written");
            assert_eq!(
                escaping.output,
                r"é\u001b[2J\u009b👩\u202e"
                    .as_bytes()
                    .iter()
                    .chain(b"\n")
                    .copied()
                    .collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn colours_are_ushers_own_and_never_the_texts() {
        let style = Style::new().red().force_styling(true);
        let line = Line::from("a\u{1b}[31m ") + paint("b\u{1b}[2J", &style) + "\u{9b}c";
        assert_eq!(line.0, "a\\u001b[31m \u{1b}[31mb\\u001b[2J\u{1b}[0m\\u009bc");
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal_and_cuts_only_what_may_be_cut() {
        let narrow = table(Some(32));
        assert_eq!(narrow[0], format!("1234567890  {}…     7", "x".repeat(13)));
        assert_eq!(narrow[1], "1           é [2J           1234");
        assert!(table(None)[0].contains(&"x".repeat(40)));
    }

    #[test]
    fn bars_grow_in_eighths_and_a_small_part_stays_visible() {
        for (part, expected) in
            [(0, ""), (1, "▏"), (500, "█████"), (560, "█████▋"), (1000, "██████████")]
        {
            assert_eq!(bar(part, 1000, 10), expected);
        }
    }
}
