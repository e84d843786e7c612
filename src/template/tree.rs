//! What is left of a template once it is read: a tree whose names are known.
//!
//! Handlebars' own parser reads it; the tree holds what of the language templates may use and
//! nothing else, so what could not be checked before rendering, or would be unsafe, is refused here.
//! Rendering alone would not find it: a branch that no sample takes is not looked at.

use std::collections::BTreeSet;

use handlebars::{
    Path, PathSeg, Template,
    template::{HelperTemplate, Parameter, TemplateElement},
};
use serde_json::Value;

use super::helpers::Function;
use crate::event::snake_case;

/// What every template sees beside its route's variables.
pub(super) const GLOBALS: [&str; 8] = [
    "locale",
    "subject",
    "brand",
    "current_year",
    "current_date",
    "full_name",
    "username",
    "email",
];

/// The fields of `brand`.
pub(super) const BRAND: [&str; 7] =
    ["name", "logo_url", "website_url", "support_email", "support_url", "colour", "text_on_colour"];

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Node {
    /// As it stands.
    Text(String),
    /// Printed.
    Value(Term),
    /// One of two, by whether the term is true.
    If(Term, Vec<Node>, Vec<Node>),
    /// Once for each item of a list or entry of a map; the other if there is none.
    Each(Term, Vec<Node>, Vec<Node>),
}

/// What has a value.
#[derive(Debug)]
pub(super) enum Term {
    /// A variable.
    Name(String),
    /// A field of `brand`.
    Brand(String),
    /// The item of the list around it.
    Item,
    /// The item's name in a map.
    Key,
    /// The item's place, from 0.
    Index,
    /// Whether it is the first.
    First,
    /// Whether it is the last.
    Last,
    /// Written in the template.
    Literal(Value),
    /// What a helper makes of other terms.
    Call(Function, Vec<Term>),
}

/// The tree of a template, and the variables that it uses. Names in Pascal case are taken as written
/// in snake case.
///
/// # Errors
/// Everything in it that templates must not hold.
pub(super) fn tree(template: &Template) -> Result<(Vec<Node>, BTreeSet<String>), Vec<String>> {
    let mut pass = Pass::default();
    let nodes = pass.nodes(Some(template));
    if pass.faults.is_empty() { Ok((nodes, pass.names)) } else { Err(pass.faults) }
}

#[derive(Default)]
struct Pass {
    names: BTreeSet<String>,
    faults: Vec<String>,
    /// How many lists stand around what is read: it is rendered for each item.
    lists: usize,
}

impl Pass {
    fn nodes(&mut self, template: Option<&Template>) -> Vec<Node> {
        let elements = template.map_or(&[][..], |template| &template.elements);
        elements.iter().filter_map(|element| self.node(element)).collect()
    }

    /// What a piece becomes; nothing if it is a comment or a fault.
    fn node(&mut self, element: &TemplateElement) -> Option<Node> {
        match element {
            TemplateElement::RawString(text) => Some(Node::Text(text.clone())),
            TemplateElement::Comment(_) => None,
            TemplateElement::Expression(call) => self.expression(call).map(Node::Value),
            TemplateElement::HelperBlock(call) => self.block(call),
            TemplateElement::HtmlExpression(call) => {
                let name = call.name.as_name().unwrap_or_default();
                self.fault(format!("{{{{{{{name}}}}}}} would print a value as markup"))
            }
            _ => self.fault("an include is written {{> name}}, without more".to_owned()),
        }
    }

    fn fault<T>(&mut self, fault: String) -> Option<T> {
        self.faults.push(fault);
        None
    }

    fn expression(&mut self, call: &HelperTemplate) -> Option<Term> {
        if call.params.is_empty() && call.hash.is_empty() {
            return self.term(&call.name);
        }
        let name = call.name.as_name().unwrap_or_default();
        let terms = self.terms(call);
        match Function::named(name) {
            Some(function) => Some(Term::Call(function, terms?)),
            None => self.fault(format!("there is no helper {name:?}")),
        }
    }

    /// `{{#if …}}` and the like. A helper that gives a value stands for `if`.
    fn block(&mut self, call: &HelperTemplate) -> Option<Node> {
        let name = call.name.as_name().unwrap_or_default();
        if call.block_param.is_some() {
            self.faults.push("an item of a list is {{this}}, without a name of its own".to_owned());
        }
        let terms = self.terms(call);
        let is_list = name == "each";
        self.lists += usize::from(is_list);
        let then = self.nodes(call.template.as_ref());
        self.lists -= usize::from(is_list);
        let otherwise = self.nodes(call.inverse.as_ref());
        if !matches!(name, "if" | "unless" | "each") {
            return match Function::named(name) {
                Some(function) => Some(Node::If(Term::Call(function, terms?), then, otherwise)),
                None => self.fault(format!("there is no helper {name:?}")),
            };
        }
        let mut terms = terms?;
        let (Some(term), true) = (terms.pop(), terms.is_empty()) else {
            return self.fault(format!("{{{{#{name}}}}} takes one value"));
        };
        Some(match name {
            "if" => Node::If(term, then, otherwise),
            "unless" => Node::If(term, otherwise, then),
            _ => Node::Each(term, then, otherwise),
        })
    }

    fn terms(&mut self, call: &HelperTemplate) -> Option<Vec<Term>> {
        if !call.hash.is_empty() {
            self.faults.push("a helper's values have no names".to_owned());
        }
        let terms: Vec<_> = call.params.iter().map(|parameter| self.term(parameter)).collect();
        terms.into_iter().collect()
    }

    fn term(&mut self, parameter: &Parameter) -> Option<Term> {
        let raw = match parameter {
            Parameter::Literal(value) => return Some(Term::Literal(value.clone())),
            Parameter::Subexpression(call) => {
                let TemplateElement::Expression(call) = &*call.element else { return None };
                return self.expression(call);
            }
            Parameter::Path(Path::Local((0, name, raw))) => {
                return match name.as_str() {
                    "key" => Some(Term::Key),
                    "index" => Some(Term::Index),
                    "first" => Some(Term::First),
                    "last" => Some(Term::Last),
                    _ => self.fault(format!("{raw:?} is no name")),
                };
            }
            Parameter::Name(raw)
            | Parameter::Path(Path::Relative((_, raw)) | Path::Local((_, _, raw))) => raw,
            // The library may learn more.
            _ => return self.fault("there is something that is no value".to_owned()),
        };
        let Ok(Path::Relative((segments, _))) = Path::parse(raw) else {
            return self.fault(format!("{raw:?} is no name"));
        };
        let named = segments.iter().filter_map(|segment| match segment {
            PathSeg::Named(name) => Some(name.as_str()),
            _ => None,
        });
        let from_root = raw.starts_with("@root") || (raw.starts_with("..") && self.lists < 2);
        match *named.collect::<Vec<&str>>() {
            [] if self.lists > 0 && !raw.contains("..") => Some(Term::Item),
            [] => self.fault(format!("{raw:?} is an item of a list, and there is no list")),
            ["brand", field] if BRAND.contains(&field) => {
                self.names.insert("brand".to_owned());
                Some(Term::Brand(field.to_owned()))
            }
            [name] if self.lists > 0 && !from_root => self.fault(format!(
                "{name:?} within a list is looked for in the item: write @root.{name}"
            )),
            [name] => {
                let name = snake_case(name);
                self.names.insert(name.clone());
                Some(Term::Name(name))
            }
            _ => self.fault(format!("{raw:?} leads into a value, which has no parts")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, Vec<String>> {
        tree(&Template::compile(text).unwrap()).map(|(_, names)| names.into_iter().collect())
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        let text =
            "{{a}} {{#if B}}{{list c}}{{else if (eq d \"x\")}}{{@root.e}}{{else}}{{f}}{{/if}}
            {{#each seats}}{{this}} {{@index}} {{@root.g}}{{../h}}{{/each}} {{brand.name}}";
        let found = ["a", "b", "brand", "c", "d", "e", "f", "g", "h", "seats"];
        assert_eq!(names(text).unwrap(), found);
    }

    #[test]
    fn what_could_not_be_checked_or_would_be_unsafe_is_refused() {
        for text in [
            "{{{a}}}",
            "{{&a}}",
            "{{#each seats}}{{name}}{{/each}}",
            "{{#each seats}}{{#each this}}{{../name}}{{/each}}{{/each}}",
            "{{this}}",
            "{{metadata.x}}",
            "{{brand.password}}",
            "{{@level}}",
            "{{lookup a b}}",
            "{{log a}}",
            "{{#with a}}{{b}}{{/with}}",
            "{{>a b=c}}",
            "{{#*inline \"x\"}}{{/inline}}",
            "{{unknown a}}",
            "{{#unknown a}}{{/unknown}}",
            "{{if a}}",
            "{{#if}}{{/if}}",
            "{{#if a b}}{{/if}}",
            "{{#if a includeZero=true}}{{/if}}",
            "{{#each seats as |seat|}}{{seat}}{{/each}}",
        ] {
            assert!(names(text).is_err(), "{text}");
        }
    }
}
