//! Which templates are accepted: those that render all their samples.

use super::{
    Compiled, Templates,
    source::{self, Files, Markup, Source},
};
use crate::{
    event::{self, Event, Properties, Sources},
    routing::{ChannelKind, Route, RoutingTable},
};

/// What a template is tried on.
#[derive(Clone, Copy)]
pub struct Trial<'a> {
    /// The routes that may use it.
    pub routing: &'a RoutingTable,
    /// The samples.
    pub files: &'a Files,
    /// What variables are derived from.
    pub sources: &'a Sources,
}

impl Templates {
    /// Tries every template of every route; gives all faults.
    pub fn try_all(&self, trial: Trial<'_>) -> Vec<String> {
        let mut faults = Vec::new();
        for route in trial.routing.routes() {
            let Some(languages) = self.shipped.get(&route.template) else {
                let (route, template) = (&route.name, &route.template);
                faults.push(format!("route {route:?}: there is no template {template:?}"));
                continue;
            };
            for (language, compiled) in languages {
                faults.extend(self.try_route(compiled, language, route, trial));
            }
        }
        // A sample that is no event, say, is found once in each language.
        faults.dedup();
        faults
    }

    /// Compiles a template of the database and tries it on every route that uses it.
    ///
    /// # Errors
    /// Every fault found.
    pub fn accept(
        &self,
        template: &str,
        language: &str,
        source: &Source,
        trial: Trial<'_>,
    ) -> Result<Compiled, Vec<String>> {
        let compiled = Compiled::new(trial.files, template, language, source, trial.routing)?;
        let routes = trial.routing.routes();
        let routes: Vec<_> =
            routes.into_iter().filter(|route| route.template == template).collect();
        if routes.is_empty() {
            return Err(vec![format!("no route uses a template {template:?}")]);
        }
        let faults: Vec<String> = routes
            .into_iter()
            .flat_map(|route| self.try_route(&compiled, language, route, trial))
            .collect();
        if faults.is_empty() { Ok(compiled) } else { Err(faults) }
    }

    /// Tries one template on the samples of one route.
    fn try_route(
        &self,
        compiled: &Compiled,
        language: &str,
        route: &Route,
        trial: Trial<'_>,
    ) -> Vec<String> {
        let template = &route.template;
        let mut faults = Vec::new();
        match (route.channel, compiled.flat.markup) {
            (ChannelKind::Email, Markup::None) => {
                faults.push(format!("route {:?} is for mail, this is a text message", route.name));
            }
            (ChannelKind::Sms, Markup::Mjml | Markup::Html) => {
                faults.push(format!("route {:?} is for text messages, this is a mail", route.name));
            }
            _ => {}
        }
        let mut tried = false;
        for (path, text) in source::samples(trial.files, template) {
            match self.try_sample(compiled, language, route, text, trial) {
                Ok(matched) => tried |= matched,
                Err(reason) => faults.push(format!("templates/{path}: {reason}")),
            }
        }
        if !tried && faults.is_empty() {
            faults.push(format!(
                "route {:?}: template {template:?} has no sample of {:?}",
                route.name, route.event
            ));
        }
        faults
    }

    /// Whether the sample is of this route; if so it has to render.
    fn try_sample(
        &self,
        compiled: &Compiled,
        language: &str,
        route: &Route,
        text: &str,
        trial: Trial<'_>,
    ) -> Result<bool, String> {
        let mut event = sample(text).map_err(|invalid| invalid.to_string())?;
        if event.kind != route.event && !route.aliases.contains(&event.kind) {
            return Ok(false);
        }
        trial.routing.normalize(&mut event);
        event.fields.insert("locale".to_owned(), language.into());
        if let Some(reason) = route.missing_recipient(&event) {
            return Err(format!("route {:?}: {reason}", route.name));
        }
        route.brand_of(&event)?;
        let variables = route
            .variables(&event, trial.sources, language)
            .map_err(|fault| format!("route {:?}: {fault}", route.name))?;
        let exists = |other: &str| other == language;
        let words = self.locales.choose(Some(language), exists);
        let words = words.unwrap_or_else(|| self.locales.formatter(language, language));
        self.render_with(compiled, &words, route, &variables, &event)
            .map_err(|error| error.to_string())?;
        Ok(true)
    }
}

/// Reads a sample or an event from a file.
///
/// # Errors
/// What makes it no event.
pub fn sample(text: &str) -> Result<Event, event::InvalidEvent> {
    event::parse(text.as_bytes(), &Properties::default(), "sample")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::EMBEDDED_ROUTES;

    #[test]
    fn every_optional_variable_is_in_one_sample_and_missing_in_another() {
        let lists = ["ADMIN_EMAILS", "CONTACT_EMAILS"].map(|name| (name.to_owned(), Vec::new()));
        let routing = RoutingTable::parse(EMBEDDED_ROUTES, &lists.into()).unwrap();
        let files = source::read(None).unwrap();
        let mut lacking = Vec::new();
        for route in routing.routes() {
            let samples = source::samples(&files, &route.template).filter_map(|(_, text)| {
                let mut event = sample(text).unwrap();
                routing.normalize(&mut event);
                let is_ours = event.kind == route.event || route.aliases.contains(&event.kind);
                is_ours.then_some(event)
            });
            let samples: Vec<Event> = samples.collect();
            for (name, variable) in &route.variables {
                let Some(default) = &variable.default else { continue };
                let found = |event: &Event| {
                    route.variables(event, &Sources::default(), "en").unwrap()[name] != *default
                };
                // Without the customer's address their own mail would be a dead letter.
                let may_be_missing = name != "user_email";
                let is_missing = samples.iter().any(|event| !event.fields.contains_key(name));
                if !samples.iter().any(found) || (may_be_missing && !is_missing) {
                    lacking.push(format!("{}: {name}", route.name));
                }
            }
        }
        assert!(lacking.is_empty(), "{lacking:#?}");
    }
}
