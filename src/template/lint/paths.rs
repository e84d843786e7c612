//! Paths: where each leads, and what is there.

use std::collections::{BTreeMap, HashMap};

use handlebars::{
    Path, PathSeg,
    template::{Parameter, Subexpression},
};

use super::{
    Pass,
    types::{Type, names},
};
use crate::event::snake_case;

/// What a path leads to.
pub(super) struct Found {
    pub(super) path: Path,
    /// Whether the length of what is there is meant.
    pub(super) length_of: bool,
    pub(super) kind: Type,
    pub(super) currency: Option<Path>,
}

impl Pass<'_> {
    pub(super) fn path(&mut self, raw: &str, parameter: &mut Parameter) -> Option<Type> {
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
    pub(super) fn resolve(&self, raw: &str) -> Result<Found, String> {
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
