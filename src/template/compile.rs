//! One template in one language, ready to render.

use std::{borrow::Cow, collections::HashMap};

use handlebars::Template;

use super::{
    ascii,
    helpers::{BLOCKS, Function},
    include::{Includes, Origins, Piece, merged, print},
    lint::{self, Checked},
    mjml,
    source::{Files, Markup, Source, SourceKind},
    syntax::{Fault, Kind, MAX_NESTING},
};
use crate::routing::{Route, RoutingTable};

/// One template in one language, ready to render.
#[derive(Debug)]
pub struct Compiled {
    /// Its parts for each route that uses it, by name: they may declare different types.
    pub(super) routes: HashMap<String, Parts>,
    /// A hash of its flat text: equal mails have equal versions.
    pub version: String,
    /// What was compiled: no includes, HTML instead of MJML. All it takes to render it again.
    pub flat: Source,
}

/// What a mail is rendered from.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) subject: Checked,
    pub(super) html: Checked,
    pub(super) text: Checked,
}

impl Compiled {
    /// Puts in the includes, turns MJML into HTML and compiles each part for the routes that use it.
    ///
    /// # Errors
    /// Every fault found, with its file, line and column.
    pub fn new(
        files: &Files,
        template: &str,
        language: &str,
        source: &Source,
        routing: &RoutingTable,
    ) -> Result<Self, Vec<String>> {
        let routes = routing.routes().into_iter().filter(|route| route.template == template);
        let routes: Vec<&Route> = routes.map(|route| &**route).collect();
        Self::for_routes(files, template, language, source, &routes)
    }

    pub(super) fn for_routes(
        files: &Files,
        template: &str,
        language: &str,
        source: &Source,
        routes: &[&Route],
    ) -> Result<Self, Vec<String>> {
        let includes = Includes::new(files, template, language);
        let located = |fault: Fault| vec![includes.origins.locate(&fault)];
        let subject = includes.subject(source).map(merged).map_err(located);
        let html = includes.html(source).and_then(|pieces| match source.markup {
            Markup::Mjml => mjml::to_html(&pieces),
            Markup::Html | Markup::None => mjml::html(pieces),
        });
        let html = html.map(|pieces| if source.is_flat() { pieces } else { ascii::html(pieces) });
        let html = html.map_err(located);
        let text = includes.text(source).map(merged).map_err(located);
        let (subject, html, text) = all(subject, html, text)?;
        let mut parts = HashMap::new();
        let mut faults = Vec::new();
        // A template that no route uses is read all the same.
        let unused = [None];
        let routes = routes.iter().copied().map(Some).chain(unused).take(routes.len().max(1));
        for route in routes {
            let part = |pieces: &[Piece], is_markup| {
                check(pieces, route, language, &includes.origins, is_markup)
            };
            match all(part(&subject, false), part(&html, true), part(&text, false)) {
                Ok((subject, html, text)) => {
                    let name = route.map(|route| route.name.clone()).unwrap_or_default();
                    parts.insert(name, Parts { subject, html, text });
                }
                Err(found) => {
                    let new: Vec<_> = found.into_iter().filter(|it| !faults.contains(it)).collect();
                    faults.extend(new);
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let markup = match source.markup {
            Markup::Mjml | Markup::Html => Markup::Html,
            Markup::None => Markup::None,
        };
        let flat = if source.is_flat() {
            source.clone()
        } else {
            let [subject, html, text] = [subject, html, text].map(|pieces| print(&pieces));
            Source { subject, html, text, markup, kind: SourceKind::Flat { is_stripped: true } }
        };
        let version = flat.version();
        Ok(Self { routes: parts, version, flat })
    }
}

/// A part as the `handlebars` crate renders it, checked for a route.
fn check(
    pieces: &[Piece],
    route: Option<&Route>,
    language: &str,
    origins: &Origins,
    is_markup: bool,
) -> Result<Checked, Vec<String>> {
    let template = read(pieces).map_err(|fault| vec![origins.locate(&fault)])?;
    let checked = lint::check(template, pieces, route, language, is_markup);
    checked.map_err(|faults| faults.iter().map(|fault| origins.locate(fault)).collect())
}

/// Stands for a text while the tags are read: the library's parser looks at every byte of a text, and would
/// take white space away.
const TEXT: &str = "\u{1}";

/// What the library's parser makes of the tags; each text is still to be put back.
fn read(pieces: &[Piece]) -> Result<Template, Fault> {
    let mut short = String::new();
    let mut open: Vec<(&'static str, usize)> = Vec::new();
    let mut tags = Vec::new();
    let mut depth = 0;
    for piece in pieces {
        let Piece::Tag(tag) = piece else {
            short.push_str(TEXT);
            continue;
        };
        tags.push((short.len(), tag));
        let fault = |reason: String| Err(Fault::new(tag.at, reason));
        let body = library_syntax(&tag.body);
        match tag.kind {
            Kind::Markup => {
                return fault(format!(
                    "{{{{{{{}}}}}}} would print a value as markup: write {{{{{}}}}}",
                    tag.body, tag.body
                ));
            }
            Kind::Open | Kind::OpenInverse => {
                let (name, body) = named(tag.name(), &body);
                short.push_str(&format!("{{{{#{body}}}}}"));
                depth += 1;
                open.push((name, depth));
            }
            Kind::Else => {
                let chain = body.strip_prefix("else").unwrap_or_default().trim();
                if chain.is_empty() {
                    short.push_str("{{else}}");
                } else {
                    let first = chain.split(' ').next().unwrap_or_default();
                    short.push_str(&format!("{{{{else {}}}}}", named(first, chain).1));
                    depth += 1;
                }
            }
            Kind::Close => {
                let (name, outer) = open.pop().unwrap_or_default();
                short.push_str(&format!("{{{{/{name}}}}}"));
                depth = outer.saturating_sub(1);
            }
            _ => short.push_str(&format!("{{{{{body}}}}}")),
        }
        if depth > MAX_NESTING {
            return fault(format!("its blocks nest deeper than {MAX_NESTING}"));
        }
    }
    Template::compile(&short).map_err(|error| {
        let (_, column) = error.pos().unwrap_or_default();
        let offset =
            short.char_indices().nth(column.saturating_sub(1)).map_or(short.len(), |it| it.0);
        let tag = tags.iter().rev().find(|(begin, _)| *begin <= offset);
        let at = tag.map(|(_, tag)| tag.at).unwrap_or_default();
        let body = tag.map(|(_, tag)| print(&[Piece::Tag((*tag).clone())])).unwrap_or_default();
        Fault::new(at, format!("{body} is not Handlebars"))
    })
}

/// A block's name for the library, and what stands in its tag: `{{#items}}` of no helper is a section.
fn named<'a>(name: &str, body: &'a str) -> (&'static str, Cow<'a, str>) {
    // `{{#list}}` alone is a section over a field of that name.
    let function = Function::named(name).filter(|_| body != name).map(|(name, _)| name);
    match BLOCKS.into_iter().find(|it| *it == name).or(function) {
        Some(name) => (name, body.into()),
        None if name == "log" => ("log", body.into()),
        None => ("section", format!("section {body}").into()),
    }
}

/// What stands in a tag as the library's grammar has it: texts as JSON, `.` as `this`, `..` as `../this`.
fn library_syntax(body: &str) -> String {
    let mut out = String::with_capacity(body.len() + 8);
    let mut rest = body;
    while let Some(first) = rest.chars().next() {
        match first {
            '"' | '\'' => {
                let mut text = String::new();
                let mut letters = rest[1..].char_indices().peekable();
                let mut end = rest.len();
                while let Some((at, letter)) = letters.next() {
                    if letter == '\\' && letters.peek().is_some_and(|it| it.1 == first) {
                        letters.next();
                        text.push(first);
                    } else if letter == first {
                        end = 1 + at + 1;
                        break;
                    } else {
                        text.push(letter);
                    }
                }
                out.push_str(&serde_json::Value::from(text).to_string());
                rest = &rest[end..];
            }
            _ if first.is_whitespace() => {
                out.push(' ');
                rest = rest.trim_start();
            }
            '(' | ')' | '=' | '|' => {
                out.push(first);
                rest = &rest[1..];
            }
            _ => {
                let mut in_brackets = false;
                let end = rest.find(|letter: char| {
                    match letter {
                        '[' => in_brackets = true,
                        ']' => in_brackets = false,
                        _ => {}
                    }
                    !in_brackets && (letter.is_whitespace() || "()=|\"'".contains(letter))
                });
                let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
                let is_up = |part: &str| part == "..";
                match word {
                    "." => out.push_str("this"),
                    "undefined" => out.push_str("null"),
                    _ if word.split('/').all(is_up) => out.push_str(&format!("{word}/this")),
                    _ => out.push_str(word),
                }
                rest = after;
            }
        }
    }
    out
}

/// All three, or the faults of all three.
fn all<T>(
    a: Result<T, Vec<String>>,
    b: Result<T, Vec<String>>,
    c: Result<T, Vec<String>>,
) -> Result<(T, T, T), Vec<String>> {
    match (a, b, c) {
        (Ok(a), Ok(b), Ok(c)) => Ok((a, b, c)),
        (a, b, c) => Err([a.err(), b.err(), c.err()].into_iter().flatten().flatten().collect()),
    }
}
