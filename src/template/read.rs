//! Reading a template: Handlebars' parser, and the tree of what it finds.
//!
//! The parser counts lines and columns from the beginning for each of a template's pieces and looks at
//! every byte of markup on its own: for the HTML of a mail three quarters of what a start takes. It gets
//! marks instead of markup, which is put back where they are found.

use std::collections::BTreeSet;

use handlebars::Template;

use super::tree::{Node, tree};

/// Around the number of a piece of markup; no template has a reason to hold it.
const MARK: char = '\u{1}';

/// The tree of a template, and the variables that it uses.
///
/// # Errors
/// Every fault found.
pub(super) fn read(text: &str) -> Result<(Vec<Node>, BTreeSet<String>), Vec<String>> {
    if !text.contains(MARK) {
        let (short, markup) = without_markup(text);
        if let Ok((mut nodes, names)) = parse(&short)
            && put_back(&mut nodes, &markup) == markup.len()
        {
            return Ok((nodes, names));
        }
    }
    // A fault, to be told in the template's own words; or what looked like markup was not.
    parse(text)
}

fn parse(text: &str) -> Result<(Vec<Node>, BTreeSet<String>), Vec<String>> {
    let template = Template::compile(text).map_err(|error| vec![error.reason().to_string()])?;
    tree(&template)
}

/// A template with marks in place of its markup. Each piece goes from a tag's begin to a tag's end: white
/// space around it, which Handlebars may trim, stays.
fn without_markup(text: &str) -> (String, Vec<&str>) {
    let mut short = String::new();
    let mut markup = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (words, after) = rest.split_at(rest.find("{{").unwrap_or(rest.len()));
        match (words.find('<'), words.rfind('>')) {
            // The end of a comment or of a helper's text would be no words.
            (Some(begin), Some(end)) if begin < end && !words.contains("}}") => {
                short.push_str(&words[..begin]);
                short.push_str(&format!("{MARK}{}{MARK}", markup.len()));
                short.push_str(&words[end + 1..]);
                markup.push(&words[begin..=end]);
            }
            _ => short.push_str(words),
        }
        let (expression, after) = after.split_at(after.find("}}").map_or(after.len(), |at| at + 2));
        short.push_str(expression);
        rest = after;
    }
    (short, markup)
}

/// How many pieces of markup were put back.
fn put_back(nodes: &mut [Node], markup: &[&str]) -> usize {
    let within = |node: &mut Node| match node {
        Node::Text(text) if text.contains(MARK) => {
            let mut whole = String::new();
            let mut found = 0;
            for (place, piece) in text.split(MARK).enumerate() {
                let number = piece.parse().ok().filter(|_| place % 2 == 1);
                match number.and_then(|number: usize| markup.get(number)) {
                    Some(markup) => {
                        whole.push_str(markup);
                        found += 1;
                    }
                    None => whole.push_str(piece),
                }
            }
            whole.shrink_to_fit();
            *text = whole;
            found
        }
        Node::If(_, then, otherwise) | Node::Each(_, then, otherwise) => {
            put_back(then, markup) + put_back(otherwise, markup)
        }
        Node::Text(_) | Node::Value(_) => 0,
    };
    nodes.iter_mut().map(within).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_same(text: &str) {
        assert_eq!(format!("{:?}", read(text)), format!("{:?}", parse(text)), "{text:?}");
    }

    #[test]
    fn what_only_looks_like_markup_is_read_all_the_same() {
        for text in [
            "<p>{{plural n \"}}<b>\" \"<i>\"}}</p>",
            "{{!-- }} <p>a</p> --}}<b>{{a}}</b>",
            "<p>\\{{a}} <b>b</b></p>{{c}}",
            "a > b {{c}} d < e",
            "<p>\u{1}0\u{1}</p>{{a}}<i>",
            "<p>{{a}</p>",
            "<p>{{#if a}}</p>",
            "{{{a}}}<p>b</p>",
        ] {
            assert_same(text);
        }
    }

    /// Words, white space, markup and expressions, in blocks that end.
    fn templates() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[ \n\t]{0,3}",
            "(<[a-z]{1,3}>){0,2}",
            "[a-z<>\\\\ ]{0,4}",
            prop::sample::select(vec!["{{a}}", "{{~b~}}", "{{!-- c --}}", "\n", "}}"])
                .prop_map(ToOwned::to_owned),
        ];
        piece.prop_recursive(4, 40, 6, |inner| {
            let several = prop::collection::vec(inner, 0..6).prop_map(|pieces| pieces.concat());
            let if_else = prop::sample::select(vec![
                ("{{#if a}}", "{{else}}", "{{/if}}"),
                ("{{~#if a~}}", "{{~else~}}", "{{~/if~}}"),
                ("{{#each a}}\n", "\n{{else}}\n", "\n{{/each}}"),
            ]);
            prop_oneof![
                several.clone(),
                (if_else, several.clone(), several)
                    .prop_map(|((a, b, c), then, or)| [a, &then, b, &or, c].concat()),
            ]
        })
    }

    proptest! {
        /// Handlebars trims white space around blocks that stand alone and beside `~`.
        #[test]
        fn markup_makes_no_difference(text in templates()) {
            assert_same(&text);
        }
    }
}
