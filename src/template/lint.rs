//! Looks at a template before it is rendered: every name is declared, every helper gets what it takes, in every
//! branch. Rendering alone would not find it, for a branch that no sample takes is not looked at.
//!
//! What is found is written into the template: a print of an amount becomes a call of `money`, a path leads to where
//! handlebars.js would find it, a name of `as |item|` is one that nothing else has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use handlebars::{
    Path, PathSeg, Template,
    template::{BlockParam, HelperTemplate, Parameter, Subexpression, TemplateElement},
};
use serde_json::Value;

use super::{
    helpers::{BLOCKS, Function, STYLES},
    include::Piece,
    locale_formatter::{PLURAL_CATEGORIES, plural_categories},
    syntax::{At, Fault, Kind, Tag},
};
use crate::{
    event::snake_case,
    routing::{Route, VariableType},
};

/// What every template sees beside its route's variables.
const GLOBALS: [(&str, Type); 7] = [
    ("locale", Type::Text),
    ("subject", Type::Text),
    ("current_year", Type::Integer),
    ("current_date", Type::Time),
    ("full_name", Type::Text),
    ("username", Type::Text),
    ("email", Type::Text),
];

/// The fields of `brand`.
pub(super) const BRAND: [&str; 7] =
    ["name", "logo_url", "website_url", "support_email", "support_url", "colour", "text_on_colour"];

/// What a value is known to be.
#[derive(Debug, Clone, PartialEq)]
enum Type {
    /// A text, a number or a boolean; an address.
    Text,
    Flag,
    Integer,
    Amount,
    Time,
    Duration,
    /// Nothing is known.
    Any,
    List(Rc<Type>),
    /// Names that are not known.
    Map,
    Record(Rc<BTreeMap<String, Type>>),
}

impl From<&VariableType> for Type {
    fn from(kind: &VariableType) -> Self {
        match kind {
            VariableType::Text | VariableType::Url | VariableType::Currency => Self::Text,
            VariableType::Integer => Self::Integer,
            VariableType::Amount => Self::Amount,
            VariableType::Time => Self::Time,
            VariableType::Duration => Self::Duration,
            VariableType::List => Self::List(Rc::new(Self::Text)),
            VariableType::Object => Self::Map,
            VariableType::ListOf(kind) => Self::List(Rc::new((&**kind).into())),
            VariableType::AtMost(_, kind) => (&**kind).into(),
            VariableType::Record(fields) => {
                let fields =
                    fields.iter().map(|(name, field)| (name.clone(), (&field.kind).into()));
                Self::Record(Rc::new(fields.collect()))
            }
        }
    }
}

impl Type {
    fn describe(&self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Flag => "true or false",
            Self::Integer => "a whole number",
            Self::Amount => "an amount",
            Self::Time => "a time",
            Self::Duration => "a duration",
            Self::Any => "a value",
            Self::List(_) => "a list",
            Self::Map | Self::Record(_) => "an object",
        }
    }

    fn is_plain(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Map | Self::Record(_))
    }

    fn may_be_number(&self) -> bool {
        matches!(self, Self::Text | Self::Integer | Self::Amount | Self::Duration | Self::Any)
    }

    /// The helper that prints it.
    fn printer(&self) -> Option<&'static str> {
        Some(match self {
            Self::Amount => "money",
            Self::Time => "when",
            Self::Duration => "duration",
            Self::List(_) => "list",
            _ => return None,
        })
    }
}

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
    };
    pass.template(&mut template);
    if pass.faults.is_empty() {
        Ok(Checked { template, helpers: pass.helpers })
    } else {
        Err(pass.faults)
    }
}

fn root(route: Option<&Route>) -> Type {
    let Some(route) = route else { return Type::Any };
    let variables = route.variables.iter();
    let mut fields: BTreeMap<String, Type> =
        variables.map(|(name, variable)| (name.clone(), (&variable.kind).into())).collect();
    for (name, kind) in GLOBALS {
        fields.entry(name.to_owned()).or_insert(kind);
    }
    let brand = BRAND.into_iter().map(|name| (name.to_owned(), Type::Text)).collect();
    fields.insert("brand".to_owned(), Type::Record(Rc::new(brand)));
    Type::Record(Rc::new(fields))
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
}

/// What a path leads to.
struct Found {
    path: Path,
    /// Whether the length of what is there is meant.
    length_of: bool,
    kind: Type,
    currency: Option<Path>,
}

impl<'a> Pass<'a> {
    fn fault(&mut self, reason: String) {
        self.faults.push(Fault::new(self.at, reason));
    }

    /// The text that is next among the pieces.
    fn text(&mut self) -> String {
        match self.pieces.next() {
            Some(Piece::Text(text, _)) => text.clone(),
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
        // A list that was made by a helper is printed as it is.
        let Some(printer) = kind.printer() else {
            return match parameter {
                Parameter::Subexpression(call) => Some(*call.element),
                parameter => {
                    call.name = parameter;
                    None
                }
            };
        };
        let mut hash = HashMap::new();
        self.formatted(printer, &kind, &mut hash);
        Some(
            *Subexpression::new(Parameter::Name(printer.to_owned()), vec![parameter], hash).element,
        )
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

    /// A value that a helper makes.
    fn call(&mut self, call: &mut HelperTemplate) -> Option<Type> {
        let name = call.name.as_name().unwrap_or_default().to_owned();
        let kinds: Vec<Option<Type>> =
            call.params.iter_mut().map(|parameter| self.parameter(parameter)).collect();
        let Some((known, function)) = Function::named(&name) else {
            let reason = match name.as_str() {
                "if" | "unless" | "each" | "with" => format!("{{{{#{name}}}}} is a block"),
                "log" => "templates can't write to the log".to_owned(),
                _ => format!("there is no helper {name:?}"),
            };
            self.fault(reason);
            return None;
        };
        self.helpers.insert(known);
        let mut hash = std::mem::take(&mut call.hash);
        for (key, value) in &mut hash {
            if function != Function::Plural || !PLURAL_CATEGORIES.contains(&key.as_str()) {
                self.fault(format!("{name} does not take {key}="));
            }
            self.parameter(value);
        }
        call.hash = hash;
        let kinds: Vec<Type> = kinds.into_iter().collect::<Option<_>>()?;
        match self.takes(function, &name, call, &kinds) {
            Ok(kind) => Some(kind),
            Err(reason) => {
                self.fault(reason);
                None
            }
        }
    }

    /// What a helper makes of values of these types.
    ///
    /// # Errors
    /// What it takes instead.
    fn takes(
        &mut self,
        function: Function,
        name: &str,
        call: &mut HelperTemplate,
        kinds: &[Type],
    ) -> Result<Type, String> {
        let wrong = |takes: &str, kind: &Type| {
            Err(format!("{name} takes {takes}, this is {}", kind.describe()))
        };
        let count = |takes: &str| Err(format!("{name} takes {takes}, not {} values", kinds.len()));
        let text = |parameter: &Parameter| match parameter {
            Parameter::Literal(Value::String(text)) => Some(text.clone()),
            _ => None,
        };
        match (function, kinds) {
            (Function::Same(_), [one, other]) => {
                numeric(call, kinds);
                for kind in [one, other] {
                    if !kind.is_plain() {
                        return wrong("plain values", kind);
                    }
                }
                Ok(Type::Flag)
            }
            (Function::Ordered(..), [one, other]) => {
                numeric(call, kinds);
                for kind in [one, other] {
                    if !kind.is_plain() {
                        return wrong("plain values", kind);
                    }
                }
                let numbers = [Type::Amount, Type::Integer, Type::Duration];
                let has_time = kinds.contains(&Type::Time);
                if has_time && kinds.iter().any(|kind| numbers.contains(kind)) {
                    return Err(format!("{name} can't compare a time with a number"));
                }
                Ok(Type::Flag)
            }
            (Function::Same(_) | Function::Ordered(..), _) => count("two values"),
            (Function::And | Function::Or, [_, ..]) => Ok(Type::Flag),
            (Function::And | Function::Or, []) => count("one value or more"),
            (Function::Not, [_]) => Ok(Type::Flag),
            (Function::Not, _) => count("one value"),
            (
                Function::Len,
                [Type::List(_) | Type::Map | Type::Record(_) | Type::Text | Type::Any],
            ) => Ok(Type::Integer),
            (Function::Len, [other]) => wrong("a list", other),
            (Function::Lookup, [Type::List(item), _]) => Ok((**item).clone()),
            (Function::Lookup, [Type::Record(fields), key]) => {
                match call.params.get(1).and_then(text) {
                    Some(name) => match fields.get(&name) {
                        Some(kind) => Ok(kind.clone()),
                        None => Err(format!("there is no field {name:?}: {}", names(fields))),
                    },
                    None if *key == Type::Any => Ok(Type::Any),
                    None => {
                        Err("which field it is has to be known: (lookup object \"name\")"
                            .to_owned())
                    }
                }
            }
            (Function::Lookup, [Type::Map | Type::Any, _]) => Ok(Type::Text),
            (Function::Lookup, [other, _]) => wrong("a list or an object", other),
            (Function::Lookup, _) => count("a list or an object, and a place in it"),
            (Function::List, [Type::List(item)]) if item.is_plain() => {
                self.formatted("list", &kinds[0], &mut call.hash);
                Ok(Type::Text)
            }
            (Function::List, [Type::Any]) => Ok(Type::Text),
            (Function::List, [Type::List(_)]) => {
                Err("list takes a list of plain values, these are objects or lists".to_owned())
            }
            (Function::List, [other]) => wrong("a list", other),
            (Function::Lines, [Type::Text | Type::Any]) => Ok(Type::List(Rc::new(Type::Text))),
            (Function::Lines, [other]) => wrong("a text", other),
            (Function::Plural, [number, words @ ..]) => {
                if !number.may_be_number() {
                    return wrong("a number", number);
                }
                let counts = [2, self.categories];
                let by_name = call.hash.contains_key("other") && words.is_empty();
                let by_place = call.hash.is_empty() && counts.contains(&words.len());
                if !by_name && !by_place {
                    return Err(
                        "plural takes a number and its words: {{plural n \"one\" \"other\"}}, or by CLDR's \
                         categories {{plural n one=\"…\" few=\"…\" many=\"…\" other=\"…\"}}"
                            .to_owned(),
                    );
                }
                Ok(Type::Text)
            }
            (Function::Money, [amount, rest @ ..]) if rest.len() < 2 => {
                if let (Some(Type::Text | Type::Any) | None, true) =
                    (rest.first(), amount.may_be_number())
                {
                    if rest.is_empty() {
                        self.formatted("money", &Type::Amount, &mut call.hash);
                    }
                    return Ok(Type::Text);
                }
                let other = if amount.may_be_number() { &rest[0] } else { amount };
                wrong("an amount and a currency", other)
            }
            (Function::Money, _) => count("an amount and a currency"),
            (Function::Date | Function::Time, [time, rest @ ..]) if rest.len() < 2 => {
                if !matches!(time, Type::Time | Type::Text | Type::Any) {
                    return wrong("a time", time);
                }
                match call.params.get(1) {
                    None => Ok(Type::Text),
                    Some(style) if text(style).is_some_and(|it| STYLES.contains(&it.as_str())) => {
                        Ok(Type::Text)
                    }
                    Some(_) => Err(format!("{name} is written {}", STYLES.join(", "))),
                }
            }
            (Function::Date | Function::Time, _) => count("a time and how it is written"),
            (Function::Number | Function::Duration, [number]) if number.may_be_number() => {
                Ok(Type::Text)
            }
            (Function::Number | Function::Duration, [other]) => wrong("a number", other),
            (Function::When, [Type::Time | Type::Text | Type::Any]) => Ok(Type::Text),
            _ => count("one value"),
        }
    }

    /// The type of a value, whose path is made to lead where handlebars.js finds it.
    fn parameter(&mut self, parameter: &mut Parameter) -> Option<Type> {
        match parameter {
            Parameter::Literal(Value::Array(_) | Value::Object(_)) => {
                self.fault("a list or an object can't be written in a template".to_owned());
                None
            }
            Parameter::Literal(value) => Some(match value {
                Value::Bool(_) => Type::Flag,
                Value::Number(_) => Type::Amount,
                Value::String(_) => Type::Text,
                _ => Type::Any,
            }),
            Parameter::Subexpression(call) => {
                let TemplateElement::Expression(call) = &mut *call.element else { return None };
                self.call(call)
            }
            Parameter::Name(raw) => {
                let raw = raw.clone();
                self.path(&raw, parameter)
            }
            Parameter::Path(Path::Relative((_, raw)) | Path::Local((_, _, raw))) => {
                let raw = raw.clone();
                self.path(&raw, parameter)
            }
            // The library may learn more.
            _ => {
                self.fault("there is something that is no value".to_owned());
                None
            }
        }
    }

    fn path(&mut self, raw: &str, parameter: &mut Parameter) -> Option<Type> {
        match self.resolve(raw) {
            Ok(found) => {
                *parameter = Parameter::Path(found.path);
                self.currency = found.currency;
                if found.length_of {
                    self.helpers.insert("len");
                    let list = vec![parameter.clone()];
                    let name = Parameter::Name("len".to_owned());
                    *parameter =
                        Parameter::Subexpression(Subexpression::new(name, list, HashMap::new()));
                }
                Some(found.kind)
            }
            Err(reason) => {
                self.fault(reason);
                None
            }
        }
    }

    /// Where a path leads.
    ///
    /// # Errors
    /// Why it leads nowhere.
    fn resolve(&self, raw: &str) -> Result<Found, String> {
        let parsed = |path: &str| Path::parse(path).map_err(|_| format!("{raw:?} is no name"));
        let segments: Vec<String> = match parsed(raw)? {
            Path::Local((_, name, _)) if name == "root" => vec![],
            Path::Local((level, name, _)) => return self.data(raw, level, &name),
            Path::Relative((segments, _)) => {
                let names = segments.into_iter().filter_map(|segment| match segment {
                    PathSeg::Named(name) => Some(name),
                    _ => None,
                });
                names.collect()
            }
        };
        let from_root = raw == "@root" || raw.starts_with("@root.") || raw.starts_with("@root/");
        let ups = raw.split('/').take_while(|part| *part == "..").count();
        let is_own = ["this.", "this/", "./"].iter().any(|own| raw.starts_with(own)) || ups > 0;
        let (base, kind, rest) = if from_root {
            ("@root".to_owned(), self.scopes[0].this.clone(), &segments[..])
        } else if let Some((unique, kind)) =
            segments.first().filter(|_| !is_own).and_then(|name| self.named(name))
        {
            (unique, kind, &segments[1..])
        } else {
            let Some(index) = self.scopes.len().checked_sub(ups + 1) else {
                return Err(format!("{raw:?} leads out of the template"));
            };
            let scope = &self.scopes[index];
            let given = segments.first().filter(|_| scope.is_partial);
            let given = given.and_then(|name| scope.params.iter().find(|it| it.0 == *name));
            match given {
                Some((_, unique, kind)) => (unique.clone(), kind.clone(), &segments[1..]),
                None if scope.is_partial && segments.is_empty() && !scope.params.is_empty() => {
                    return Err(
                        "a partial that is given values has no {{this}}: name what you want"
                            .to_owned(),
                    );
                }
                None if index == 0 => ("@root".to_owned(), scope.this.clone(), &segments[..]),
                None if ups == 0 && segments.is_empty() => {
                    ("this".to_owned(), scope.this.clone(), &segments[..])
                }
                None => {
                    let base = if ups == 0 { ".".to_owned() } else { vec![".."; ups].join("/") };
                    (base, scope.this.clone(), &segments[..])
                }
            }
        };
        self.fields(&base, kind, rest, raw)
    }

    /// A name that a block gave.
    fn named(&self, name: &str) -> Option<(String, Type)> {
        let blocks = self.scopes.iter().rev().filter(|scope| !scope.is_partial);
        let mut params = blocks.flat_map(|scope| &scope.params);
        let (_, unique, kind) = params.find(|it| it.0 == name)?;
        Some((unique.clone(), kind.clone()))
    }

    /// Goes on from a base by names.
    fn fields(
        &self,
        base: &str,
        mut kind: Type,
        names_: &[String],
        raw: &str,
    ) -> Result<Found, String> {
        let mut path = base.to_owned();
        let mut length_of = false;
        let mut currency = None;
        for (index, name) in names_.iter().enumerate() {
            let field = match &kind {
                _ if length_of => {
                    return Err(format!("{raw:?} leads into a number, which has no parts"));
                }
                Type::Any => (name.clone(), Type::Any),
                Type::Record(fields) => {
                    let beside = path != "@root" && fields.get("currency") == Some(&Type::Text);
                    currency =
                        beside.then(|| Path::parse(&format!("{path}/currency")).ok()).flatten();
                    let snake = snake_case(name);
                    let found = [name, &snake].into_iter().find_map(|it| fields.get_key_value(it));
                    let found =
                        found.or_else(|| fields.iter().find(|it| snake_case(it.0) == *name));
                    match found {
                        Some((name, kind)) => (name.clone(), kind.clone()),
                        None => return Err(self.undeclared(base, fields, &snake, index)),
                    }
                }
                Type::List(_) | Type::Text if name == "length" => {
                    length_of = true;
                    kind = Type::Integer;
                    continue;
                }
                Type::List(item) if name.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (name.clone(), (**item).clone())
                }
                Type::List(_) => {
                    return Err(format!(
                        "{raw:?} leads into a list: go over it with {{{{#each}}}}, or take one item, {{{{list.[0]}}}}"
                    ));
                }
                Type::Map => {
                    return Err(format!(
                        "{raw:?}: the route declares an object without its fields: declare them, or write (lookup object {name:?})"
                    ));
                }
                other if index == 0 => {
                    let other = other.describe();
                    return Err(format!(
                        "{name:?} is looked for in the item, {other}: write @root.{name}"
                    ));
                }
                other => {
                    let other = other.describe();
                    return Err(format!("{raw:?} leads into {other}, which has no parts"));
                }
            };
            path.push_str(&format!("/[{}]", field.0));
            kind = field.1;
        }
        let is_whole = path == "@root" || path.ends_with("..");
        let mut parsed = Path::parse(&if is_whole { format!("{path}/x") } else { path.clone() })
            .map_err(|_| format!("{raw:?} is no name"))?;
        if let Path::Relative((segments, _)) = &mut parsed
            && is_whole
        {
            segments.pop();
        }
        Ok(Found { path: parsed, length_of, kind, currency })
    }

    fn undeclared(
        &self,
        base: &str,
        fields: &BTreeMap<String, Type>,
        name: &str,
        index: usize,
    ) -> String {
        let Some(route) = self.route else { return String::new() };
        let is_root = base == "@root" && index == 0;
        let Type::Record(all) = &self.scopes[0].this else { return String::new() };
        if is_root {
            return format!("{name:?} is not declared by route {:?}", route.name);
        }
        let fields = names(fields);
        if index == 0 && all.contains_key(name) {
            return format!("{name:?} is looked for in the item ({fields}): write @root.{name}");
        }
        format!(
            "there is no field {name:?} ({fields}), it is not declared by route {:?}",
            route.name
        )
    }

    /// `@index` and the like, as many lists up as is written.
    fn data(&self, raw: &str, level: usize, name: &str) -> Result<Found, String> {
        let kind = match name {
            "index" => Type::Integer,
            "first" | "last" => Type::Flag,
            "key" => Type::Any,
            _ => return Err(format!("there is no {raw}")),
        };
        let lists = self.scopes.iter().rev().enumerate().filter(|(_, scope)| scope.each);
        let Some((depth, _)) = lists.into_iter().nth(level) else {
            return Err(format!("{raw} is of a list, and there is no list around it"));
        };
        let path = format!("@{}{name}", "../".repeat(depth));
        let path = Path::parse(&path).map_err(|_| format!("{raw:?} is no name"))?;
        Ok(Found { path, length_of: false, kind, currency: None })
    }
}

fn expression(call: HelperTemplate) -> Subexpression {
    Subexpression::new(call.name, call.params, call.hash)
}

fn names(fields: &BTreeMap<String, Type>) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    format!("there are {}", names.join(", "))
}

/// A number that is written as a text beside a number is a number: `(eq amount "0")`.
fn numeric(call: &mut HelperTemplate, kinds: &[Type]) {
    let numbers = [Type::Amount, Type::Integer, Type::Duration];
    for (index, other) in [(0, 1), (1, 0)] {
        if let (Some(Parameter::Literal(value)), true) =
            (call.params.get_mut(index), numbers.contains(&kinds[other]))
            && let Some(number) = value.as_str().and_then(|text| text.parse::<f64>().ok())
        {
            *value = number.into();
        }
    }
}
