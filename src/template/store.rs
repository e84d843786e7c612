//! Templates in MongoDB: the collection `email_templates`. An active one goes before the files;
//! what is refused leaves the last good one where it was.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    Collection, Database,
    bson::{self, Bson, DateTime, Document, RawDocumentBuf, doc},
    error::Error,
};
use serde::{Deserialize, Serialize};

use super::{
    Compiled, Templates, Trial,
    locale_formatter::canonical,
    mjml,
    source::{Markup, SHORT_VERSION, Source, SourceKind, WHOLE_VERSION, clean},
};
use crate::{
    clients::mongo::{InTime, is_duplicate_key},
    event::snake_case,
    health::Backoff,
    metrics::{InternalEvent, Metrics},
    reason::of_mongodb,
};

/// The collection of templates.
pub const EMAIL_TEMPLATES: &str = "email_templates";
/// The collection of every text that was ever loaded, by its version.
const TEMPLATE_VERSIONS: &str = "template_versions";
/// What a mail has.
const MAIL_PARTS: [&str; 3] = ["subject", "html_content", "text_content"];
/// How often changes are looked for.
const POLL: Duration = Duration::from_secs(2);

/// One version of a template in one language. Field names are those of the collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// What the document is known by.
    #[serde(rename = "_id", default, skip_serializing)]
    pub id: Bson,
    /// The template, in snake or Pascal case.
    pub name: String,
    /// Such as `es`; without one it is for all languages that the files have.
    #[serde(default)]
    pub locale: Option<String>,
    /// Counted from 1 for each name and locale.
    #[serde(default)]
    pub version: i64,
    /// One line.
    #[serde(default)]
    pub subject: String,
    /// MJML or HTML, whole or the content of the shared layout.
    #[serde(default)]
    pub html_content: String,
    /// The text part.
    #[serde(default)]
    pub text_content: String,
    /// A text message, instead of these three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sms_content: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Whether it is used.
    pub is_active: bool,
    /// When it was pushed.
    #[serde(default)]
    pub created_at: Option<DateTime>,
    /// Who pushed it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was last made active or inactive.
    #[serde(default)]
    pub last_modified_at: Option<DateTime>,
    /// Who did.
    #[serde(default)]
    pub last_modified_by: Option<String>,
    /// Why the document can't be read; its words are empty then.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Stored {
    /// People write these documents by hand: one of a wrong shape must not hide the others.
    fn read(document: &RawDocumentBuf) -> Self {
        let stored = bson::deserialize_from_slice(document.as_bytes());
        let stored = stored.map_err(|error| error.to_string()).and_then(|stored: Self| {
            let is_missing = |part: &&str| matches!(document.get(part), Ok(None));
            let missing =
                MAIL_PARTS.iter().find(|part| stored.sms_content.is_none() && is_missing(part));
            missing.map_or(Ok(stored), |part| Err(format!("missing field `{part}`")))
        });
        stored.unwrap_or_else(|fault| {
            let text = |key| document.get_str(key).ok().map(ToOwned::to_owned);
            let id = document.get("_id").ok().flatten();
            let id = id.and_then(|id| Bson::try_from(id).ok()).unwrap_or_default();
            Self {
                name: text("name").unwrap_or_else(|| id.to_string()),
                locale: text("locale"),
                is_active: document.get_bool("is_active").unwrap_or_default(),
                id,
                fault: Some(fault),
                ..Self::default()
            }
        })
    }

    /// Whether it is a version of this template in this language.
    pub fn is_for(&self, name: &str, language: &str) -> bool {
        snake_case(&self.name) == name
            && self.locale.as_deref().is_none_or(|locale| locale == language)
    }

    /// What is compiled.
    ///
    /// # Errors
    /// It can't be told apart whether it is MJML or HTML.
    pub fn source(&self) -> Result<Source, String> {
        let kind = SourceKind::Database;
        if let Some(text) = &self.sms_content {
            return Ok(Source::text_message(clean(text), kind));
        }
        let html = clean(&self.html_content);
        let begins = mjml::first_element(&html);
        let is_mjml = begins.as_ref().is_some_and(|name| name.starts_with("mj"));
        if let (false, Some((_, name))) = (is_mjml, mjml::mjml_element(&html)) {
            let begins = begins.map_or("with text".to_owned(), |name| format!("with <{name}>"));
            return Err(format!(
                "html_content begins {begins} and has <{name}>: it can't be told whether it is HTML or MJML, \
                 which begins with <mjml> or <mj-…>"
            ));
        }
        let markup = if is_mjml { Markup::Mjml } else { Markup::Html };
        let (subject, text) = (clean(&self.subject), clean(&self.text_content));
        Ok(Source { subject, html, text, markup, kind })
    }

    /// When it was pushed.
    pub fn created(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.created_at?.timestamp_millis()).ok()
    }

    fn place(&self) -> String {
        let locale = self.locale.as_deref().unwrap_or("any");
        format!("{}/{locale} version {}", self.name, self.version)
    }
}

/// The templates in MongoDB.
#[derive(Clone)]
pub struct TemplateStore {
    templates: Collection<RawDocumentBuf>,
    versions: Collection<Document>,
}

impl TemplateStore {
    /// In this database.
    pub fn new(database: &Database) -> Self {
        Self {
            templates: database.collection(EMAIL_TEMPLATES),
            versions: database.collection(TEMPLATE_VERSIONS),
        }
    }

    /// Every version of every template, oldest first.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn all(&self) -> Result<Vec<Stored>, Error> {
        self.find(doc! {}).await
    }

    async fn find(&self, filter: Document) -> Result<Vec<Stored>, Error> {
        let order = doc! {"name": 1, "locale": 1, "version": 1};
        let found = self.templates.find(filter).sort(order).in_time().await?;
        found.map_ok(|document| Stored::read(&document)).try_collect().in_time().await
    }

    /// The active ones; of several for one place, the one that was made active last comes last.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn active(&self) -> Result<Vec<Stored>, Error> {
        let mut active = self.find(doc! {"is_active": true}).await?;
        active.sort_by_key(|stored| (stored.last_modified_at, stored.version));
        Ok(active)
    }

    /// Adds a version, created now, and gives its number.
    ///
    /// # Errors
    /// The server did not answer, or others push to the same name all the time.
    pub async fn push(&self, mut stored: Stored) -> Result<i64, Error> {
        stored.created_at = Some(DateTime::now());
        stored.last_modified_at = stored.created_at;
        loop {
            let known = self.all().await?;
            let language = stored.locale.as_deref().unwrap_or_default();
            let known = known.iter().filter(|known| known.is_for(&stored.name, language));
            // Not only by what is known: a document that can't be read has its number too.
            stored.version = known.map(|it| it.version).fold(stored.version, i64::max) + 1;
            let mut document = bson::serialize_to_document(&stored)?;
            let locale = stored.locale.as_deref().unwrap_or("any");
            // The id makes the number unique.
            document.insert("_id", format!("{}/{locale}/{}", stored.name, stored.version));
            match self.templates.clone_with_type::<Document>().insert_one(document).in_time().await
            {
                Ok(_) => return Ok(stored.version),
                Err(error) if is_duplicate_key(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes versions active or inactive, by their ids; gives how many there were.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn set_active(&self, ids: &[Bson], active: bool, by: &str) -> Result<u64, Error> {
        let change = doc! {
            "is_active": active, "last_modified_at": DateTime::now(), "last_modified_by": by,
        };
        let these = doc! {"_id": {"$in": ids}};
        Ok(self.templates.update_many(these, doc! {"$set": change}).in_time().await?.matched_count)
    }

    /// The text that mails of this version were made from. A stored text that has another version was
    /// put there by somebody else.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn version(&self, version: &str) -> Result<Option<Source>, Error> {
        // Whole, or the beginning that older records have; a `g` follows every hex digit.
        let ids = match version.len() {
            SHORT_VERSION => doc! {"$gte": version, "$lt": format!("{version}g")},
            _ => doc! {"$eq": version},
        };
        let found =
            self.versions.find_one(doc! {"_id": ids}).sort(doc! {"_id": 1}).in_time().await?;
        Ok(found.and_then(|found| {
            let text = |part| found.get_str(part).unwrap_or_default().to_owned();
            let (subject, html, text) = (text("subject"), text("html"), text("text"));
            let is_stripped = found.get_bool("is_stripped").unwrap_or_default();
            let kind = SourceKind::Flat { is_stripped };
            let source = Source { subject, html, text, markup: Markup::Html, kind };
            let id = found.get_str("_id").unwrap_or_default();
            (id.len() < WHOLE_VERSION || source.version() == id).then_some(source)
        }))
    }

    /// Keeps the texts of all that is in use, so that any mail can be rendered again.
    async fn keep_versions(&self, templates: &Templates) -> Result<(), Error> {
        let in_use = templates.in_use();
        let ids: BTreeSet<&str> =
            in_use.iter().map(|(_, _, compiled)| compiled.version.as_str()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        let known = self.versions.find(doc! {"_id": {"$in": &ids}}).projection(doc! {"_id": 1});
        let known: Vec<Document> = known.in_time().await?.try_collect().in_time().await?;
        let mut known: HashSet<&str> =
            known.iter().filter_map(|it| it.get_str("_id").ok()).collect();
        for (name, language, compiled) in &in_use {
            if !known.insert(&compiled.version) {
                continue;
            }
            let flat = &compiled.flat;
            let document = doc! {
                "_id": &compiled.version, "name": name, "locale": language,
                "subject": &flat.subject, "html": &flat.html, "text": &flat.text,
                "is_stripped": true, "first_loaded_at": DateTime::now(),
            };
            match self.versions.insert_one(document).in_time().await {
                Err(error) if !is_duplicate_key(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes over what changes in the database.
pub struct Watcher {
    store: TemplateStore,
    metrics: Metrics,
    /// What was looked at last, to see changes.
    seen: Vec<Stored>,
    versions_kept: bool,
    /// Whether the last look failed.
    is_blind: bool,
    keeping_failed: bool,
}

impl Watcher {
    /// Nothing is loaded yet.
    pub fn new(store: TemplateStore, metrics: Metrics) -> Self {
        Self {
            store,
            metrics,
            seen: Vec::new(),
            versions_kept: false,
            is_blind: false,
            keeping_failed: false,
        }
    }

    /// Loads what is active for the first time; waits for the server.
    pub async fn load(&mut self, templates: &Templates, trial: Trial<'_>) {
        let mut backoff = Backoff::default();
        while let Err(error) = self.look(templates, trial).await {
            if !self.is_blind {
                tracing::warn!(
                    error = of_mongodb(&error),
                    "templates in the database can't be read yet"
                );
            }
            self.is_blind = true;
            tokio::time::sleep(backoff.step()).await;
        }
        self.is_blind = false;
    }

    /// Loads what is active, unless the server does not answer.
    ///
    /// # Errors
    /// It does not.
    pub async fn load_now(&mut self, templates: &Templates, trial: Trial<'_>) -> Result<(), Error> {
        self.look(templates, trial).await
    }

    /// Looks for changes for ever. A server that is down changes nothing.
    pub async fn watch(mut self, templates: &Templates, trial: Trial<'_>) {
        loop {
            if !self.versions_kept {
                let kept = self.store.keep_versions(templates).await;
                if let Err(error) = &kept
                    && !self.keeping_failed
                {
                    tracing::warn!(
                        error = of_mongodb(error),
                        "texts of templates can't be kept in template_versions"
                    );
                }
                (self.versions_kept, self.keeping_failed) = (kept.is_ok(), kept.is_err());
            }
            tokio::time::sleep(POLL).await;
            let looked = self.look(templates, trial).await;
            match (&looked, self.is_blind) {
                (Err(error), false) => {
                    tracing::warn!(
                        error = of_mongodb(error),
                        "templates in the database can't be read"
                    );
                }
                (Ok(()), true) => tracing::info!("templates in the database can be read again"),
                _ => {}
            }
            self.is_blind = looked.is_err();
        }
    }

    async fn look(&mut self, templates: &Templates, trial: Trial<'_>) -> Result<(), Error> {
        templates.kept_in(&self.store);
        let active = self.store.active().await?;
        if active == self.seen {
            return Ok(());
        }
        let (accepted, refused) = templates.choose(&active, trial);
        for (place, reason) in &refused {
            TemplateRefused { place, reason }.emit(&self.metrics);
        }
        tracing::info!(active = accepted.len(), "templates in the database loaded");
        templates.override_with(accepted);
        self.seen = active;
        self.versions_kept = false;
        Ok(())
    }
}

/// A template in the database was refused.
struct TemplateRefused<'a> {
    place: &'a str,
    reason: &'a str,
}

impl InternalEvent for TemplateRefused<'_> {
    fn emit(self, metrics: &Metrics) {
        metrics.template_refused();
        let Self { place, reason } = self;
        tracing::error!(template = place, reason, "template in the database refused");
    }
}

/// Templates that go before the files, by name and language.
pub(super) type Overrides = HashMap<(String, String), Arc<Compiled>>;

impl Templates {
    /// What of the active ones is accepted, and what is refused and why. Where one is refused, the
    /// override that was in use stays.
    fn choose(&self, active: &[Stored], trial: Trial<'_>) -> (Overrides, Vec<(String, String)>) {
        let current = self.overrides.load();
        let mut accepted = Overrides::new();
        let mut refused = Vec::new();
        for stored in active {
            let name = snake_case(&stored.name);
            let languages: Vec<String> = match &stored.locale {
                Some(locale) if canonical(locale).as_ref() == Some(locale) => vec![locale.clone()],
                Some(_) => {
                    let reason = "its locale is no language, such as es or pt-BR".to_owned();
                    refused.push((stored.place(), reason));
                    continue;
                }
                None => match self.shipped.get(&name) {
                    Some(languages) => languages.keys().cloned().collect(),
                    None => {
                        let reason = format!("there is no template {name:?} in the files");
                        refused.push((stored.place(), stored.fault.clone().unwrap_or(reason)));
                        continue;
                    }
                },
            };
            let mut faults = Vec::new();
            for language in languages {
                let accepted_here = self.accept_stored(&name, &language, stored, trial);
                let key = (name.clone(), language);
                match accepted_here {
                    Ok(compiled) => drop(accepted.insert(key, Arc::new(compiled))),
                    Err(found) => {
                        faults.extend(found);
                        if let Some(good) = current.get(&key) {
                            accepted.entry(key).or_insert_with(|| good.clone());
                        }
                    }
                }
            }
            // A fault of the document itself is found once in each language.
            faults.dedup();
            if !faults.is_empty() {
                refused.push((stored.place(), faults.join("; ")));
            }
        }
        (accepted, refused)
    }

    fn accept_stored(
        &self,
        name: &str,
        language: &str,
        stored: &Stored,
        trial: Trial<'_>,
    ) -> Result<Compiled, Vec<String>> {
        if let Some(fault) = &stored.fault {
            return Err(vec![fault.clone()]);
        }
        let source = stored.source().map_err(|fault| vec![fault])?;
        // What a library trips over must not end the watch.
        let tried = AssertUnwindSafe(|| self.accept(name, language, &source, trial));
        catch_unwind(tried).unwrap_or_else(|_| Err(vec!["compiling it panicked".to_owned()]))
    }
}
