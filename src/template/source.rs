//! The text of templates: files that the binary carries or of a folder, with what they include.

use std::{collections::BTreeMap, path::Path};

use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use super::{
    include::{Includes, Piece, merged, print},
    locale_formatter::canonical,
    mjml,
};

#[derive(RustEmbed)]
#[folder = "templates/"]
struct Embedded;

/// Every file below the templates folder by its path with forward slashes.
pub type Files = BTreeMap<String, String>;

/// The files of `folder`, or the embedded ones.
///
/// # Errors
/// A file can't be read or is not UTF-8.
pub fn read(folder: Option<&Path>) -> anyhow::Result<Files> {
    let mut files = Files::new();
    match folder {
        None => {
            for path in Embedded::iter() {
                let Some(file) = Embedded::get(&path) else { continue };
                files.insert(path.to_string(), decode(&file.data).map_err(anyhow::Error::msg)?);
            }
        }
        Some(folder) => walk(folder, "", &mut files)?,
    }
    Ok(files)
}

/// Lays an author's files over the shipped ones of the templates that are in use. A template of which the author
/// has a whole language stands alone, so no mail goes out in a language that they did not write; otherwise
/// single files are replaced.
pub fn over_shipped(own: Files, shipped: Files, is_used: impl Fn(&str) -> bool) -> Files {
    let stands_alone = |template: &str| {
        let languages = languages(&own, template);
        languages.iter().any(|language| Source::of_files(&own, template, language).is_ok())
    };
    let below = shipped.into_iter().filter(|(path, _)| {
        let Some((folder, name)) = path.split_once('/') else { return false };
        let has_own = |name: &str| own.contains_key(&format!("{folder}/{name}"));
        if folder == SHARED {
            return true;
        }
        if name.starts_with("samples/") {
            return is_used(folder) && samples(&own, folder).next().is_none();
        }
        // HTML of the author's own takes the place of MJML, and the other way round.
        let twin = match name.strip_suffix(".mjml.hbs") {
            Some(stem) => format!("{stem}.html.hbs"),
            None => name.replace(".html.hbs", ".mjml.hbs"),
        };
        is_used(folder) && !stands_alone(folder) && !has_own(&twin)
    });
    let mut files: Files = below.collect();
    files.extend(own);
    files
}

fn walk(folder: &Path, prefix: &str, files: &mut Files) -> anyhow::Result<()> {
    let unreadable = |error| anyhow::anyhow!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else {
            let fault = |reason: String| anyhow::anyhow!("{}{reason}", entry.path().display());
            let bytes = std::fs::read(entry.path()).map_err(|error| fault(format!(": {error}")))?;
            files.insert(path, decode(&bytes).map_err(fault)?);
        }
    }
    Ok(())
}

/// Text as editors save it: UTF-8, or UTF-16 that says so, with any line ends.
///
/// # Errors
/// Where it is neither, as line and column.
fn decode(bytes: &[u8]) -> Result<String, String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        text.map_err(|_| ": it is not UTF-16, as it says: save it as UTF-8".to_owned())
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(error) => {
                let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                let byte = bytes[error.valid_up_to()];
                return Err(format!(
                    ":{line}:{column}: the byte {byte:#04x} is not UTF-8: save it as UTF-8"
                ));
            }
        },
    };
    Ok(clean(&text))
}

/// Without a byte order mark, with the line ends of Unix.
pub(super) fn clean(text: &str) -> String {
    text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n")
}

/// The sample events of a template: (file name, JSON).
pub fn samples<'a>(files: &'a Files, template: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let folder = format!("{template}/samples/");
    let files = files.range(folder.clone()..);
    files
        .take_while(move |(path, _)| path.starts_with(&folder))
        .filter(|(path, _)| path.ends_with(".json"))
        .map(|(path, text)| (path.as_str(), text.as_str()))
}

/// The folders that are templates, sorted.
pub(super) fn names(files: &Files) -> Vec<&str> {
    let mut names: Vec<&str> = files
        .keys()
        .filter(|path| path.ends_with(".hbs"))
        .filter_map(|path| path.split_once('/'))
        .map(|(folder, _)| folder)
        .filter(|folder| *folder != SHARED)
        .collect();
    names.dedup();
    names
}

/// The languages that a template has files in, sorted: the `pt-BR` of `pt-BR.subject.hbs`.
pub fn languages<'a>(files: &'a Files, template: &str) -> Vec<&'a str> {
    let folder = format!("{template}/");
    let mut found: Vec<&str> = Vec::new();
    for path in files.range(folder.clone()..).map(|(path, _)| path) {
        let Some(name) = path.strip_prefix(&folder) else { break };
        let mut parts = name.split('.');
        let (Some(tag), Some(part), Some("hbs"), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let language = tag.split(['-', '_']).next().map_or(0, str::len);
        // `row.txt.hbs` is an include.
        let is_part = match part {
            "subject" | "sms" => matches!(language, 2 | 3),
            "mjml" | "html" | "txt" => language == 2,
            _ => false,
        };
        if is_part && !found.contains(&tag) && canonical(tag).is_some() {
            found.push(tag);
        }
    }
    found
}

/// Files that no mail is made of, one a line, with the reason.
pub fn unused(files: &Files, is_used: impl Fn(&str) -> bool) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for path in files.keys() {
        let Some((folder, name)) = path.split_once('/') else {
            notes.push(format!("{path} is in no template's folder"));
            continue;
        };
        if folder == SHARED {
            continue;
        }
        let note = if !is_used(folder) {
            format!("no route has the template {folder}")
        } else if is_part(files, folder, name) || is_included(files, folder, name) {
            continue;
        } else {
            format!(
                "{path} is used by nothing: it is no <language>.<part>.hbs, no sample and not included"
            )
        };
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// Whether a file of a template's folder is a sample or a part of a language that the template has.
fn is_part(files: &Files, folder: &str, name: &str) -> bool {
    if name.starts_with("samples/") {
        return name.ends_with(".json");
    }
    let mut pieces = name.split('.');
    let (language, part, rest) = (pieces.next(), pieces.next(), pieces.collect::<Vec<_>>());
    let known = ["subject", "preheader", "mjml", "html", "txt", "sms"];
    part.is_some_and(|part| known.contains(&part))
        && rest == ["hbs"]
        && language.is_some_and(|language| languages(files, folder).contains(&language))
}

/// Whether another file of the folder, or a shared one, includes a file by a piece of its name.
fn is_included(files: &Files, folder: &str, name: &str) -> bool {
    let mut others = files.iter().filter(|(path, _)| {
        path.split_once('/')
            .is_some_and(|(its, other)| its == SHARED || its == folder && other != name)
    });
    let pieces: Vec<String> = name.split('.').map(|piece| format!("> {piece}")).collect();
    others.any(|(_, text)| pieces.iter().any(|piece| text.contains(piece.as_str())))
}

/// The folder of what templates include.
pub(super) const SHARED: &str = "_shared";

/// One template's words in one language, before includes: of files, or of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// One line.
    pub subject: String,
    /// MJML or HTML, whole or only what stands within the shared layout.
    pub html: String,
    /// The text part.
    pub text: String,
    /// How the HTML is written.
    pub markup: Markup,
    /// Where it is from.
    pub kind: SourceKind,
}

/// Where a template is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// The files of a folder.
    Files,
    /// A document of the database.
    Database,
    /// What a template was compiled to: it includes nothing.
    Flat {
        /// Whether the white space that Handlebars takes away is gone; not in what was kept by usher 0.1.
        is_stripped: bool,
    },
}

/// How a template's HTML part is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markup {
    /// MJML, within the shared layout unless it is a whole `<mjml>` document.
    Mjml,
    /// HTML, as it stands.
    Html,
    /// There is none, nor a subject: a text message.
    None,
}

/// Digits of a version. Older records have the first 12 of them.
pub(super) const WHOLE_VERSION: usize = 64;
pub(super) const SHORT_VERSION: usize = 12;

/// Whether a record means this version.
pub(super) fn is_version(version: &str, recorded: &str) -> bool {
    version == recorded || recorded.len() == SHORT_VERSION && version.starts_with(recorded)
}

impl Source {
    /// Of a text message.
    pub fn text_message(text: String, kind: SourceKind) -> Self {
        Self { subject: String::new(), html: String::new(), text, markup: Markup::None, kind }
    }

    /// Whether its MJML is a whole mail.
    pub(super) fn is_whole(&self) -> bool {
        mjml::first_element(&self.html).is_some_and(|name| name == "mjml")
    }

    /// Identifies the text: SHA-256 of its parts, in hex.
    pub(super) fn version(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.subject, &self.html, &self.text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hex::encode(hash.finalize())
    }

    pub(super) fn is_flat(&self) -> bool {
        matches!(self.kind, SourceKind::Flat { .. })
    }

    /// What a part of it is called where it is from.
    pub(super) fn name_of(&self, template: &str, language: &str, part: &str) -> String {
        match (self.kind, part) {
            (SourceKind::Files, _) => format!("templates/{template}/{language}.{part}.hbs"),
            (SourceKind::Flat { .. }, _) => format!("{template}/{language}.{part}"),
            (SourceKind::Database, "mjml" | "html") => "html_content".to_owned(),
            (SourceKind::Database, "txt") => "text_content".to_owned(),
            (SourceKind::Database, "sms") => "sms_content".to_owned(),
            (SourceKind::Database, part) => part.to_owned(),
        }
    }

    /// A template's files.
    ///
    /// # Errors
    /// The names of the files that are missing.
    pub fn of_files(files: &Files, template: &str, language: &str) -> Result<Self, Vec<String>> {
        let part = |kind: &str| files.get(&format!("{template}/{language}.{kind}.hbs")).cloned();
        if let Some(text) = part("sms") {
            return Ok(Self::text_message(text, SourceKind::Files));
        }
        let missing = |kind: &str| format!("templates/{template}/{language}.{kind}.hbs is missing");
        let html = part("mjml").map(|mjml| (mjml, Markup::Mjml));
        let html = html.or_else(|| part("html").map(|html| (html, Markup::Html)));
        match (part("subject"), html, part("txt")) {
            (Some(subject), Some((html, markup)), Some(text)) => {
                Ok(Self { subject, html, text, markup, kind: SourceKind::Files })
            }
            (subject, html, text) => {
                let parts = [
                    ("subject", subject.is_some()),
                    ("mjml", html.is_some()),
                    ("txt", text.is_some()),
                ];
                Err(parts.iter().filter(|part| !part.1).map(|part| missing(part.0)).collect())
            }
        }
    }
}

impl Source {
    /// What is stored of a template in a folder: `files` with the folder's, `shipped` those that are
    /// there when it is loaded. HTML that includes files of the folder, its preheader say, becomes
    /// a whole mail.
    ///
    /// # Errors
    /// The subject or the text part includes a file of the folder, or some include is nowhere.
    pub fn for_store(
        mut self,
        files: &Files,
        shipped: &Files,
        template: &str,
        language: &str,
    ) -> Result<Self, Vec<String>> {
        let with = Includes::new(files, template, language);
        let without = Includes::new(shipped, template, language);
        let printed = |pieces: Vec<Piece>| print(&merged(pieces));
        let html = with.html(&self).map_err(|fault| vec![with.origins.locate(&fault)])?;
        let html = printed(html);
        let mut faults = Vec::new();
        let subject = [&with, &without].map(|it| it.subject(&self).map(printed).ok());
        let text = [&with, &without].map(|it| it.text(&self).map(printed).ok());
        let text_part = if self.markup == Markup::None { "sms" } else { "txt" };
        for (part, [with, without]) in [("subject", subject), (text_part, text)] {
            if with != without {
                faults.push(format!(
                    "{language}.{part}.hbs includes another file of the folder, which would not \
                     be stored: put its words into the part itself"
                ));
            }
        }
        if without.html(&self).map(printed).as_ref() != Ok(&html) {
            self.html = html;
        }
        self.kind = SourceKind::Database;
        if faults.is_empty() { Ok(self) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Files {
        paths.iter().map(|path| ((*path).to_owned(), (*path).to_owned())).collect()
    }

    fn shipped() -> Files {
        let parts =
            ["en.subject.hbs", "en.mjml.hbs", "en.txt.hbs", "pt.subject.hbs", "samples/a.json"];
        let of = |folder: &str| parts.map(|part| format!("{folder}/{part}"));
        let paths = [of("mail"), of("unused")].concat();
        let paths = paths.iter().map(String::as_str).chain(["_shared/row.hbs"]);
        files(&paths.collect::<Vec<_>>())
    }

    fn layered(own: &[&str]) -> Vec<String> {
        over_shipped(files(own), shipped(), |name| name == "mail").into_keys().collect()
    }

    #[test]
    fn a_single_file_replaces_the_shipped_one() {
        let own: Files = [("mail/en.subject.hbs".to_owned(), "mine".to_owned())].into();
        let files = over_shipped(own, shipped(), |name| name == "mail");
        assert_eq!(files["mail/en.subject.hbs"], "mine");
        assert_eq!(files["mail/en.txt.hbs"], "mail/en.txt.hbs");
        assert!(!files.keys().any(|path| path.starts_with("unused/")));
        assert!(layered(&["mail/en.html.hbs"]).iter().all(|path| path != "mail/en.mjml.hbs"));
    }

    #[test]
    fn a_template_with_a_whole_language_of_the_author_stands_alone() {
        let own = ["mail/es.subject.hbs", "mail/es.html.hbs", "mail/es.txt.hbs"];
        let has = layered(&own);
        assert!(
            has.iter().all(|path| !path.starts_with("mail/en") && !path.starts_with("mail/pt"))
        );
        assert!(has.contains(&"mail/samples/a.json".to_owned()), "the samples stay");
        assert!(has.contains(&"_shared/row.hbs".to_owned()));
        let own = [&own[..], &["mail/samples/b.json"]].concat();
        assert!(!layered(&own).contains(&"mail/samples/a.json".to_owned()));
    }

    #[test]
    fn what_nothing_uses_is_told() {
        let mut files = shipped();
        let added = ["mail/en.subjct.hbs", "mail/row.txt.hbs", "mail/notes.md", "stray.hbs"];
        files.extend(added.map(|path| (path.to_owned(), String::new())));
        files.insert("mail/en.txt.hbs".to_owned(), "{{> row}}".to_owned());
        let told = unused(&files, |name| name == "mail");
        let nothing =
            "is used by nothing: it is no <language>.<part>.hbs, no sample and not included";
        assert_eq!(
            told,
            [
                &format!("mail/en.subjct.hbs {nothing}"),
                &format!("mail/notes.md {nothing}"),
                "stray.hbs is in no template's folder",
                "no route has the template unused",
            ]
        );
        assert!(unused(&read(None).unwrap(), |_| true).is_empty(), "all that is shipped is used");
    }

    #[test]
    fn files_are_read_as_editors_save_them() {
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            ["\u{feff}", text].concat().encode_utf16().flat_map(bytes).collect()
        };
        for bytes in [
            "ma\u{f1}ana\n".as_bytes().to_vec(),
            "\u{feff}ma\u{f1}ana\r\n".as_bytes().to_vec(),
            utf16("ma\u{f1}ana\r\n", u16::to_le_bytes),
            utf16("ma\u{f1}ana\n", u16::to_be_bytes),
        ] {
            assert_eq!(decode(&bytes).unwrap(), "ma\u{f1}ana\n");
        }
        let fault = decode(b"a\nma\xf1ana").unwrap_err();
        assert_eq!(fault, ":2:3: the byte 0xf1 is not UTF-8: save it as UTF-8");
    }
}
