//! The names that a template uses, found before anything is rendered.
//!
//! Rendering alone would not do: a branch that no sample takes is not looked at, and the library's
//! strict mode takes an unknown name in `{{#if}}` for false.

use std::collections::BTreeSet;

use handlebars::{
    Path, PathSeg, Template,
    template::{HelperTemplate, Parameter, TemplateElement},
};

use crate::event::snake_case;

/// The helpers that templates may call. Not `log`, which would write values to the log, nor
/// `lookup` and `with`, whose names are not known before rendering.
const HELPERS: [&str; 15] = [
    "if", "unless", "each", "eq", "ne", "gt", "gte", "lt", "lte", "and", "or", "not", "list",
    "lines", "plural",
];

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

/// Writes the names in snake case where they are in Pascal case, and gives those of variables.
///
/// # Errors
/// Everything in it that templates must not hold.
pub(super) fn settle(template: &mut Template) -> Result<BTreeSet<String>, Vec<String>> {
    let mut pass = Pass::default();
    pass.template(template, false);
    if pass.faults.is_empty() { Ok(pass.names) } else { Err(pass.faults) }
}

#[derive(Default)]
struct Pass {
    names: BTreeSet<String>,
    faults: Vec<String>,
}

impl Pass {
    /// `in_list`: what stands here is rendered for each item of a list.
    fn template(&mut self, template: &mut Template, in_list: bool) {
        for element in &mut template.elements {
            match element {
                TemplateElement::RawString(_) | TemplateElement::Comment(_) => {}
                TemplateElement::Expression(call) | TemplateElement::HelperBlock(call) => {
                    self.call(call, in_list);
                }
                TemplateElement::HtmlExpression(call) => {
                    let name = call.name.as_name().unwrap_or_default();
                    self.faults.push(format!("{{{{{{{name}}}}}}} would print a value as markup"));
                }
                _ => self.faults.push("an include is written {{> name}}, without more".to_owned()),
            }
        }
    }

    fn call(&mut self, call: &mut HelperTemplate, in_list: bool) {
        let is_name = !call.block && call.params.is_empty() && call.hash.is_empty();
        if is_name {
            self.parameter(&mut call.name, in_list);
            return;
        }
        let name = call.name.as_name().unwrap_or_default().to_owned();
        if !HELPERS.contains(&name.as_str()) {
            self.faults.push(format!("there is no helper {name:?}"));
        }
        for parameter in call.params.iter_mut().chain(call.hash.values_mut()) {
            self.parameter(parameter, in_list);
        }
        if call.block_param.is_some() {
            self.faults.push("an item of a list is {{this}}, without a name of its own".to_owned());
        }
        if let Some(template) = &mut call.template {
            self.template(template, in_list || name == "each");
        }
        if let Some(inverse) = &mut call.inverse {
            self.template(inverse, in_list);
        }
    }

    fn parameter(&mut self, parameter: &mut Parameter, in_list: bool) {
        let raw = match parameter {
            Parameter::Subexpression(call) => {
                if let TemplateElement::Expression(call) = &mut *call.element {
                    self.call(call, in_list);
                }
                return;
            }
            Parameter::Name(name) => name.clone(),
            // No segments: `this`.
            Parameter::Path(Path::Relative((segments, raw))) if !segments.is_empty() => raw.clone(),
            // Literals, and `@index` and the like.
            _ => return,
        };
        let Ok(Path::Relative((segments, _))) = Path::parse(&raw) else {
            self.faults.push(format!("{raw:?} is no name"));
            return;
        };
        let named = segments.iter().filter_map(|segment| match segment {
            PathSeg::Named(name) => Some(name.as_str()),
            _ => None,
        });
        let named: Vec<&str> = named.collect();
        match named.as_slice() {
            // `this` and `..`
            [] => {}
            ["brand", field] if BRAND.contains(field) => {
                self.names.insert("brand".to_owned());
            }
            [name] if in_list && !raw.starts_with("@root") && !raw.starts_with("..") => {
                self.faults.push(format!(
                    "{name:?} within a list is looked for in the item: write @root.{name}"
                ));
            }
            [name] => {
                let snake = snake_case(name);
                if snake != *name {
                    let renamed = raw.replace(name, &snake);
                    if let Ok(path) = Path::parse(&renamed) {
                        *parameter = Parameter::Path(path);
                    }
                }
                self.names.insert(snake);
            }
            _ => self.faults.push(format!("{raw:?} leads into a value, which has no parts")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, Vec<String>> {
        let mut template = Template::compile(text).unwrap();
        settle(&mut template).map(|names| names.into_iter().collect())
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        let text =
            "{{a}} {{#if B}}{{list c}}{{else if (eq d \"x\")}}{{@root.e}}{{else}}{{f}}{{/if}}
            {{#each seats}}{{this}} {{@index}} {{@root.g}}{{/each}} {{brand.name}}";
        let found = ["a", "b", "brand", "c", "d", "e", "f", "g", "seats"];
        assert_eq!(names(text).unwrap(), found);
    }

    #[test]
    fn renamed_names_render() {
        let mut template =
            Template::compile("{{FullName}} {{#if IPAddress}}{{@root.IPAddress}}{{/if}}").unwrap();
        settle(&mut template).unwrap();
        let mut registry = handlebars::Handlebars::new();
        registry.set_strict_mode(true);
        registry.register_template("t", template);
        let data = serde_json::json!({"full_name": "Ana", "ip_address": "::1"});
        assert_eq!(registry.render("t", &data).unwrap(), "Ana ::1");
    }

    #[test]
    fn what_could_not_be_checked_or_would_be_unsafe_is_refused() {
        for text in [
            "{{{a}}}",
            "{{&a}}",
            "{{#each seats}}{{name}}{{/each}}",
            "{{metadata.x}}",
            "{{brand.password}}",
            "{{lookup a b}}",
            "{{log a}}",
            "{{#with a}}{{b}}{{/with}}",
            "{{>a b=c}}",
            "{{#*inline \"x\"}}{{/inline}}",
            "{{unknown a}}",
            "{{#each seats as |seat|}}{{seat}}{{/each}}",
        ] {
            assert!(names(text).is_err(), "{text}");
        }
    }
}
