//! HTML and MJML as their authors write them: which of the two it is, and MJML turned into HTML.

use super::{
    include::{Piece, merged},
    mjml_structure::{self, too_deep},
    syntax::{At, Fault, Kind, MAX_NESTING},
};

/// The name of the element that a text begins with, after what says nothing: comments, declarations, tags of
/// Handlebars.
pub(super) fn first_element(text: &str) -> Option<String> {
    let mut rest = text.trim_start();
    loop {
        let skipped = [("<!--", "-->"), ("<?", "?>"), ("<!", ">"), ("{{!--", "--}}"), ("{{", "}}")]
            .into_iter()
            .find(|(begin, _)| rest.starts_with(begin))
            .and_then(|(begin, end)| rest[begin.len()..].split_once(end));
        match skipped {
            Some((_, after)) => rest = after.trim_start(),
            None => break,
        }
    }
    let name = rest.strip_prefix('<')?;
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(name.len());
    Some(name[..end].to_ascii_lowercase())
}

/// The first element of MJML that a text has outside of comments, and where.
pub(super) fn mjml_element(text: &str) -> Option<(usize, &str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find('<').map(|at| from + at) {
        let rest = &text[at..];
        if rest.starts_with("<!--") {
            from = at + rest.find("-->")?;
            continue;
        }
        let name = &rest[1..];
        let is_mjml = name.get(..3).is_some_and(|it| it.eq_ignore_ascii_case("mj-"))
            || name.get(..4).is_some_and(|it| it.eq_ignore_ascii_case("mjml"));
        if is_mjml {
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            return Some((at, &name[..end.unwrap_or(name.len())]));
        }
        from = at + 1;
    }
    None
}

/// HTML that was written as such.
///
/// # Errors
/// It has elements of MJML, which would reach the recipient as they stand.
pub(super) fn html(pieces: Vec<Piece>) -> Result<Vec<Piece>, Fault> {
    for piece in &pieces {
        if let Piece::Text(text, at) = piece
            && let Some((offset, name)) = mjml_element(text)
        {
            let at = At { offset: at.offset + offset, ..*at };
            let reason = format!(
                "<{name}> is MJML, and this is HTML: MJML begins with <mjml> or <mj-…>, in a file .mjml.hbs"
            );
            return Err(Fault::new(at, reason));
        }
    }
    Ok(merged(pieces))
}

/// Where in markup something stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cursor {
    #[default]
    Text,
    Comment,
    /// In an element whose text is no markup.
    Raw,
    Attributes,
    Value(char),
}

impl Cursor {
    pub(super) fn pass(&mut self, text: &str) {
        for (at, letter) in text.char_indices() {
            *self = match (*self, letter) {
                (Self::Text, '<') if is_raw(&text[at + 1..]) => Self::Raw,
                (Self::Raw, '<') if text[at + 1..].starts_with('/') => Self::Attributes,
                (Self::Text, '<') if text[at..].starts_with("<!--") => Self::Comment,
                (Self::Text, '<')
                    if text[at + 1..]
                        .starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') =>
                {
                    Self::Attributes
                }
                (Self::Comment, '>') if text[..at].ends_with("--") => Self::Text,
                (Self::Attributes, '>') => Self::Text,
                (Self::Attributes, '"' | '\'') => Self::Value(letter),
                (Self::Value(open), letter) if letter == open => Self::Attributes,
                (other, _) => other,
            };
        }
    }
}

fn is_raw(after: &str) -> bool {
    let name = after.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    ["title", "style", "script", "textarea"].iter().any(|raw| raw.eq_ignore_ascii_case(name))
}

/// Stands for a tag of Handlebars while MJML becomes HTML; can be a word, an attribute or a part of one.
fn mark(prefix: &str, index: usize) -> String {
    format!("{prefix}{index}z")
}

/// MJML to HTML; the tags of Handlebars go through it as marks.
///
/// # Errors
/// It is no MJML, it nests too deep, or a block would be lost.
pub(super) fn to_html(pieces: &[Piece]) -> Result<Vec<Piece>, Fault> {
    let mut prefix = "hbs".to_owned();
    let has = |prefix: &str| {
        pieces.iter().any(|it| matches!(it, Piece::Text(text, _) if text.contains(prefix)))
    };
    while has(&prefix) {
        prefix.push('q');
    }
    let mut mjml = String::new();
    let mut cursor = Cursor::default();
    let mut places = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(text, at) => {
                places.push((mjml.len(), *at, true));
                mjml.push_str(text);
                cursor.pass(text);
            }
            Piece::Tag(tag) => {
                places.push((mjml.len(), tag.at, false));
                let mark = mark(&prefix, index);
                // Among attributes it is one, without a value.
                let is_attribute = cursor == Cursor::Attributes;
                mjml.push_str(&if is_attribute { format!(" {mark} ") } else { mark });
            }
        }
    }
    let cut = mjml.len() - without_declarations(&mjml).len();
    let mjml = &mjml[cut..];
    let near = |offset: usize| {
        let offset = offset + cut;
        let found = places.iter().rev().find(|(place, ..)| *place <= offset);
        found.map_or(At::default(), |(place, at, is_text)| At {
            offset: at.offset + if *is_text { offset - place } else { 0 },
            ..*at
        })
    };
    if let Some(offset) = too_deep(mjml) {
        let reason = format!("its elements nest deeper than {MAX_NESTING}");
        return Err(Fault::new(near(offset), reason));
    }
    let is_shown = |text: &str| unmark(text, &prefix, pieces).iter().any(is_shown);
    if let Some((offset, reason)) = mjml_structure::fault(mjml, is_shown) {
        return Err(Fault::new(near(offset), reason));
    }
    let parsed = mrml::parse(mjml).map_err(|error| {
        let (offset, reason) = explain(&error, mjml);
        Fault::new(near(offset), reason)
    })?;
    if let Some(warning) = parsed.warnings.first() {
        return Err(Fault::new(near(warning.span.start), format!("MJML: {}", warning.kind)));
    }
    let options = mrml::prelude::render::RenderOptions::default();
    let html = parsed.element.render(&options);
    let html = html.map_err(|error| Fault::new(near(0), format!("MJML: {error}")))?;
    // What MJML doesn't know it passes on as it stands.
    if let Some((_, name)) = mjml_element(&html) {
        let at = mjml.find(&format!("<{name}")).unwrap_or_default();
        return Err(Fault::new(
            near(at),
            format!("MJML: <{name}> is no element, or has no place here"),
        ));
    }
    let found = unmark(&html, &prefix, pieces);
    for piece in pieces {
        if let Piece::Tag(tag) = piece
            && matches!(tag.kind, Kind::Open | Kind::OpenInverse | Kind::Else | Kind::Close)
            && !found.contains(piece)
        {
            let reason = "MJML has no place for a block here: put it into <mj-raw>, or into an element with text";
            return Err(Fault::new(tag.at, reason));
        }
    }
    Ok(found)
}

/// Whether it is more than blank, or a tag that prints something.
fn is_shown(piece: &Piece) -> bool {
    match piece {
        Piece::Text(text, _) => !text.trim().is_empty(),
        Piece::Tag(tag) => matches!(tag.kind, Kind::Print | Kind::Markup),
    }
}

fn unmark(html: &str, prefix: &str, pieces: &[Piece]) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once(prefix) {
        text.push_str(before);
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let tag = after[..digits].parse().ok().and_then(|index: usize| pieces.get(index));
        if let (Some(tag @ Piece::Tag(_)), true) = (tag, after[digits..].starts_with('z')) {
            if !text.is_empty() {
                found.push(Piece::Text(std::mem::take(&mut text), At::default()));
            }
            found.push(tag.clone());
            rest = &after[digits + 1..];
        } else {
            text.push_str(prefix);
            rest = after;
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        found.push(Piece::Text(text, At::default()));
    }
    found
}

/// MJML from its first element on: `<?xml …?>` and `<!doctype …>` mean nothing to it.
fn without_declarations(mjml: &str) -> &str {
    let mut rest = mjml.trim_start();
    while let Some(after) = ["<?", "<!"].into_iter().find_map(|begin| {
        let declaration = rest.strip_prefix(begin).filter(|it| !it.starts_with("--"))?;
        declaration.split_once('>').map(|(_, after)| after)
    }) {
        rest = after.trim_start();
    }
    rest
}

fn explain(error: &mrml::prelude::parser::Error, mjml: &str) -> (usize, String) {
    use mrml::prelude::parser::Error;
    let at = |span: &mrml::prelude::parser::Span| {
        let text = mjml.get(span.start..span.end).unwrap_or_default().trim();
        (span.start, text.chars().take(40).collect::<String>())
    };
    match error {
        Error::UnexpectedElement { position, .. } => {
            let (offset, text) = at(position);
            (offset, format!("MJML: <{text}> has no place here"))
        }
        Error::UnexpectedToken { position, .. } => {
            let (offset, text) = at(position);
            (offset, format!("MJML: {text:?} has no place here"))
        }
        Error::MissingAttribute { name, position, .. } => {
            (position.start, format!("MJML: the attribute {name} is missing"))
        }
        Error::EndOfStream { .. } => (mjml.len(), "MJML: an element is never closed".to_owned()),
        Error::ParserError { source, .. } => {
            let place = source.pos();
            let line = mjml.split_inclusive('\n').take(place.row.saturating_sub(1) as usize);
            let offset = line.map(str::len).sum::<usize>() + place.col.saturating_sub(1) as usize;
            let text: String = mjml.get(offset..).unwrap_or_default().chars().take(30).collect();
            (offset, format!("MJML: {text:?} is no markup"))
        }
        other => (0, format!("MJML: {other}")),
    }
}
