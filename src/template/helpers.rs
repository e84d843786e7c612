//! The helpers that templates may call beside the library's own: `list`, `lines` and `plural`. They return
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
                Ok(words.list(&items.collect::<Result<Vec<_>, _>>()?).into())
            },
        }),
    );
    // `{{#each (lines message)}}`: the lines of a text, for HTML would run them together.
    registry.register_helper(
        "lines",
        Box::new(Function {
            locales: locales.clone(),
            call: |parameters: &[&Value], _: &Words| {
                let text = plain(parameters.first().ok_or("takes a text")?)?;
                Ok(text.trim().lines().map(|line| Value::from(line.trim_end())).collect())
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
                Ok(format!("{number} {}", plain(if is_one { one } else { many })?).into())
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
    F: Fn(&[&Value], &Words) -> Result<Value, &'static str> + Send + Sync,
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
        let value = (self.call)(&parameters, &words).map_err(|reason| {
            RenderErrorReason::Other(format!("helper {:?} {reason}", helper.name()))
        })?;
        Ok(ScopedJson::Derived(value))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_text_are_a_list() {
        let registry = registry(&Arc::new(Locales::new("en")));
        let show = |text: &str| {
            let template =
                "{{#each (lines text)}}{{#unless @first}}<br>{{/unless}}{{this}}{{/each}}";
            registry.render_template(template, &serde_json::json!({"text": text})).unwrap()
        };
        assert_eq!(show(" a & b\r\n\n<c>  \n"), "a &amp; b<br><br>&lt;c&gt;");
        assert_eq!(show(""), "");
    }
}
