//! Handlebars' blocks as handlebars.js has them.

use handlebars::{
    BlockContext, BlockParamHolder, Context, Handlebars, Helper, HelperDef, HelperResult, Output,
    RenderContext, RenderError, Renderable, Template,
};
use serde_json::Value;

use super::{Bounded, Mail, is_true, weight};

/// The blocks that templates may have.
pub(in crate::template) const BLOCKS: [&str; 6] =
    ["if", "unless", "each", "with", "scope", "indent"];

/// A helper with a body.
pub(super) struct Block<'a> {
    pub(super) name: &'static str,
    pub(super) mail: &'a Mail<'a>,
}

impl HelperDef for Block<'_> {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        context: &'rc Context,
        rc: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let null = Value::Null;
        let value = helper.param(0).map_or(&null, |it| it.value());
        let body = |template: Option<&'rc Template>,
                    rc: &mut RenderContext<'reg, 'rc>,
                    out: &mut dyn Output| {
            let Some(template) = template else { return Ok(()) };
            self.mail.step(1 + template.elements.len())?;
            template.render(registry, context, rc, out)
        };
        match self.name {
            "if" | "unless" => {
                let include_zero = helper.hash_get("includeZero").map(|it| is_true(it.value()));
                let is_zero = value.as_f64() == Some(0.0) && include_zero == Some(true);
                let wanted = self.name == "if";
                let is_true = is_true(value) || is_zero;
                let chosen = if is_true == wanted { helper.template() } else { helper.inverse() };
                body(chosen, rc, out)
            }
            "indent" => {
                let mut inner = Bounded::default();
                body(helper.template(), rc, &mut inner)?;
                let indent = value.as_str().unwrap_or_default();
                for line in inner.0.split_inclusive('\n') {
                    out.write(indent)?;
                    out.write(line)?;
                }
                Ok(())
            }
            "each" => {
                let entries: Box<dyn Iterator<Item = (Option<&String>, &Value)>> = match value {
                    Value::Array(items) if !items.is_empty() => {
                        Box::new(items.iter().map(|item| (None, item)))
                    }
                    Value::Object(entries) if !entries.is_empty() => {
                        Box::new(entries.iter().map(|(name, item)| (Some(name), item)))
                    }
                    _ => return body(helper.inverse(), rc, out),
                };
                rc.push_block(self.block(helper)?);
                let path = helper.param(0).and_then(|it| it.context_path());
                let mut entries = entries.enumerate().peekable();
                while let Some((index, (name, item))) = entries.next() {
                    let Some(block) = rc.block_mut() else { break };
                    let place = name.map_or_else(|| index.to_string(), Clone::clone);
                    let key = name.map_or_else(|| index.into(), |name| Value::from(name.as_str()));
                    block.set_local_var("first", (index == 0).into());
                    block.set_local_var("last", entries.peek().is_none().into());
                    block.set_local_var("index", index.into());
                    block.set_local_var("key", key.clone());
                    match path {
                        Some(_) if index == 0 => block.base_path_mut().push(place),
                        Some(_) => {
                            if let Some(last) = block.base_path_mut().last_mut() {
                                *last = place;
                            }
                        }
                        None => {
                            self.mail.step(weight(item))?;
                            block.set_base_value(item.clone());
                        }
                    }
                    let names = helper.block_param_pair();
                    if let Some(name) = helper.block_param().or(names.map(|(name, _)| name)) {
                        block.set_block_param(name, current(path.is_some(), item));
                    }
                    if let Some((_, name)) = names {
                        block.set_block_param(name, BlockParamHolder::value(key));
                    }
                    body(helper.template(), rc, out)?;
                }
                rc.pop_block();
                Ok(())
            }
            "with" => {
                // What is zero is something.
                if !is_true(value) && !value.is_number() {
                    return body(helper.inverse(), rc, out);
                }
                let mut block = self.block(helper)?;
                if let Some(name) = helper.block_param() {
                    let path = helper.param(0).and_then(|it| it.context_path());
                    block.set_block_param(name, current(path.is_some(), value));
                }
                rc.push_block(block);
                body(helper.template(), rc, out)?;
                rc.pop_block();
                Ok(())
            }
            // A partial with values.
            _ => {
                let mut block = if helper.params().is_empty() {
                    let mut same = BlockContext::new();
                    if let Some(outer) = rc.block() {
                        same.base_path_mut().clone_from(outer.base_path());
                        if let Some(value) = outer.base_value() {
                            self.mail.step(weight(value))?;
                            same.set_base_value(value.clone());
                        }
                    }
                    same
                } else {
                    self.block(helper)?
                };
                for (name, value) in helper.hash() {
                    self.mail.step(weight(value.value()))?;
                    let value = value.value().clone();
                    block.set_block_param(name, BlockParamHolder::value(value));
                }
                rc.push_block(block);
                body(helper.template(), rc, out)?;
                rc.pop_block();
                Ok(())
            }
        }
    }
}

impl Block<'_> {
    /// A block around the first value.
    fn block<'rc>(&self, helper: &Helper<'rc>) -> Result<BlockContext<'rc>, RenderError> {
        let mut block = BlockContext::new();
        if let Some(value) = helper.param(0) {
            match value.context_path() {
                Some(path) => block.base_path_mut().clone_from(path),
                None => {
                    self.mail.step(weight(value.value()))?;
                    block.set_base_value(value.value().clone());
                }
            }
        }
        Ok(block)
    }
}

/// What a block is about, as one of its names has it.
fn current(has_path: bool, value: &Value) -> BlockParamHolder {
    if has_path { BlockParamHolder::path(vec![]) } else { BlockParamHolder::value(value.clone()) }
}
