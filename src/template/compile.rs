//! One template in one language, ready to render.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::{
    ascii,
    read::read,
    source::{Files, Includes, Markup, Source},
    tree::Node,
};

/// Longest part, in bytes, with its includes; mail programs cut longer ones off anyway.
const MAX_PART_BYTES: usize = 256 * 1024;
/// Deepest nesting of a part.
const MAX_NESTING: usize = 100;

/// One template in one language, ready to render.
#[derive(Debug)]
pub struct Compiled {
    pub(super) subject: Vec<Node>,
    pub(super) html: Vec<Node>,
    pub(super) text: Vec<Node>,
    /// The variables that it uses.
    pub(super) names: BTreeSet<String>,
    /// A hash of its flat text: equal mails have equal versions.
    pub version: String,
    /// What was compiled: no includes, HTML instead of MJML. All it takes to render it again.
    pub flat: Source,
}

impl Compiled {
    /// Puts in the includes, turns MJML into HTML and compiles each part.
    ///
    /// # Errors
    /// Every fault found.
    pub fn new(
        files: &Files,
        template: &str,
        language: &str,
        source: &Source,
    ) -> Result<Self, Vec<String>> {
        let at = |kind: &str, reason: String| {
            vec![format!("templates/{template}/{language}.{kind}: {reason}")]
        };
        let includes = Includes { files, template, language };
        let subject = includes.expanded(&source.subject, "subject").and_then(bounded);
        let subject = subject.map_err(|e| at("subject", e));
        let text = includes.text(source).and_then(bounded).map_err(|e| at("txt", e));
        let html = includes.html(source).and_then(bounded).and_then(|html| match source.markup {
            Markup::Mjml => to_html(&html),
            Markup::Html | Markup::None => Ok(html),
        });
        let html = html.map(|html| ascii::template(&html)).map_err(|e| at("html", e));
        let (subject, html, text) = all(subject, html, text)?;
        let markup = match source.markup {
            Markup::Mjml | Markup::Html => Markup::Html,
            Markup::None => Markup::None,
        };
        let flat = Source { subject, html, text, markup };
        Self::of_flat(template, language, flat)
    }

    /// Compiles what [`Self::flat`] was.
    ///
    /// # Errors
    /// Every fault found.
    pub fn of_flat(template: &str, language: &str, flat: Source) -> Result<Self, Vec<String>> {
        let mut names = BTreeSet::new();
        let mut part = |kind: &str, text: &str| {
            let fault = |reason| format!("templates/{template}/{language}.{kind}: {reason}");
            let (nodes, found) =
                read(text).map_err(|faults| faults.into_iter().map(fault).collect::<Vec<_>>())?;
            names.extend(found);
            Ok(nodes)
        };
        let subject = part("subject", flat.subject.trim_end());
        let html = part("html", &flat.html);
        let text = part("txt", &flat.text);
        let (subject, html, text) = all(subject, html, text)?;
        let mut hash = Sha256::new();
        for part in [&flat.subject, &flat.html, &flat.text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let version = hex::encode(&hash.finalize()[..6]);
        Ok(Self { subject, html, text, names, version, flat })
    }
}

/// Refuses what would be too much for the parsers, which recurse: an overflow of the stack ends
/// the process.
fn bounded(part: String) -> Result<String, String> {
    if part.len() > MAX_PART_BYTES {
        return Err(format!("it has {} bytes, more than {MAX_PART_BYTES}", part.len()));
    }
    if nesting(&part) > MAX_NESTING {
        return Err(format!("its elements, blocks or calls nest deeper than {MAX_NESTING}"));
    }
    Ok(part)
}

/// How deep elements, blocks and calls lie in each other, at most. `{{else if}}` lies in its `if`.
fn nesting(part: &str) -> usize {
    // Void elements, which have no end (HTML 13.1.2).
    const VOID: [&str; 13] = [
        "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source",
        "track", "wbr",
    ];
    let (mut elements, mut blocks, mut calls, mut deepest) = (0_usize, 0_usize, 0_usize, 0);
    let mut outer_blocks = Vec::new();
    let mut rest = part;
    while let Some(at) = rest.find(['<', '(', ')', '{']) {
        let (sign, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = after;
        match sign {
            b'<' if after.starts_with('/') => elements = elements.saturating_sub(1),
            b'<' if after.starts_with(|first: char| first.is_ascii_alphabetic()) => {
                let tag = after.split('>').next().unwrap_or_default();
                let name = tag.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next();
                if !tag.ends_with('/') && !name.is_some_and(|name| VOID.contains(&name)) {
                    elements += 1;
                }
            }
            b'(' => calls += 1,
            b')' => calls = calls.saturating_sub(1),
            b'{' if after.starts_with('{') => {
                calls = 0;
                let inner = after[1..].trim_start_matches(['~', ' ', '\n', '\t']);
                if inner.starts_with(['#', '^']) {
                    outer_blocks.push(blocks);
                    blocks += 1;
                } else if inner.strip_prefix("else").is_some_and(|it| !it.starts_with(['}', '~'])) {
                    blocks += 1;
                } else if inner.starts_with('/') {
                    blocks = outer_blocks.pop().unwrap_or_default();
                }
            }
            _ => {}
        }
        deepest = deepest.max(elements + blocks + calls);
    }
    deepest
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

/// MJML to HTML; Handlebars expressions go through it as text.
fn to_html(mjml: &str) -> Result<String, String> {
    let parsed = mrml::parse(mjml).map_err(|error| format!("MJML: {error}"))?;
    if let Some(warning) = parsed.warnings.first() {
        return Err(format!("MJML: {warning:?}"));
    }
    let options = mrml::prelude::render::RenderOptions::default();
    let html = parsed.element.render(&options).map_err(|error| format!("MJML: {error}"))?;
    // What MJML doesn't know it passes on as it stands.
    match html.split_once("<mj-") {
        None => Ok(html),
        Some((_, after)) => {
            let name = after.split(|c: char| !c.is_alphanumeric() && c != '-').next();
            Err(format!("MJML: <mj-{}> is no element", name.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(html: &str, markup: Markup) -> Result<Compiled, Vec<String>> {
        let source = Source {
            subject: "{{Title}}\n".to_owned(),
            html: html.to_owned(),
            text: "{{title}}".to_owned(),
            markup,
        };
        Compiled::new(&Files::new(), "t", "en", &source)
    }

    #[test]
    fn mjml_becomes_html_and_keeps_its_expressions() {
        let mjml = r#"<mjml><mj-body><mj-section><mj-column>
            <mj-table>{{#each seats}}<tr><td>{{this}}</td></tr>{{/each}}</mj-table>
            <mj-raw>{{#if url}}</mj-raw><mj-button href="{{url}}">Go</mj-button><mj-raw>{{/if}}</mj-raw>
            </mj-column></mj-section></mj-body></mjml>"#;
        let compiled = compile(mjml, Markup::Mjml).unwrap();
        assert!(compiled.flat.html.contains(r#"{{#if url}}<tr>"#), "{}", compiled.flat.html);
        assert!(compiled.flat.html.contains(r#"href="{{url}}""#));
        assert_eq!(compiled.names.iter().collect::<Vec<_>>(), ["seats", "title", "url"]);
    }

    #[test]
    fn each_fault_says_where() {
        let faults = compile("<mjml><mj-body><mj-nothing/></mj-body></mjml>", Markup::Mjml);
        assert!(faults.unwrap_err()[0].starts_with("templates/t/en.html: MJML: "));
        let faults = compile("{{#if}", Markup::Html).unwrap_err();
        assert!(faults[0].starts_with("templates/t/en.html: "), "{faults:?}");
        let faults = compile("{{{title}}} {{shout title}}", Markup::Html).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn the_version_is_that_of_the_words() {
        let version = |html| compile(html, Markup::Html).unwrap().version;
        assert_eq!(version("<p>a</p>"), version("<p>a</p>"));
        assert_ne!(version("<p>a</p>"), version("<p>b</p>"));
    }

    #[test]
    fn what_would_overflow_the_stack_is_refused() {
        let deep = |open: &str, inner: &str, close: &str, times: usize| {
            format!("{}{inner}{}", open.repeat(times), close.repeat(times))
        };
        let raw = |times| {
            let elements = deep("<div>", "", "</div>", times);
            format!("<mjml><mj-body><mj-raw>{elements}</mj-raw></mj-body></mjml>")
        };
        let calls = |times| format!("{{{{#if {}}}}}x{{{{/if}}}}", deep("(and a ", "b", ")", times));
        let blocks = |times| deep("{{#if a}}", "x", "{{/if}}", times);
        let chain = |times| format!("{{{{#if a}}}}{}{{{{/if}}}}", "{{else if b}}x".repeat(times));
        for (markup, text) in [
            (Markup::Mjml, &raw as &dyn Fn(usize) -> String),
            (Markup::Html, &calls),
            (Markup::Html, &blocks),
            (Markup::Html, &chain),
        ] {
            compile(&text(MAX_NESTING - 5), markup).unwrap();
            let faults = compile(&text(5000), markup).unwrap_err();
            assert!(faults[0].contains("nest deeper than 100"), "{faults:?}");
        }
        compile(&"<br>({{a}})".repeat(1000), Markup::Html).unwrap();
        assert!(
            compile(&"x".repeat(MAX_PART_BYTES + 1), Markup::Html).unwrap_err()[0]
                .contains("bytes")
        );
    }
}
