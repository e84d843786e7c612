//! Looks at a template before it is rendered: every name is declared, every helper gets what it takes, in every
//! branch. Rendering alone would not find it, for a branch that no sample takes is not looked at.
//!
//! What is found is written into the template: a print of an amount becomes a call of `money`, a path leads to where
//! handlebars.js would find it, a name of `as |item|` is one that nothing else has.

mod calls;
mod paths;
mod types;

use std::collections::{BTreeSet, HashMap};

use handlebars::{
    Path, Template,
    template::{BlockParam, HelperTemplate, Parameter, Subexpression, TemplateElement},
};

pub(super) use self::types::BRAND;
use self::types::{Type, root};
use super::{
    helpers::BLOCKS,
    include::Piece,
    locale_formatter::plural_categories,
    mjml::Cursor,
    syntax::{At, Fault, Kind, Tag},
};
use crate::routing::Route;

/// What a block changes around what stands in it. Each is a block of the crate's as well.
struct Scope {
    this: Type,
    /// `as |item index|` and the values of a partial: the name, the one that it has instead, its type.
    params: Vec<(String, String, Type)>,
    /// Whether `params` are values of a partial, which stand among the fields of `this`.
    is_partial: bool,
    /// Of `each`: whether items have names.
    each: bool,
}

/// A template whose names and helpers are checked, and the helpers that it calls.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) template: Template,
    pub(super) helpers: BTreeSet<&'static str>,
}

/// Checks a template, which was made of `pieces`, for a route.
///
/// # Errors
/// Every fault found.
pub(super) fn check(
    mut template: Template,
    pieces: &[Piece],
    route: Option<&Route>,
    language: &str,
    is_markup: bool,
) -> Result<Checked, Vec<Fault>> {
    let mut pass = Pass {
        route,
        categories: plural_categories(language),
        pieces: pieces.iter().peekable(),
        at: At::default(),
        scopes: vec![Scope { this: root(route), params: vec![], is_partial: false, each: false }],
        faults: Vec::new(),
        helpers: BTreeSet::new(),
        names: 0,
        currency: None,
        cursor: is_markup.then(Cursor::default),
    };
    pass.template(&mut template);
    if pass.faults.is_empty() {
        Ok(Checked { template, helpers: pass.helpers })
    } else {
        Err(pass.faults)
    }
}

struct Pass<'a> {
    route: Option<&'a Route>,
    categories: usize,
    pieces: std::iter::Peekable<std::slice::Iter<'a, Piece>>,
    /// The tag that is looked at.
    at: At,
    scopes: Vec<Scope>,
    faults: Vec<Fault>,
    helpers: BTreeSet<&'static str>,
    /// How many names of `as |item|` there were.
    names: usize,
    /// Where the currency of the last value stands, if it has one of its own.
    currency: Option<Path>,
    /// Where in HTML the next piece stands.
    cursor: Option<Cursor>,
}

impl<'a> Pass<'a> {
    fn fault(&mut self, reason: String) {
        self.faults.push(Fault::new(self.at, reason));
    }

    /// The text that is next among the pieces.
    fn text(&mut self) -> String {
        match self.pieces.next() {
            Some(Piece::Text(text, _)) => {
                if let Some(cursor) = &mut self.cursor {
                    cursor.pass(text);
                }
                text.clone()
            }
            _ => String::new(),
        }
    }

    /// Goes on to the next tag.
    fn tag(&mut self) -> Option<&'a Tag> {
        let Some(Piece::Tag(tag)) = self.pieces.next() else { return None };
        self.at = tag.at;
        Some(tag)
    }

    fn template(&mut self, template: &mut Template) {
        for element in &mut template.elements {
            match element {
                TemplateElement::RawString(text) => *text = self.text(),
                TemplateElement::Expression(call) => {
                    self.tag();
                    if let Some(printed) = self.print(call) {
                        *element = printed;
                    }
                }
                TemplateElement::HelperBlock(call) => {
                    let is_inverse = self.tag().is_some_and(|tag| tag.kind == Kind::OpenInverse);
                    self.block(call, is_inverse);
                    self.tag();
                }
                // Tags of other kinds are no pieces.
                _ => self.fault("this can't be written here".to_owned()),
            }
        }
    }

    /// What prints the value of an expression.
    fn print(&mut self, call: &mut HelperTemplate) -> Option<TemplateElement> {
        let (parameter, kind) = if call.params.is_empty() && call.hash.is_empty() {
            let mut name = call.name.clone();
            let kind = self.parameter(&mut name)?;
            (name, kind)
        } else {
            let kind = self.call(call)?;
            (Parameter::Subexpression(expression(call.clone())), kind)
        };
        if let Type::Map | Type::Record(_) = kind {
            self.fault(
                "an object can't be printed: print one of its fields, or go over it with {{#each}}"
                    .to_owned(),
            );
            return None;
        }
        let call_of = |name: &str, parameter, hash| {
            Subexpression::new(Parameter::Name(name.to_owned()), vec![parameter], hash)
        };
        let printed = match kind.printer() {
            Some(printer) => {
                let mut hash = HashMap::new();
                self.formatted(printer, &kind, &mut hash);
                Parameter::Subexpression(call_of(printer, parameter, hash))
            }
            // A list that was made by a helper is printed as it is.
            None => parameter,
        };
        let isolate = match (&self.cursor, &printed) {
            // Its items are isolated, what is between them is the mail's.
            (_, Parameter::Subexpression(call)) if call.name() == "list" => None,
            (None, _) => Some("isolate"),
            (Some(Cursor::Text), _) => Some("bdi"),
            (Some(_), _) => None,
        };
        if let Some(name) = isolate {
            self.helpers.insert(name);
            return Some(*call_of(name, printed, HashMap::new()).element);
        }
        match printed {
            Parameter::Subexpression(call) => Some(*call.element),
            parameter => {
                call.name = parameter;
                None
            }
        }
    }

    /// What a formatting helper has to know beside its value.
    fn formatted(
        &mut self,
        helper: &'static str,
        kind: &Type,
        hash: &mut HashMap<String, Parameter>,
    ) {
        self.helpers.insert(helper);
        let item = match kind {
            Type::List(item) => &**item,
            other => other,
        };
        if helper == "list"
            && let Some(printer) = item.printer()
        {
            hash.insert("of".to_owned(), Parameter::Literal(printer.into()));
        }
        // An amount among other fields is in the currency that stands beside it.
        if let (Type::Amount, Some(currency)) = (item, self.currency.take()) {
            hash.insert("currency".to_owned(), Parameter::Path(currency));
        }
    }

    fn block(&mut self, call: &mut HelperTemplate, is_inverse: bool) {
        let at = self.at;
        let name = call.name.as_name().unwrap_or_default().to_owned();
        let scope = match name.as_str() {
            "if" | "unless" | "indent" => {
                self.condition(call, &name);
                None
            }
            "each" | "with" | "section" => self.scope(call, &name),
            "scope" => self.partial(call),
            _ => {
                // `{{#eq a b}}` is `{{#if (eq a b)}}`.
                self.no_block_params(call);
                self.call(call);
                let test = Parameter::Subexpression(expression(call.clone()));
                call.name = Parameter::Name("if".to_owned());
                (call.params, call.hash) = (vec![test], HashMap::new());
                None
            }
        };
        for block in BLOCKS {
            if call.name.as_name() == Some(block) {
                self.helpers.insert(block);
            }
        }
        let is_scope = scope.is_some();
        self.scopes.extend(scope);
        self.bodies(call, at, is_scope, is_inverse);
        if is_inverse {
            std::mem::swap(&mut call.template, &mut call.inverse);
        }
    }

    /// The two bodies of a block; the second is outside of its scope.
    fn bodies(&mut self, call: &mut HelperTemplate, at: At, is_scope: bool, is_inverse: bool) {
        let outer = if is_scope && is_inverse { self.scopes.pop() } else { None };
        if let Some(template) = &mut call.template {
            self.template(template);
        }
        if is_scope && !is_inverse {
            self.scopes.pop();
        }
        drop(outer);
        if let Some(inverse) = &mut call.inverse {
            // A block in the place of a chained one may have a chain of its own.
            let is_chain = self.tag().is_some_and(|tag| tag.body != "else");
            if is_inverse {
                self.at = at;
                self.fault(
                    "{{^name}} has no {{else}}: write {{#name}} … {{else}} … {{/name}}".into(),
                );
            }
            match inverse.elements.as_mut_slice() {
                [TemplateElement::HelperBlock(chained)] if is_chain => {
                    self.block(chained, false);
                }
                _ => self.template(inverse),
            }
        }
    }

    /// `{{#if value includeZero=true}}`
    fn condition(&mut self, call: &mut HelperTemplate, name: &str) {
        self.no_block_params(call);
        if call.params.len() != 1 {
            self.fault(format!("{{{{#{name}}}}} takes one value, not {}", call.params.len()));
        }
        for parameter in &mut call.params {
            self.parameter(parameter);
        }
        let mut hash = std::mem::take(&mut call.hash);
        for (key, value) in &mut hash {
            if key != "includeZero" {
                self.fault(format!("{{{{#{name}}}}} does not take {key}="));
            }
            self.parameter(value);
        }
        call.hash = hash;
    }

    fn no_block_params(&mut self, call: &HelperTemplate) {
        if call.block_param.is_some() {
            self.fault("only {{#each}} and {{#with}} give names: as |item|".to_owned());
        }
    }

    /// `{{#each items as |item index|}}`, `{{#with person as |name|}}`, `{{#items}}`
    fn scope(&mut self, call: &mut HelperTemplate, name: &str) -> Option<Scope> {
        if call.params.len() != 1 || !call.hash.is_empty() {
            let block =
                call.params.first().and_then(Parameter::as_name).filter(|_| name == "section");
            self.fault(match block {
                Some(block) => format!("there is no helper {block:?}"),
                None => format!("{{{{#{name}}}}} takes one value"),
            });
            return Some(Scope { this: Type::Any, params: vec![], is_partial: false, each: true });
        }
        let kind = self.parameter(&mut call.params[0]).unwrap_or(Type::Any);
        let name = match (name, &kind) {
            ("section", Type::List(_)) => "each",
            ("section", Type::Map | Type::Record(_)) => "with",
            ("section", Type::Any) if self.route.is_none() => "each",
            ("section", other) => {
                let (other, tag) = (other.describe(), "{{#if name}}");
                self.fault(format!(
                    "{{{{#name}}}} is for lists and objects, this is {other}: write {tag}"
                ));
                "with"
            }
            _ => name,
        };
        call.name = Parameter::Name(name.to_owned());
        let (this, key) = match (name, kind) {
            ("each", Type::List(item)) => ((*item).clone(), Type::Integer),
            ("each", Type::Map) => (Type::Text, Type::Text),
            ("each", Type::Any | Type::Record(_)) => (Type::Any, Type::Any),
            ("each", other) => {
                let other = other.describe();
                self.fault(format!("{{{{#each}}}} goes over a list or an object, this is {other}"));
                (Type::Any, Type::Any)
            }
            (_, kind) => (kind, Type::Any),
        };
        let mut params = Vec::new();
        let mut named = |parameter: &mut Parameter, kind: &Type| {
            if let Parameter::Name(name) = parameter {
                self.names += 1;
                let unique = format!("{name}:{}", self.names);
                params.push((std::mem::replace(name, unique.clone()), unique, kind.clone()));
            }
        };
        match &mut call.block_param {
            Some(BlockParam::Single(item)) => named(item, &this),
            Some(BlockParam::Pair((item, index))) => {
                named(item, &this);
                named(index, &key);
            }
            _ => {}
        }
        if name == "with" && params.len() > 1 {
            self.fault("{{#with}} gives one name".to_owned());
        }
        Some(Scope { this, params, is_partial: false, each: name == "each" })
    }

    /// `{{> name context key=value}}`
    fn partial(&mut self, call: &mut HelperTemplate) -> Option<Scope> {
        let mut this = None;
        if call.params.len() > 1 {
            self.fault("an include takes one context and values with names".to_owned());
        }
        for parameter in &mut call.params {
            this = self.parameter(parameter);
        }
        let outer = self.scopes.last().map_or(Type::Any, |scope| scope.this.clone());
        let given = std::mem::take(&mut call.hash);
        let mut params = Vec::new();
        // What the partial stands in was given values as well, and passes them on.
        if call.params.is_empty()
            && let Some(scope) = self.scopes.last().filter(|scope| scope.is_partial)
        {
            params.extend(scope.params.iter().filter(|it| !given.contains_key(&it.0)).cloned());
        }
        for (name, mut value) in given {
            let kind = self.parameter(&mut value).unwrap_or(Type::Any);
            self.names += 1;
            let unique = format!("{name}:{}", self.names);
            call.hash.insert(unique.clone(), value);
            params.push((name, unique, kind));
        }
        Some(Scope { this: this.unwrap_or(outer), params, is_partial: true, each: false })
    }
}

fn expression(call: HelperTemplate) -> Subexpression {
    Subexpression::new(call.name, call.params, call.hash)
}
