//! `usher templates list`, `show` and `history`.

use console::Style;
use serde_json::json;

use super::{TemplateId, TemplatesCli, unknown_version};
use crate::{
    cli::output::{Column, Table, print, print_json, width},
    event::snake_case,
    failure::Failure,
    template::source::{Markup, Source},
};

impl TemplatesCli {
    pub(super) async fn list(&self, json: bool) -> Result<(), Failure> {
        let active = self.store.active().await.map_err(Failure::unavailable)?;
        let routes = self.loaded.routing.routes();
        let mut names: Vec<_> = routes.iter().map(|route| &route.template).collect();
        names.sort();
        names.dedup();
        let columns = [Column::Whole("TEMPLATE"), Column::Whole("LOCALE"), Column::Whole("SOURCE")];
        let mut table = Table::new(&columns, width());
        for name in names {
            let own = active.iter().filter(|stored| snake_case(&stored.name) == *name);
            let mut languages = self.loaded.templates.languages(name);
            languages.extend(own.filter_map(|stored| stored.locale.clone()));
            for language in &languages {
                let mut newest_first = active.iter().rev();
                let used = newest_first
                    .find(|stored| stored.fault.is_none() && stored.is_for(name, language));
                let version = used.map(|stored| stored.version);
                let source = if version.is_some() { "database" } else { "file" };
                if json {
                    print_json(&json!({
                        "name": name, "locale": language, "source": source, "version": version,
                    }))?;
                } else {
                    let version =
                        version.map(|version| format!(", version {version}")).unwrap_or_default();
                    table.add(&[name, language, &format!("{source}{version}")], Style::new());
                }
            }
        }
        if !json {
            table.print();
        }
        Ok(())
    }

    pub(super) async fn show(
        &self,
        template: &TemplateId,
        version: Option<i64>,
    ) -> Result<(), Failure> {
        let candidates = match version {
            Some(_) => self.versions(&template.name).await?,
            None => self.store.active().await.map_err(Failure::unavailable)?,
        };
        let found = candidates.into_iter().rev().find(|stored| {
            stored.fault.is_none()
                && stored.is_for(&template.name, &template.language)
                && version.is_none_or(|version| stored.version == version)
        });
        let source = match (found, version) {
            (Some(stored), _) => stored.source().map_err(Failure::data)?,
            (None, Some(version)) => return Err(unknown_version(version, template)),
            (None, None) => {
                Source::of_files(&self.loaded.files, &template.name, &template.language).map_err(
                    |_| Failure::data(format!("there is no template {:?}", template.name)),
                )?
            }
        };
        let Source { subject, html, text, markup, .. } = source;
        print(&match markup {
            Markup::None => text,
            _ => format!("{}\n--- html ---\n{html}\n--- text ---\n{text}", subject.trim_end()),
        });
        Ok(())
    }

    pub(super) async fn history(&self, name: &str, json: bool) -> Result<(), Failure> {
        let versions = self.versions(&snake_case(name)).await?;
        if json {
            for stored in versions {
                print_json(&stored)?;
            }
            return Ok(());
        }
        let columns = [
            Column::Whole("CREATED (UTC)"),
            Column::Whole("LOCALE"),
            Column::Number("VERSION"),
            Column::Whole("STATE"),
            Column::Text("BY"),
            Column::Text("NOTE"),
        ];
        let mut table = Table::new(&columns, width());
        for stored in versions {
            let created = stored.created().map(|at| at.to_string());
            let cells: [&str; 6] = [
                created.as_deref().unwrap_or("-"),
                stored.locale.as_deref().unwrap_or("any"),
                &stored.version.to_string(),
                if stored.is_active { "active" } else { "-" },
                &format!("by {}", stored.created_by.as_deref().unwrap_or_default()),
                stored.fault.as_ref().or(stored.description.as_ref()).map_or("", String::as_str),
            ];
            table.add(&cells, Style::new());
        }
        table.print();
        Ok(())
    }
}
