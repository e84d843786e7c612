//! Keeps the direction of a value from reaching beyond it.

use std::borrow::Cow;

use handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, JsonRender, Output, RenderContext,
};

use super::Mail;
use crate::template::locale_formatter::{FSI, PDI};

/// Print a value whose direction does not reach beyond it: in the text of HTML, and elsewhere. Templates can't call
/// them; the lint puts them around what is printed.
pub(super) const ISOLATES: [&str; 2] = ["bdi", "isolate"];

pub(super) struct Isolate<'a> {
    pub(super) name: &'static str,
    pub(super) mail: &'a Mail<'a>,
}

impl HelperDef for Isolate<'_> {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        _: &'rc Context,
        rc: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let value = helper.param(0).map(|it| it.value().render()).unwrap_or_default();
        let escaped = |value: &str| match rc.is_disable_escape() {
            true => value.to_owned(),
            false => registry.get_escape_fn()(value),
        };
        let isolated = self.mail.formatter.isolated(&value);
        let is_isolated = matches!(isolated, Cow::Owned(_));
        if is_isolated && self.name == "bdi" {
            let inner = isolated.strip_prefix(FSI).unwrap_or(&isolated);
            let inner = inner.strip_suffix(PDI).unwrap_or(inner);
            out.write(&format!("<bdi>{}</bdi>", escaped(inner)))?;
        } else {
            out.write(&escaped(&isolated))?;
        }
        Ok(())
    }
}
