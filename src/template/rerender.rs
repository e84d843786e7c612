//! Renders a mail of the past again: from the text that it was made from and the variables of its
//! record.

use serde_json::{Map, Value};

use super::{
    Compiled, Rendered, TemplateError, Templates,
    source::{Files, Source, is_version},
    store::TemplateStore,
};
use crate::{
    audit::{AuditError, TemplateRef},
    event::Event,
    routing::Route,
};

/// There is no text of that version any more.
#[derive(Debug, thiserror::Error)]
#[error("the text of template {} {} was not kept", .0.name, .0.version)]
pub struct NotKept(TemplateRef);

impl Templates {
    /// Sets the store of texts that are no longer in use. The embedded mode has none.
    pub fn kept_in(&self, store: &TemplateStore) {
        self.kept.get_or_init(|| store.clone());
    }

    /// The text that a mail was made from.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn text_of_then(
        &self,
        template: &TemplateRef,
    ) -> Result<Result<Source, NotKept>, AuditError> {
        let text = match (self.in_use_as(&template.version), self.kept.get()) {
            (None, Some(store)) => {
                store.version(&template.version).await.map_err(|error| AuditError(error.into()))?
            }
            (text, _) => text,
        };
        Ok(text.ok_or_else(|| NotKept(template.clone())))
    }

    /// The text of this version, if it is still in use.
    fn in_use_as(&self, version: &str) -> Option<Source> {
        let found = self.in_use().into_iter().find(|(_, _, it)| is_version(&it.version, version));
        found.map(|(_, _, compiled)| compiled.flat.clone())
    }

    /// Renders `flat` as it was rendered for that record. Defaults, the brand and the zone are those of
    /// today.
    ///
    /// # Errors
    /// It can't be compiled or rendered any more.
    pub fn render_again(
        &self,
        flat: &Source,
        template: &TemplateRef,
        route: &Route,
        variables: &Map<String, Value>,
        event: &Event,
    ) -> Result<Rendered, TemplateError> {
        let compiled = self.compile_again(flat, template, route)?;
        self.render_as(&compiled, template, route, variables, event)
    }

    /// The text of a version, for one route.
    ///
    /// # Errors
    /// It can't be compiled any more.
    pub fn compile_again(
        &self,
        flat: &Source,
        template: &TemplateRef,
        route: &Route,
    ) -> Result<Compiled, TemplateError> {
        let language = language_of(template);
        let compiled =
            Compiled::for_routes(&Files::new(), &template.name, language, flat, &[route]);
        compiled.map_err(|faults| TemplateError::Render {
            name: template.name.clone(),
            reason: faults.join("; "),
        })
    }

    /// Renders a template in the locale of a record.
    ///
    /// # Errors
    /// It can't be rendered.
    pub fn render_as(
        &self,
        compiled: &Compiled,
        template: &TemplateRef,
        route: &Route,
        variables: &Map<String, Value>,
        event: &Event,
    ) -> Result<Rendered, TemplateError> {
        let formatter = self.locales.formatter(language_of(template), &template.locale);
        self.render_with(compiled, &formatter, route, variables, event)
    }
}

fn language_of(template: &TemplateRef) -> &str {
    template.locale.split('-').next().unwrap_or(&template.locale)
}
