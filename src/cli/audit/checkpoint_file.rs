//! Reads checkpoints that were kept outside MongoDB.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde_json::Value;

use crate::audit::store::chain::{Notes, PublicKeys};

/// How each line begins.
const BEGINNING: &[u8] = b"{\"note\"";

/// Lines of files that hold no checkpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// Those that no known key signed.
    pub(super) unsigned: u64,
    /// Those that a full disk or a crash cut short. usher writes the note again, and who can change the file could
    /// remove it as well, so they are no fault.
    pub(super) cut_short: u64,
}

impl Unread {
    /// Adds what a file states to `outside`.
    pub(super) fn read(
        &mut self,
        path: &Path,
        keys: &PublicKeys,
        outside: &mut Notes,
    ) -> std::io::Result<()> {
        let (mut file, mut line) = (BufReader::new(File::open(path)?), Vec::new());
        // A line that was cut short may end within a character.
        while file.read_until(b'\n', &mut line)? > 0 {
            for part in parts(line.trim_ascii()) {
                match serde_json::from_slice::<Value>(part) {
                    Ok(checkpoint) => {
                        let note = checkpoint["note"].as_str();
                        let is_signed = note.is_some_and(|note| outside.add(note, keys));
                        self.unsigned += u64::from(!is_signed);
                    }
                    Err(_) if is_cut_short(part) => self.cut_short += 1,
                    Err(_) => self.unsigned += 1,
                }
            }
            line.clear();
        }
        Ok(())
    }
}

/// A note that was written right after one that was cut short is on the same line.
fn parts(line: &[u8]) -> Vec<&[u8]> {
    let mut begins: Vec<usize> = line
        .windows(BEGINNING.len())
        .enumerate()
        .filter_map(|(at, window)| (window == BEGINNING && at > 0).then_some(at))
        .collect();
    begins.push(line.len());
    let mut from = 0;
    let parts = begins.into_iter().map(|to| &line[std::mem::replace(&mut from, to)..to]);
    parts.filter(|part| !part.is_empty()).collect()
}

/// Whether it is the beginning of a line, and no more of it.
fn is_cut_short(part: &[u8]) -> bool {
    part.starts_with(BEGINNING) || BEGINNING.starts_with(part)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn line(note: &str) -> Vec<u8> {
        format!("{}\n", serde_json::json!({"note": note})).into_bytes()
    }

    /// What a file of these bytes is read as, without any key.
    fn read(bytes: &[u8]) -> Unread {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut unread = Unread::default();
        unread.read(file.path(), &PublicKeys::default(), &mut Notes::default()).unwrap();
        unread
    }

    #[test]
    fn a_line_that_was_cut_anywhere_takes_no_other_with_it() {
        let whole = line("usher.audit/one/1\n\n\u{2014} usher c2ln\n");
        for cut in 1..whole.len() {
            for glue in ["", "\n"] {
                let file = [&whole[..cut], glue.as_bytes(), &whole, &whole].concat();
                // Without its line end alone, it is whole.
                let cut_short = u64::from(cut < whole.len() - 1);
                let unread = Unread { unsigned: 3 - cut_short, cut_short };
                assert_eq!(read(&file), unread, "cut at {cut} before {glue:?}");
            }
        }
    }

    #[test]
    fn what_was_never_a_checkpoint_is_unsigned() {
        let file = [b"garbage\n\n{}\n".as_slice(), &line("forged"), b"{\"note\":7}\n"].concat();
        assert_eq!(read(&file), Unread { unsigned: 4, cut_short: 0 });
    }
}
