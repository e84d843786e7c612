//! The text of templates: files that the binary carries or of a folder, with what they include.

use std::{collections::BTreeMap, path::Path};

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "templates/"]
struct Embedded;

/// Every file below the templates folder by its path with forward slashes.
pub type Files = BTreeMap<String, String>;

/// How deep includes may lie in each other; deeper is taken for a circle.
const MAX_DEPTH: usize = 8;

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
                files.insert(path.to_string(), String::from_utf8(file.data.into_owned())?);
            }
        }
        Some(folder) => walk(folder, "", &mut files)?,
    }
    Ok(files)
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
            let text = std::fs::read_to_string(entry.path())
                .map_err(|error| anyhow::anyhow!("{}: {error}", entry.path().display()))?;
            files.insert(path, text);
        }
    }
    Ok(())
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

/// The folder of what templates include.
const SHARED: &str = "_shared";

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

impl Source {
    /// Of a text message.
    pub fn text_message(text: String) -> Self {
        Self { subject: String::new(), html: String::new(), text, markup: Markup::None }
    }

    /// A template's files.
    ///
    /// # Errors
    /// The names of the files that are missing.
    pub fn of_files(files: &Files, template: &str, language: &str) -> Result<Self, Vec<String>> {
        let part = |kind: &str| files.get(&format!("{template}/{language}.{kind}.hbs")).cloned();
        if let Some(text) = part("sms") {
            return Ok(Self::text_message(text));
        }
        let missing = |kind: &str| format!("templates/{template}/{language}.{kind}.hbs is missing");
        let html = part("mjml").map(|mjml| (mjml, Markup::Mjml));
        let html = html.or_else(|| part("html").map(|html| (html, Markup::Html)));
        match (part("subject"), html, part("txt")) {
            (Some(subject), Some((html, markup)), Some(text)) => {
                Ok(Self { subject, html, text, markup })
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
        let with = Includes { files, template, language };
        let without = Includes { files: shipped, template, language };
        let html = with.html(&self).map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();
        let subject = [&with, &without].map(|it| it.expanded(&self.subject, "subject"));
        let text = [&with, &without].map(|it| it.text(&self));
        let text_part = if self.markup == Markup::None { "sms" } else { "txt" };
        for (part, [with, without]) in [("subject", subject), (text_part, text)] {
            if with != without {
                faults.push(format!(
                    "{language}.{part}.hbs includes another file of the folder, which would not \
                     be stored: put its words into the part itself"
                ));
            }
        }
        if without.html(&self).as_ref() != Ok(&html) {
            self.html = html;
        }
        if faults.is_empty() { Ok(self) } else { Err(faults) }
    }
}

fn is_whole(mjml: &str) -> bool {
    mjml.trim_start().starts_with("<mjml")
}

/// Puts in what a text includes by `{{> name}}`, so that what is compiled is one flat text.
pub(super) struct Includes<'a> {
    pub(super) files: &'a Files,
    pub(super) template: &'a str,
    pub(super) language: &'a str,
}

impl Includes<'_> {
    /// The HTML part, in the shared layout unless it is a whole mail.
    ///
    /// # Errors
    /// An include that is nowhere, or includes itself.
    pub(super) fn html(&self, source: &Source) -> Result<String, String> {
        match source.markup {
            Markup::Mjml if is_whole(&source.html) => self.expanded(&source.html, "mjml"),
            Markup::Mjml => self.laid_out(&source.html, "mjml"),
            Markup::Html | Markup::None => self.expanded(&source.html, "html"),
        }
    }

    /// The text part; a text message has no layout.
    ///
    /// # Errors
    /// An include that is nowhere, or includes itself.
    pub(super) fn text(&self, source: &Source) -> Result<String, String> {
        match source.markup {
            Markup::None => self.expanded(&source.text, "sms"),
            Markup::Mjml | Markup::Html => self.laid_out(&source.text, "txt"),
        }
    }

    /// The part within the shared layout of its kind, if there is one.
    ///
    /// # Errors
    /// An include that is nowhere, or includes itself.
    pub(super) fn laid_out(&self, content: &str, kind: &str) -> Result<String, String> {
        let layout = self.files.get(&format!("{SHARED}/layout.{kind}.hbs"));
        self.expand(layout.map_or(content, String::as_str), kind, content, 0)
    }

    /// The part as it stands, includes put in.
    ///
    /// # Errors
    /// An include that is nowhere, or includes itself.
    pub(super) fn expanded(&self, text: &str, kind: &str) -> Result<String, String> {
        self.expand(text, kind, "", 0)
    }

    fn expand(
        &self,
        text: &str,
        kind: &str,
        content: &str,
        depth: usize,
    ) -> Result<String, String> {
        let mut flat = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{> ") {
            let (name, after) = after.split_once("}}").ok_or("an include without its end")?;
            let name = name.trim();
            if depth == MAX_DEPTH {
                return Err(format!("include {name:?} goes round in a circle"));
            }
            let included = match name {
                "content" => content,
                _ => {
                    self.find(name, kind).ok_or_else(|| format!("there is no include {name:?}"))?
                }
            };
            flat.push_str(before);
            // A file ends with a line end; an include stands within a line.
            let included = included.strip_suffix('\n').unwrap_or(included);
            flat.push_str(&self.expand(included, kind, content, depth + 1)?);
            rest = after;
        }
        flat.push_str(rest);
        Ok(flat)
    }

    /// The template's own file goes before the shared one, a language's before one for all.
    fn find(&self, name: &str, kind: &str) -> Option<&str> {
        let (template, language) = (self.template, self.language);
        [
            format!("{template}/{language}.{name}.hbs"),
            format!("{template}/{name}.{kind}.hbs"),
            format!("{SHARED}/{language}.{name}.hbs"),
            format!("{SHARED}/{name}.{kind}.hbs"),
        ]
        .iter()
        .find_map(|path| self.files.get(path))
        .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(files: &[(&str, &str)], text: &str) -> Result<String, String> {
        let files = files.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect();
        Includes { files: &files, template: "t", language: "es" }.laid_out(text, "txt")
    }

    #[test]
    fn the_nearest_include_is_taken_and_the_layout_goes_around() {
        let files = [
            ("_shared/layout.txt.hbs", "<{{> content}}|{{> foot}}>\n"),
            ("_shared/foot.txt.hbs", "shared\n"),
            ("_shared/es.word.hbs", "palabra\n"),
            ("_shared/en.word.hbs", "word\n"),
        ];
        assert_eq!(expand(&files, "a {{> word}} b").unwrap(), "<a palabra b|shared>\n");
        let own = [files.as_slice(), &[("t/foot.txt.hbs", "own")]].concat();
        assert_eq!(expand(&own, "{{x}}").unwrap(), "<{{x}}|own>\n");
    }

    #[test]
    fn includes_that_lead_nowhere_are_faults() {
        assert_eq!(expand(&[], "{{> lost}}").unwrap_err(), "there is no include \"lost\"");
        let circle = [("_shared/a.txt.hbs", "{{> a}}")];
        assert!(expand(&circle, "{{> a}}").unwrap_err().contains("circle"));
    }
}
