//! Renders a mail of the past again: from the text that it was made from and the variables of its
//! record.

use serde_json::{Map, Value};

use super::{
    Compiled, Rendered, TemplateError, Templates,
    source::{Files, Source, is_version},
};
use crate::{audit::TemplateRef, event::Event, routing::Route};

impl Templates {
    /// The text of this version, if it is still in use.
    pub fn in_use_as(&self, version: &str) -> Option<Source> {
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
        let tag = &template.locale;
        let language = tag.split('-').next().unwrap_or(tag);
        let formatter = self.locales.formatter(language, tag);
        let compiled =
            Compiled::for_routes(&Files::new(), &template.name, language, flat, &[route]);
        let compiled = compiled.map_err(|faults| TemplateError::Render {
            name: template.name.clone(),
            reason: faults.join("; "),
        })?;
        self.render_with(&compiled, &formatter, route, variables, event)
    }
}
