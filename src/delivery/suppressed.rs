//! What operators decide about the suppression list, for the commands and the API. The reason is recorded
//! before anything is done. Running instances see a change within seconds.

use jiff::Timestamp;

use crate::{
    audit::{
        AuditError, Suppression, SuppressionReason,
        store::{MongoAudit, actions::Action, suppressions::SuppressionFilter},
    },
    channel::{email, sms},
    routing::{ChannelKind, Identity},
};

/// Changes the suppression list.
pub(crate) struct Suppressor<'a> {
    pub(crate) audit: &'a MongoAudit,
    pub(crate) identity: &'a Identity,
}

impl Suppressor<'_> {
    /// The channel and the keyed hash of a mail address or a phone number.
    ///
    /// # Errors
    /// The reason, without the address.
    pub(crate) fn recipient(&self, address: &str) -> Result<(ChannelKind, String), String> {
        let address = address.trim();
        if address.contains('@') {
            email::check_recipient(address)?;
            return Ok((ChannelKind::Email, self.identity.recipient_hash(address)));
        }
        let is_separator = |c: char| c.is_whitespace() || "-./()".contains(c);
        let number: String = address.chars().filter(|c| !is_separator(*c)).collect();
        let checked = sms::check_recipient(&number);
        checked.map_err(|_| "neither a mail address nor a phone number in E.164 form")?;
        Ok((ChannelKind::Sms, self.identity.recipient_hash(&number)))
    }

    /// An entry by which a person suppresses an address.
    ///
    /// # Errors
    /// The reason, without the address.
    pub(crate) fn entry(
        &self,
        address: &str,
        note: &str,
        until: Option<Timestamp>,
    ) -> Result<Suppression, String> {
        let (channel, recipient_hash) = self.recipient(address)?;
        let now = crate::clock::now();
        Ok(Suppression {
            id: Suppression::id(channel, &recipient_hash),
            channel,
            recipient_hash,
            reason: SuppressionReason::Manual,
            note: note.to_owned(),
            delivery_id: None,
            since: now,
            until,
            changed_at: now,
        })
    }

    /// Stores an entry, unless the address has one that says as much. Returns whether it did.
    pub(crate) async fn suppress(
        &self,
        entry: Suppression,
        by: &str,
        reason: &str,
    ) -> Result<bool, AuditError> {
        let now = crate::clock::now();
        let id = Suppression::id(entry.channel, &entry.recipient_hash);
        let known = self.audit.suppression(&id).await?;
        let entry = Suppression { id, changed_at: now, ..entry };
        let Some(entry) = entry.over(known.as_ref(), now) else { return Ok(false) };
        self.put("suppress", &entry, by, reason).await?;
        Ok(true)
    }

    /// Ends an entry, which is returned: the address gets mail again.
    pub(crate) async fn end(
        &self,
        entry: Suppression,
        by: &str,
        reason: &str,
    ) -> Result<Suppression, AuditError> {
        let now = crate::clock::now();
        let ended = Suppression { until: Some(now), changed_at: now, ..entry };
        self.put("unsuppress", &ended, by, reason).await?;
        Ok(ended)
    }

    /// The entry in force that has this hash.
    pub(crate) async fn find(
        &self,
        recipient_hash: &str,
    ) -> Result<Option<Suppression>, AuditError> {
        let recipient_hash = Some(recipient_hash.to_owned());
        let filter = SuppressionFilter { recipient_hash, ..SuppressionFilter::default() };
        Ok(self.audit.active_suppressions(&filter, (0, 1)).await?.1.pop())
    }

    async fn put(
        &self,
        action: &'static str,
        entry: &Suppression,
        by: &str,
        reason: &str,
    ) -> Result<(), AuditError> {
        let target = entry.recipient_hash.clone();
        let action = Action { by: by.to_owned(), action, target, reason: reason.to_owned() };
        self.audit.record_action(&action).await?;
        self.audit.put_suppression(entry).await
    }
}
