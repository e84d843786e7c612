//! Rendering: a walk through the tree that prints into one text.

use std::{borrow::Cow, fmt::Write};

use serde_json::Value;

use super::{
    helpers::is_true,
    locale_formatter::LocaleFormatter,
    tree::{Node, Term},
};

/// What a template sees.
pub(super) struct Scope<'a> {
    /// The locale's.
    pub(super) words: &'a LocaleFormatter,
    /// The fields of `brand`.
    pub(super) brand: &'a Value,
    /// Values by name; the last of a name counts.
    pub(super) values: Vec<(&'a str, Cow<'a, Value>)>,
}

/// One of a list.
struct Item<'a> {
    value: &'a Value,
    key: Option<&'a str>,
    index: usize,
    is_last: bool,
}

/// Prints a text that is a value into one that is a part of a mail.
pub(super) type Print = fn(&str, &mut String);

/// Renders a part.
///
/// # Errors
/// What helper refuses what it was given, or which name has no value.
pub(super) fn evaluate(nodes: &[Node], scope: &Scope<'_>, print: Print) -> Result<String, String> {
    // Most values are short.
    let texts = nodes.iter().map(|node| if let Node::Text(text) = node { text.len() } else { 64 });
    let mut out = String::with_capacity(2 * texts.sum::<usize>());
    Walk { scope, print }.nodes(nodes, None, &mut out)?;
    Ok(out)
}

struct Walk<'a> {
    scope: &'a Scope<'a>,
    print: Print,
}

impl Walk<'_> {
    fn nodes(
        &self,
        nodes: &[Node],
        item: Option<&Item<'_>>,
        out: &mut String,
    ) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Value(term) => self.value(&*self.term(term, item)?, out),
                Node::If(test, then, otherwise) => {
                    let nodes = if is_true(&*self.term(test, item)?) { then } else { otherwise };
                    self.nodes(nodes, item, out)?;
                }
                Node::Each(term, each, none) => match &*self.term(term, item)? {
                    Value::Array(items) if !items.is_empty() => {
                        for (index, value) in items.iter().enumerate() {
                            let is_last = index + 1 == items.len();
                            let item = Item { value, key: None, index, is_last };
                            self.nodes(each, Some(&item), out)?;
                        }
                    }
                    Value::Object(entries) if !entries.is_empty() => {
                        for (index, (key, value)) in entries.iter().enumerate() {
                            let is_last = index + 1 == entries.len();
                            let item = Item { value, key: Some(key), index, is_last };
                            self.nodes(each, Some(&item), out)?;
                        }
                    }
                    _ => self.nodes(none, item, out)?,
                },
            }
        }
        Ok(())
    }

    fn term<'a>(
        &'a self,
        term: &'a Term,
        item: Option<&Item<'a>>,
    ) -> Result<Cow<'a, Value>, String> {
        let of_item = |value: &dyn Fn(&Item<'a>) -> Cow<'a, Value>| {
            item.map(value).ok_or_else(|| "there is no list around it".to_owned())
        };
        match term {
            Term::Literal(value) => Ok(Cow::Borrowed(value)),
            Term::Name(name) => {
                let mut values = self.scope.values.iter().rev();
                let found = values.find(|(known, _)| known == name);
                found
                    .map(|(_, value)| Cow::Borrowed(&**value))
                    .ok_or_else(|| format!("{name:?} has no value"))
            }
            Term::Brand(field) => Ok(Cow::Borrowed(&self.scope.brand[field.as_str()])),
            Term::Item => of_item(&|item| Cow::Borrowed(item.value)),
            Term::Key => of_item(&|item| Cow::Owned(item.key.into())),
            Term::Index => of_item(&|item| Cow::Owned(item.index.into())),
            Term::First => of_item(&|item| Cow::Owned((item.index == 0).into())),
            Term::Last => of_item(&|item| Cow::Owned(item.is_last.into())),
            Term::Call(function, terms) => {
                let values = terms.iter().map(|term| self.term(term, item));
                let values = values.collect::<Result<Vec<_>, _>>()?;
                function.call(&values, self.scope.words).map(Cow::Owned)
            }
        }
    }

    /// As Handlebars prints values.
    fn value(&self, value: &Value, out: &mut String) {
        match value {
            Value::String(text) => (self.print)(text, out),
            Value::Null => {}
            // Writing to a String can't fail.
            Value::Bool(flag) => drop(write!(out, "{flag}")),
            Value::Number(number) => drop(write!(out, "{number}")),
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    self.value(item, out);
                }
                out.push(']');
            }
            Value::Object(_) => out.push_str("[object]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use handlebars::{Handlebars, Template};
    use serde_json::{Map, json};

    use super::*;
    use crate::template::{ascii, locale_formatter::LocaleFormatter, tree::tree};

    fn render(text: &str, values: &Map<String, Value>) -> Result<String, String> {
        let (nodes, _) = tree(&Template::compile(text).unwrap()).unwrap();
        let words = LocaleFormatter::new("es", "es-CO").unwrap();
        let brand = json!({"name": "Cine"});
        let values = values.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value)));
        let scope = Scope { words: &words, brand: &brand, values: values.collect() };
        evaluate(&nodes, &scope, ascii::escape)
    }

    #[test]
    fn it_renders_as_handlebars_does() {
        let mut library = Handlebars::new();
        library.set_strict_mode(true);
        let Value::Object(mut values) = json!({
            "text": "a <b> & c", "none": "", "null": null, "zero": 0, "two": 2, "ten": "10",
            "half": 0.5, "yes": true, "no": false, "seats": ["A1", "A2"], "empty": [],
            "metadata": {"k": "v", "l": 1}, "brand": {"name": "Cine"},
        }) else {
            panic!("an object");
        };
        let names: Vec<String> = values.keys().cloned().collect();
        let mut templates: Vec<String> = [
            "{{text}}\n  {{~brand.name~}}  !{{! a comment }}",
            "{{#each seats}}{{this}}{{#unless @last}}, {{/unless}}{{@index}}{{@first}}{{../two}}{{@root.ten}}{{/each}}",
            "{{#each metadata}}{{@key}}={{this}};{{else}}none{{/each}}",
            "{{#each empty}}{{this}}{{else}}none{{/each}}",
            "{{#each seats}}{{#if @first}}{{this}}{{else if @last}}last{{/if}}{{/each}}",
            "{{#if no}}a{{else if zero}}b{{else if text}}c{{else}}d{{/if}}",
            "{{#unless none}}a{{else}}b{{/unless}}",
            "{{#if (or (eq two 2) (and yes (not no)))}}a{{/if}}{{#eq text \"x\"}}a{{else}}b{{/eq}}",
            "{{eq two 2}} {{and text none}} {{not yes}} {{seats}} {{metadata}}",
        ]
        .map(str::to_owned)
        .into();
        for name in &names {
            templates.push(format!(
                "{{{{{name}}}}}|{{{{#if {name}}}}}a{{{{else}}}}b{{{{/if}}}}|{{{{not {name}}}}}"
            ));
            for other in &names {
                for helper in ["eq", "ne", "gt", "gte", "lt", "lte", "and", "or"] {
                    templates.push(format!("{{{{{helper} {name} {other}}}}}"));
                }
            }
        }
        library.register_escape_fn(|text| {
            let mut escaped = String::new();
            ascii::escape(text, &mut escaped);
            escaped
        });
        for text in templates {
            let wanted = library.render_template(&text, &values).unwrap();
            assert_eq!(render(&text, &values).unwrap(), wanted, "{text}");
        }
        values.remove("text");
        let missing = render("{{#if two}}{{text}}{{/if}}", &values);
        assert_eq!(missing.unwrap_err(), "\"text\" has no value");
    }

    #[test]
    fn our_own_helpers_know_the_locale_and_what_they_take() {
        let Value::Object(values) = json!({
            "seats": ["A1", "A2", "B5"], "one": 1, "two": "2", "text": " a & b\r\n\n<c>  \n", "none": "",
        }) else {
            panic!("an object");
        };
        let lines = "{{#each (lines text)}}{{#unless @first}}<br>{{/unless}}{{this}}{{/each}}";
        for (text, wanted) in [
            ("{{list seats}}", "A1, A2 y B5"),
            ("{{plural one \"dia\" \"dias\"}}, {{plural two \"dia\" \"dias\"}}", "1 dia, 2 dias"),
            (lines, "a &amp; b<br><br>&lt;c&gt;"),
            ("{{#each (lines none)}}{{this}}{{/each}}", ""),
        ] {
            assert_eq!(render(text, &values).unwrap(), wanted, "{text}");
        }
        for text in
            ["{{list one}}", "{{plural seats \"a\" \"b\"}}", "{{eq one}}", "{{not one two}}"]
        {
            assert!(render(text, &values).unwrap_err().starts_with("a helper "), "{text}");
        }
    }
}
