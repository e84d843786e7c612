//! `usher templates`: templates in the database. What is pushed has to render all its samples.

use std::{path::Path, process::ExitCode};

use mongodb::bson::{DateTime, doc};

use super::{EXIT_DATA, EXIT_UNAVAILABLE, Failure, load, quiet_logs, say};
use crate::{
    audit::{mongo::MongoAudit, query::Action},
    cli::{TemplatePlace, TemplatesCommand},
    event::snake_case,
    template::{
        LANGUAGES,
        database::{Stored, TemplateStore},
        source::{self, Source},
    },
};

struct Shelf {
    store: TemplateStore,
    audit: MongoAudit,
    loaded: load::Loaded,
}

pub(super) async fn templates(
    config: Option<&Path>,
    command: TemplatesCommand,
) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    quiet_logs(&loaded.settings);
    let settings = &loaded.settings;
    let audit = MongoAudit::new(settings.mongodb_uri.expose(), &settings.mongodb_database).await;
    let audit = audit.map_err(|error| Failure::config(format!("MONGODB_URI: {error}")))?;
    let shelf = Shelf { store: TemplateStore::new(audit.database()), audit, loaded };
    match command {
        TemplatesCommand::List { json } => shelf.list(json).await?,
        TemplatesCommand::Show { place, version } => shelf.show(&place, version).await?,
        TemplatesCommand::Push { place, from, description, activate, by } => {
            let version = shelf.push(&place, &from, description, &by).await?;
            if activate {
                shelf.activate(&place, Some(version), &by).await?;
            }
        }
        TemplatesCommand::Activate { place, version, by } => {
            shelf.activate(&place, Some(version), &by).await?;
        }
        TemplatesCommand::Deactivate { place, by } => shelf.activate(&place, None, &by).await?,
        TemplatesCommand::History { name, json } => shelf.history(&name, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Shelf {
    async fn list(&self, json: bool) -> Result<(), Failure> {
        let active = self.store.active().await.map_err(unavailable)?;
        let mut names: Vec<_> =
            self.loaded.catalog.routes().into_iter().map(|route| &route.template).collect();
        names.sort();
        names.dedup();
        for name in names {
            for language in LANGUAGES {
                let used = active.iter().rev().find(|stored| stored.is_for(name, language));
                let version = used.map(|stored| stored.version);
                if json {
                    let line = serde_json::json!({
                        "name": name, "locale": language, "source": if used.is_some() { "database" } else { "file" },
                        "version": version,
                    });
                    say(&line.to_string());
                } else {
                    let from =
                        version.map_or("file".to_owned(), |it| format!("database, version {it}"));
                    say(&format!("{name:28} {language}  {from}"));
                }
            }
        }
        Ok(())
    }

    async fn show(&self, place: &TemplatePlace, version: Option<i64>) -> Result<(), Failure> {
        let (name, language) = checked(place)?;
        let stored = self.of(&name).await?;
        let active = self.store.active().await.map_err(unavailable)?;
        let candidates = if version.is_some() { stored } else { active };
        let found = candidates.into_iter().rev().find(|stored| {
            stored.is_for(&name, language) && version.is_none_or(|it| stored.version == it)
        });
        let source = match (found, version) {
            (Some(stored), _) => stored.source(),
            (None, Some(version)) => {
                return Err(data(format!("there is no version {version} of {name}/{language}")));
            }
            (None, None) => Source::of_files(&self.loaded.files, &name, language)
                .map_err(|_| data(format!("there is no template {name:?}")))?,
        };
        let Source { subject, html, text, .. } = source;
        say(&format!("{}\n--- html ---\n{html}\n--- text ---\n{text}", subject.trim_end()));
        Ok(())
    }

    async fn push(
        &self,
        place: &TemplatePlace,
        from: &Path,
        description: Option<String>,
        by: &str,
    ) -> Result<i64, Failure> {
        let (name, language) = checked(place)?;
        let files = source::read(Some(from)).map_err(|error| data(format!("{error:#}")))?;
        // As if the folder were the template's own.
        let files =
            files.into_iter().map(|(path, text)| (format!("{name}/{path}"), text)).collect();
        let found = Source::of_files(&files, &name, language);
        let found = found.map_err(|faults| data(faults.join("\n")))?;
        let tried = self.loaded.templates.accept(&name, language, &found, self.loaded.trial());
        tried.map_err(|faults| data(faults.join("\n")))?;
        let now = DateTime::now();
        let stored = Stored {
            name: name.clone(),
            locale: Some(language.to_owned()),
            version: 0,
            subject: found.subject,
            html_content: found.html,
            text_content: found.text,
            description,
            is_active: false,
            created_at: Some(now),
            created_by: Some(by.to_owned()),
            last_modified_at: Some(now),
            last_modified_by: Some(by.to_owned()),
        };
        let version = self.store.push(stored).await.map_err(unavailable)?;
        self.act("push", &name, language, Some(version), by).await?;
        say(&format!("{name}/{language} version {version} stored"));
        Ok(version)
    }

    async fn activate(
        &self,
        place: &TemplatePlace,
        version: Option<i64>,
        by: &str,
    ) -> Result<(), Failure> {
        let (name, language) = checked(place)?;
        if let Some(version) = version {
            let stored = self.of(&name).await?;
            let stored = stored.iter().find(|stored| {
                stored.locale.as_deref() == Some(language) && stored.version == version
            });
            let stored = stored.ok_or_else(|| {
                data(format!("there is no version {version} of {name}/{language}"))
            })?;
            // The routes may have changed since it was pushed.
            let (templates, trial) = (&self.loaded.templates, self.loaded.trial());
            let tried = templates.accept(&name, language, &stored.source(), trial);
            tried.map_err(|faults| data(faults.join("\n")))?;
        }
        self.act(
            if version.is_some() { "activate" } else { "deactivate" },
            &name,
            language,
            version,
            by,
        )
        .await?;
        let found = self.store.activate(&name, language, version, by).await.map_err(unavailable)?;
        say(&match version {
            Some(version) => format!("{name}/{language} version {version} is active"),
            None if found == 0 => format!("{name}/{language} had no active version"),
            None => format!("{name}/{language} is made from the file again"),
        });
        Ok(())
    }

    async fn history(&self, name: &str, json: bool) -> Result<(), Failure> {
        for stored in self.of(&snake_case(name)).await? {
            if json {
                say(&serde_json::to_string(&stored)?);
                continue;
            }
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            say(&format!(
                "{} {} version {:<3} {:8} by {} {}",
                stored
                    .created_at
                    .and_then(|at| at.try_to_rfc3339_string().ok())
                    .unwrap_or_default(),
                stored.locale.as_deref().unwrap_or("any"),
                stored.version,
                if stored.is_active { "active" } else { "" },
                text(&stored.created_by),
                text(&stored.description),
            ));
        }
        Ok(())
    }

    /// Every version of a template, whichever way its name is written.
    async fn of(&self, name: &str) -> Result<Vec<Stored>, Failure> {
        let all = self.store.find(doc! {}).await.map_err(unavailable)?;
        Ok(all.into_iter().filter(|stored| snake_case(&stored.name) == name).collect())
    }

    async fn act(
        &self,
        action: &'static str,
        name: &str,
        language: &str,
        version: Option<i64>,
        by: &str,
    ) -> Result<(), Failure> {
        let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
        let action = Action {
            by: by.to_owned(),
            action,
            target: format!("template {name}/{language}{version}"),
            reason: String::new(),
        };
        self.audit.act(&action).await.map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))
    }
}

fn checked(place: &TemplatePlace) -> Result<(String, &'static str), Failure> {
    let language = LANGUAGES.into_iter().find(|language| *language == place.locale);
    let language =
        language.ok_or_else(|| data(format!("locale {:?} is neither es nor en", place.locale)))?;
    Ok((snake_case(&place.name), language))
}

fn data(reason: String) -> Failure {
    Failure::new(EXIT_DATA, anyhow::anyhow!(reason))
}

fn unavailable(error: mongodb::error::Error) -> Failure {
    Failure::new(EXIT_UNAVAILABLE, error)
}
