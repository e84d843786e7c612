//! What MJML takes without a word and the reader of the mail never sees: text outside of an element that shows
//! text. And elements that are not closed, where they begin: the parser names the end of the file.

use super::syntax::MAX_NESTING;

/// Elements that hold other elements of MJML. In the mail their own text stands between the cells of a table, or
/// has no height.
const CONTAINERS: [&str; 14] = [
    "mjml",
    "mj-head",
    "mj-attributes",
    "mj-body",
    "mj-wrapper",
    "mj-section",
    "mj-group",
    "mj-column",
    "mj-hero",
    "mj-accordion",
    "mj-accordion-element",
    "mj-social",
    "mj-navbar",
    "mj-carousel",
];
/// Void elements, which have no end (HTML 13.1.2).
const VOID: [&str; 13] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr",
];

/// A tag of markup.
struct Tag<'m> {
    at: usize,
    name: &'m str,
    is_end: bool,
    is_empty: bool,
}

impl Tag<'_> {
    fn is_mjml(&self) -> bool {
        let begins = |with: &str| {
            self.name.get(..with.len()).is_some_and(|name| name.eq_ignore_ascii_case(with))
        };
        begins("mj-") || begins("mjml")
    }
}

/// What is wrong with the structure, and where. `is_shown` tells text that needs a place from blank text and tags
/// that print nothing.
pub(super) fn fault(mjml: &str, is_shown: impl Fn(&str) -> bool) -> Option<(usize, String)> {
    let mjml = &with_blank_comments(mjml);
    let mut open: Vec<Tag> = Vec::new();
    let mut text_from = 0;
    for tag in tags(mjml) {
        let holder = open.last().filter(|open| CONTAINERS.contains(&open.name));
        if let Some(holder) = holder {
            let text = &mjml[text_from..tag.at];
            if is_shown(text) {
                let at = text_from + (text.len() - text.trim_start().len());
                return Some((at, unseen("text", holder.name)));
            }
            if !tag.is_mjml() && !tag.is_end {
                return Some((tag.at, unseen(&format!("<{}>", tag.name), holder.name)));
            }
        }
        text_from = tag.end(mjml);
        if !tag.is_mjml() {
            continue;
        }
        if !tag.is_end {
            if !tag.is_empty {
                open.push(tag);
            }
            continue;
        }
        let is_open = open.iter().any(|open| open.name == tag.name);
        match open.pop() {
            Some(last) if last.name == tag.name => {}
            Some(last) if is_open => return Some((last.at, never_closed(last.name))),
            _ => return Some((tag.at, format!("MJML: </{}> closes nothing", tag.name))),
        }
    }
    open.last().map(|last| (last.at, never_closed(last.name)))
}

/// The same places without the words of comments.
fn with_blank_comments(markup: &str) -> String {
    let mut blank = String::with_capacity(markup.len());
    let mut rest = markup;
    while let Some((before, comment)) = rest.split_once("<!--") {
        let end = comment.find("-->").map_or(comment.len(), |end| end + 3);
        blank.push_str(before);
        blank.push_str(&" ".repeat(4 + end));
        rest = &comment[end..];
    }
    blank.push_str(rest);
    blank
}

fn unseen(what: &str, holder: &str) -> String {
    format!(
        "MJML: {what} directly in <{holder}> is not seen in the mail: put it into <mj-text>, or into <mj-raw>"
    )
}

fn never_closed(name: &str) -> String {
    format!("MJML: <{name}> is never closed")
}

/// Where elements begin to nest deeper than the parser may recurse.
pub(super) fn too_deep(markup: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for tag in tags(markup) {
        if tag.is_end {
            depth = depth.saturating_sub(1);
        } else if !tag.is_empty && !VOID.contains(&tag.name.to_ascii_lowercase().as_str()) {
            depth += 1;
        }
        if depth > MAX_NESTING {
            return Some(tag.at);
        }
    }
    None
}

/// The tags outside of comments, in order.
fn tags(markup: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let at = from + markup[from..].find('<')?;
            let rest = &markup[at..];
            if let Some(comment) = rest.strip_prefix("<!--") {
                from = at + 4 + comment.find("-->")?;
                continue;
            }
            let (is_end, name) = match rest[1..].strip_prefix('/') {
                Some(name) => (true, name),
                None => (false, &rest[1..]),
            };
            from = at + 1;
            if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                continue;
            }
            let end = end_of_tag(rest);
            let name = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next()?;
            from = at + end.max(1);
            return Some(Tag { at, name, is_end, is_empty: rest[..end].ends_with('/') });
        }
    })
}

impl Tag<'_> {
    /// The place behind it.
    fn end(&self, markup: &str) -> usize {
        (self.at + end_of_tag(&markup[self.at..]) + 1).min(markup.len())
    }
}

/// Where an element's tag ends, outside of the values of its attributes.
fn end_of_tag(rest: &str) -> usize {
    let mut quote = None;
    let end = rest.find(|letter| match quote {
        Some(open) => {
            if letter == open {
                quote = None;
            }
            false
        }
        None => {
            if letter == '"' || letter == '\'' {
                quote = Some(letter);
            }
            letter == '>'
        }
    });
    end.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::fault;

    fn found(mjml: &str) -> Option<(usize, String)> {
        fault(mjml, |text| !text.trim().is_empty())
    }

    #[test]
    fn text_has_a_place_or_is_named() {
        for (inside, unseen) in [
            ("<mj-text>Hello</mj-text>", None),
            ("<mj-text><p>Hello</p></mj-text>", None),
            ("<mj-raw><p>Hello</p>there</mj-raw>", None),
            ("<!-- Hello <p> --> <mj-divider />", None),
            ("<mj-button href=\"https://a.example/?a>b\">Go</mj-button>", None),
            ("Hello", Some((15, "text"))),
            ("<mj-text>a</mj-text> Hello", Some((36, "text"))),
            ("<p>Hello</p>", Some((15, "<p>"))),
            ("<div><mj-text>a</mj-text></div>", Some((15, "<div>"))),
        ] {
            let mjml = format!("<mjml><mj-body>{inside}</mj-body></mjml>");
            let expected = unseen.map(|(at, what)| (at, super::unseen(what, "mj-body")));
            assert_eq!(found(&mjml), expected, "{inside}");
        }
    }

    #[test]
    fn an_element_that_is_not_closed_is_named_where_it_begins() {
        for (mjml, at, reason) in [
            ("<mj-column><mj-text>a</mj-column>", 11, "MJML: <mj-text> is never closed"),
            ("<mj-text>a", 0, "MJML: <mj-text> is never closed"),
            ("<mj-column></mj-text></mj-column>", 11, "MJML: </mj-text> closes nothing"),
        ] {
            assert_eq!(found(mjml), Some((at, reason.to_owned())), "{mjml}");
        }
    }
}
