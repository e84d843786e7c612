//! `usher templates activate` and `deactivate`.

use super::{TemplateId, TemplatesCli, unknown_version};
use crate::{cli::output::print, failure::Failure, template::store::Stored};

impl TemplatesCli {
    pub(super) async fn activate(
        &self,
        template: &TemplateId,
        version: i64,
        by: &str,
    ) -> Result<(), Failure> {
        let mut stored = self.versions_of(template).await?;
        // A version for this locale is preferred to one for all locales.
        let candidates = stored.iter().filter(|stored| stored.version == version);
        let found = candidates.max_by_key(|stored| stored.locale.is_some()).cloned();
        let found = found.ok_or_else(|| unknown_version(version, template))?;
        if let Some(fault) = found.fault {
            return Err(Failure::data(fault));
        }
        // The routes may have changed since it was pushed.
        let (templates, trial) = (&self.loaded.templates, self.loaded.trial());
        let source = found.source().map_err(Failure::data)?;
        let accepted = templates.accept(&template.name, &template.language, &source, trial);
        accepted.map_err(|faults| Failure::data(faults.join("\n")))?;
        self.record("activate", template, Some(version), by).await?;
        // The new version first: of two active ones, the one that changed last is used.
        let changed = self.store.set_active(std::slice::from_ref(&found.id), true, by).await;
        if changed.map_err(Failure::unavailable)? == 0 {
            return Err(unknown_version(version, template));
        }
        // A version for all locales stays active for the other language.
        stored.retain(|other| other.locale == found.locale && other.id != found.id);
        self.end(stored, by).await?;
        print(&format!("{template} version {version} is active"));
        Ok(())
    }

    pub(super) async fn deactivate(&self, template: &TemplateId, by: &str) -> Result<(), Failure> {
        let mut active = self.versions_of(template).await?;
        active.retain(|stored| stored.is_active);
        self.record("deactivate", template, None, by).await?;
        let for_all_locales = active.iter().any(|stored| stored.locale.is_none());
        print(&match self.end(active, by).await? {
            0 => format!("{template} had no active version"),
            _ if for_all_locales => {
                format!("{} is made from the files again, in every language", template.name)
            }
            _ => format!("{template} is made from the file again"),
        });
        Ok(())
    }

    async fn versions_of(&self, template: &TemplateId) -> Result<Vec<Stored>, Failure> {
        let mut versions = self.versions(&template.name).await?;
        versions.retain(|stored| stored.is_for(&template.name, &template.language));
        Ok(versions)
    }

    /// Deactivates those that are active, and returns their number.
    async fn end(&self, stored: Vec<Stored>, by: &str) -> Result<u64, Failure> {
        let active = stored.into_iter().filter(|stored| stored.is_active);
        let ids: Vec<_> = active.map(|stored| stored.id).collect();
        self.store.set_active(&ids, false, by).await.map_err(Failure::unavailable)
    }
}
