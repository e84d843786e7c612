//! One template in one language, ready to render.

use std::collections::BTreeSet;

use handlebars::Template;
use sha2::{Digest, Sha256};

use super::{
    ascii, names,
    source::{Files, Includes, Markup, Source},
};

/// One template in one language, ready to render.
#[derive(Debug)]
pub struct Compiled {
    pub(super) subject: Template,
    pub(super) html: Template,
    pub(super) text: Template,
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
        let subject = includes.expanded(&source.subject, "subject").map_err(|e| at("subject", e));
        let text = includes.laid_out(&source.text, "txt").map_err(|e| at("txt", e));
        let html = match source.markup {
            Markup::Mjml if is_whole(&source.html) => includes.expanded(&source.html, "mjml"),
            Markup::Mjml => includes.laid_out(&source.html, "mjml"),
            Markup::Html => includes.expanded(&source.html, "html"),
        };
        let html = html.and_then(|html| match source.markup {
            Markup::Mjml => to_html(&html),
            Markup::Html => Ok(html),
        });
        let html = html.map(|html| ascii::template(&html)).map_err(|e| at("html", e));
        let (subject, html, text) = all(subject, html, text)?;
        let flat = Source { subject, html, text, markup: Markup::Html };
        Self::of_flat(template, language, flat)
    }

    /// Compiles what [`Self::flat`] was.
    ///
    /// # Errors
    /// Every fault found.
    pub fn of_flat(template: &str, language: &str, flat: Source) -> Result<Self, Vec<String>> {
        let mut names = BTreeSet::new();
        let mut part = |kind: &str, text: &str| {
            let name = format!("{template}/{language}.{kind}");
            let fault = |reason: String| format!("templates/{name}: {reason}");
            let mut compiled = Template::compile_with_name(text, name.clone())
                .map_err(|error| vec![fault(error.reason().to_string())])?;
            let found = names::settle(&mut compiled)
                .map_err(|faults| faults.into_iter().map(fault).collect::<Vec<_>>())?;
            names.extend(found);
            Ok(compiled)
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

fn is_whole(mjml: &str) -> bool {
    mjml.trim_start().starts_with("<mjml")
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
}
