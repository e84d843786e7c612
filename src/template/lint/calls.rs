//! Calls of helpers: what each takes, and what it makes of it.

use std::rc::Rc;

use handlebars::{
    Path,
    template::{HelperTemplate, Parameter, TemplateElement},
};
use serde_json::Value;

use super::{
    Pass,
    types::{Type, names},
};
use crate::template::{
    helpers::{Function, STYLES},
    locale_formatter::PLURAL_CATEGORIES,
};

impl Pass<'_> {
    /// A value that a helper makes.
    pub(super) fn call(&mut self, call: &mut HelperTemplate) -> Option<Type> {
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
            (Function::Truncate, [Type::Text | Type::Any, _]) => match &call.params[1] {
                Parameter::Literal(Value::Number(most))
                    if most.as_u64().is_some_and(|it| it > 0) =>
                {
                    Ok(Type::Text)
                }
                _ => Err("truncate takes how many characters there may be: {{truncate text 140}}"
                    .to_owned()),
            },
            (Function::Truncate, [other, _]) => wrong("a text", other),
            (Function::Truncate, _) => count("a text and a number of characters"),
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
    pub(super) fn parameter(&mut self, parameter: &mut Parameter) -> Option<Type> {
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
