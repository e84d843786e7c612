//! The helpers that templates may call beside the library's own: `list` and `plural`. They return
//! values, so that what they give is escaped like any other value.

use std::sync::Arc;

use handlebars::{
    Context, Handlebars, Helper, HelperDef, RenderContext, RenderError, RenderErrorReason,
    ScopedJson,
};
use serde_json::Value;

use super::words::{Locales, Words};

/// A registry in strict mode that knows the helpers; it holds no templates. Helpers find the
/// locale's words by the context's `locale`.
pub(super) fn registry(locales: &Arc<Locales>) -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    // `{{list seats}}`: `A1, A2 y B5`.
    registry.register_helper(
        "list",
        Box::new(Function {
            locales: locales.clone(),
            call: |parameters: &[&Value], words: &Words| {
                let items = parameters.first().and_then(|value| value.as_array());
                let items = items.ok_or("takes a list")?.iter().map(plain);
                Ok(words.list(&items.collect::<Result<Vec<_>, _>>()?))
            },
        }),
    );
    // `{{plural days_left "día" "días"}}`: `1 día`, `2 días`.
    registry.register_helper(
        "plural",
        Box::new(Function {
            locales: locales.clone(),
            call: |parameters: &[&Value], words: &Words| {
                let [number, one, many] = parameters else {
                    return Err("takes a number and two words");
                };
                let number = plain(number)?;
                let is_one = number.parse().is_ok_and(|number| words.is_one(number));
                Ok(format!("{number} {}", plain(if is_one { one } else { many })?))
            },
        }),
    );
    registry
}

/// A helper that is a function of its parameters and the mail's locale.
struct Function<F> {
    locales: Arc<Locales>,
    call: F,
}

impl<F> HelperDef for Function<F>
where
    F: Fn(&[&Value], &Words) -> Result<String, &'static str> + Send + Sync,
{
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let parameters: Vec<&Value> =
            helper.params().iter().map(handlebars::PathAndJson::value).collect();
        let words = self.locales.of(context.data().get("locale").and_then(Value::as_str));
        let text = (self.call)(&parameters, &words).map_err(|reason| {
            RenderErrorReason::Other(format!("helper {:?} {reason}", helper.name()))
        })?;
        Ok(ScopedJson::Derived(Value::String(text)))
    }
}

fn plain(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => Err("takes texts and numbers"),
    }
}
