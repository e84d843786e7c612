//! `usher templates`: templates in the database. What is pushed has to render all its samples.

use std::{path::Path, process::ExitCode};

use super::{
    args::{TemplatePlace, TemplatesCommand},
    print,
};
use crate::{
    app::load,
    audit::store::{MongoAudit, actions::Action},
    event::snake_case,
    failure::Failure,
    template::{
        LANGUAGES,
        source::{self, Files, Markup, Source},
        store::{Stored, TemplateStore},
    },
};

struct Database {
    store: TemplateStore,
    audit: MongoAudit,
    loaded: load::Loaded,
}

pub(crate) async fn templates(
    config: Option<&Path>,
    command: TemplatesCommand,
) -> Result<ExitCode, Failure> {
    let (loaded, audit) = load::with_audit(config).await?;
    let database = Database { store: TemplateStore::new(audit.database()), audit, loaded };
    match command {
        TemplatesCommand::List { json } => database.list(json).await?,
        TemplatesCommand::Show { place, version } => database.show(&place, version).await?,
        TemplatesCommand::Push { place, from, description, activate, by } => {
            let version = database.push(&place, &from, description, &by).await?;
            if activate {
                database.activate(&place, Some(version), &by).await?;
            }
        }
        TemplatesCommand::Activate { place, version, by } => {
            database.activate(&place, Some(version), &by).await?;
        }
        TemplatesCommand::Deactivate { place, by } => database.activate(&place, None, &by).await?,
        TemplatesCommand::History { name, json } => database.history(&name, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Database {
    async fn list(&self, json: bool) -> Result<(), Failure> {
        let active = self.store.active().await.map_err(Failure::unavailable)?;
        let mut names: Vec<_> =
            self.loaded.routing.routes().into_iter().map(|route| &route.template).collect();
        names.sort();
        names.dedup();
        for name in names {
            for language in LANGUAGES {
                let used = active
                    .iter()
                    .rev()
                    .find(|stored| stored.fault.is_none() && stored.is_for(name, language));
                let version = used.map(|stored| stored.version);
                if json {
                    let line = serde_json::json!({
                        "name": name, "locale": language, "source": if used.is_some() { "database" } else { "file" },
                        "version": version,
                    });
                    print(&line.to_string());
                } else {
                    let from =
                        version.map_or("file".to_owned(), |it| format!("database, version {it}"));
                    print(&format!("{name:28} {language}  {from}"));
                }
            }
        }
        Ok(())
    }

    async fn show(&self, place: &TemplatePlace, version: Option<i64>) -> Result<(), Failure> {
        let (name, language) = checked(place)?;
        let stored = self.of(&name).await?;
        let active = self.store.active().await.map_err(Failure::unavailable)?;
        let candidates = if version.is_some() { stored } else { active };
        let found = candidates.into_iter().rev().find(|stored| {
            stored.fault.is_none()
                && stored.is_for(&name, language)
                && version.is_none_or(|it| stored.version == it)
        });
        let source = match (found, version) {
            (Some(stored), _) => stored.source(),
            (None, Some(version)) => {
                return Err(no_version(version, &name, language));
            }
            (None, None) => Source::of_files(&self.loaded.files, &name, language)
                .map_err(|_| Failure::data(format!("there is no template {name:?}")))?,
        };
        let Source { subject, html, text, markup } = source;
        print(&match markup {
            Markup::None => text,
            _ => format!("{}\n--- html ---\n{html}\n--- text ---\n{text}", subject.trim_end()),
        });
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
        let files =
            source::read(Some(from)).map_err(|error| Failure::data(format!("{error:#}")))?;
        // As if the folder were the template's own.
        let files: Files =
            files.into_iter().map(|(path, text)| (format!("{name}/{path}"), text)).collect();
        let shipped = &self.loaded.files;
        let found = Source::of_files(&files, &name, language).and_then(|found| {
            let own = files.into_iter().filter(|(path, _)| path.ends_with(".hbs"));
            let files = (**shipped).clone().into_iter().chain(own).collect();
            found.for_store(&files, shipped, &name, language)
        });
        let found = found.map_err(|faults| Failure::data(faults.join("\n")))?;
        let tried = self.loaded.templates.accept(&name, language, &found, self.loaded.trial());
        tried.map_err(|faults| Failure::data(faults.join("\n")))?;
        let (text_content, sms_content) = match found.markup {
            Markup::None => (String::new(), Some(found.text)),
            _ => (found.text, None),
        };
        let stored = Stored {
            name: name.clone(),
            locale: Some(language.to_owned()),
            subject: found.subject,
            html_content: found.html,
            text_content,
            sms_content,
            description,
            is_active: false,
            created_by: Some(by.to_owned()),
            last_modified_by: Some(by.to_owned()),
            ..Stored::default()
        };
        let version = self.store.push(stored).await.map_err(Failure::unavailable)?;
        self.act("push", &name, language, Some(version), by).await?;
        print(&format!("{name}/{language} version {version} stored"));
        Ok(version)
    }

    async fn activate(
        &self,
        place: &TemplatePlace,
        version: Option<i64>,
        by: &str,
    ) -> Result<(), Failure> {
        let (name, language) = checked(place)?;
        let stored = self.of(&name).await?;
        let (mut stored, mut this): (Vec<_>, _) =
            (stored.into_iter().filter(|it| it.is_for(&name, language)).collect(), None);
        if let Some(version) = version {
            // One of this locale goes before one for all.
            let found = stored.iter().filter(|stored| stored.version == version);
            let found = found.max_by_key(|stored| stored.locale.is_some()).cloned();
            let found = found.ok_or_else(|| no_version(version, &name, language))?;
            if let Some(fault) = found.fault {
                return Err(Failure::data(fault));
            }
            // The routes may have changed since it was pushed.
            let (templates, trial) = (&self.loaded.templates, self.loaded.trial());
            let tried = templates.accept(&name, language, &found.source(), trial);
            tried.map_err(|faults| Failure::data(faults.join("\n")))?;
            // What is for all goes on for the other language, and here the later one is used.
            stored.retain(|it| it.locale == found.locale && it.id != found.id);
            this = Some(found.id);
        }
        stored.retain(|it| it.is_active);
        self.act(
            if version.is_some() { "activate" } else { "deactivate" },
            &name,
            language,
            version,
            by,
        )
        .await?;
        if let (Some(this), Some(version)) = (this, version) {
            // First the new one: of two that are active, the later changed one is used.
            let found =
                self.store.set_active(&[this], true, by).await.map_err(Failure::unavailable)?;
            if found == 0 {
                return Err(no_version(version, &name, language));
            }
        }
        let for_all = stored.iter().any(|it| it.locale.is_none());
        let others: Vec<_> = stored.into_iter().map(|it| it.id).collect();
        let ended =
            self.store.set_active(&others, false, by).await.map_err(Failure::unavailable)?;
        print(&match version {
            Some(version) => format!("{name}/{language} version {version} is active"),
            None if ended == 0 => format!("{name}/{language} had no active version"),
            None if for_all => format!("{name} is made from the files again, in every language"),
            None => format!("{name}/{language} is made from the file again"),
        });
        Ok(())
    }

    async fn history(&self, name: &str, json: bool) -> Result<(), Failure> {
        for stored in self.of(&snake_case(name)).await? {
            if json {
                print(&serde_json::to_string(&stored)?);
                continue;
            }
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            print(&format!(
                "{} {} version {:<3} {:8} by {} {}",
                stored.created().map(|at| at.to_string()).unwrap_or_default(),
                stored.locale.as_deref().unwrap_or("any"),
                stored.version,
                if stored.is_active { "active" } else { "" },
                text(&stored.created_by),
                stored.fault.as_ref().or(stored.description.as_ref()).cloned().unwrap_or_default(),
            ));
        }
        Ok(())
    }

    /// Every version of a template, whichever way its name is written.
    async fn of(&self, name: &str) -> Result<Vec<Stored>, Failure> {
        let all = self.store.all().await.map_err(Failure::unavailable)?;
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
        self.audit.act(&action).await.map_err(Failure::unavailable)
    }
}

fn checked(place: &TemplatePlace) -> Result<(String, &'static str), Failure> {
    let language = LANGUAGES.into_iter().find(|language| *language == place.locale);
    let language = language
        .ok_or_else(|| Failure::data(format!("locale {:?} is neither es nor en", place.locale)))?;
    Ok((snake_case(&place.name), language))
}

fn no_version(version: i64, name: &str, language: &str) -> Failure {
    Failure::data(format!("there is no version {version} of {name}/{language}"))
}
