//! Addresses that get no mail any more, by the keyed hash of the address.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::routing::{ChannelKind, DeliveryId};

/// Why an address gets no mail. A removed entry stays, and has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suppression {
    /// `<channel>/<recipient_hash>`.
    #[serde(rename = "_id")]
    pub id: String,
    pub channel: ChannelKind,
    pub recipient_hash: String,
    pub reason: SuppressionReason,
    /// The codes of the report, or the operator's reason.
    pub note: String,
    /// The delivery whose report caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<DeliveryId>,
    #[serde(with = "crate::clients::bson_time")]
    pub since: Timestamp,
    /// When it ends by itself, or was removed.
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<Timestamp>,
    /// By which instances find what is new.
    #[serde(with = "crate::clients::bson_time")]
    pub changed_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionReason {
    /// The address does not exist.
    HardBounce,
    /// Several bounces in a row.
    SoftBounces,
    Complaint,
    /// An operator decided it.
    Manual,
}

impl SuppressionReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HardBounce => "hard_bounce",
            Self::SoftBounces => "soft_bounces",
            Self::Complaint => "complaint",
            Self::Manual => "manual",
        }
    }

    /// Whether a server decided, not a person.
    pub fn is_bounce(self) -> bool {
        matches!(self, Self::HardBounce | Self::SoftBounces)
    }
}

impl Suppression {
    pub fn id(channel: ChannelKind, recipient_hash: &str) -> String {
        format!("{}/{recipient_hash}", channel.as_str())
    }

    pub fn is_active(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// The entry to store where an address has `known` already; `None` if it says all that this one does.
    /// Nothing but removing makes an entry weaker: it never ends earlier, and a bounce takes no place of
    /// a complaint or a person's decision, which hold for routes with `security = true` too.
    pub fn over(self, known: Option<&Self>, now: Timestamp) -> Option<Self> {
        let Some(known) = known.filter(|known| known.is_active(now)) else { return Some(self) };
        let until = self.until.zip(known.until).map(|(one, other)| one.max(other));
        let is_longer = until != known.until;
        let is_adding = match (known.reason.is_bounce(), self.reason.is_bounce()) {
            (true, false) => true,
            (false, true) => false,
            _ => is_longer,
        };
        is_adding.then_some(Self { until, ..self })
    }
}

/// The entries of the collection as this instance knows them, so that no mail waits for a look at it.
#[derive(Debug, Default)]
pub struct SuppressionList(RwLock<HashMap<String, Suppression>>);

impl SuppressionList {
    pub fn apply(&self, changed: Vec<Suppression>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(changed.into_iter().map(|one| (one.id.clone(), one)));
    }

    /// The entry for an address, unless it has ended.
    pub fn find(&self, channel: ChannelKind, hash: &str, now: Timestamp) -> Option<Suppression> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&Suppression::id(channel, hash)).filter(|one| one.is_active(now)).cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(reason: SuppressionReason, until: Option<i64>) -> Suppression {
        let since = Timestamp::UNIX_EPOCH;
        let until = until.map(|days| Timestamp::from_second(days * 86_400).unwrap());
        let (channel, recipient_hash) = (ChannelKind::Email, "h".to_owned());
        let id = Suppression::id(channel, &recipient_hash);
        let (note, delivery_id) = (String::new(), None);
        Suppression {
            id,
            channel,
            recipient_hash,
            reason,
            note,
            delivery_id,
            since,
            until,
            changed_at: since,
        }
    }

    #[test]
    fn a_later_entry_never_makes_an_earlier_one_weaker() {
        use SuppressionReason::{Complaint, HardBounce, Manual, SoftBounces};
        let now = Timestamp::from_second(86_400).unwrap();
        let (ended, short, long) = (Some(1), Some(14), Some(30));
        for (known, new, expected) in [
            ((HardBounce, None), (SoftBounces, short), None),
            ((HardBounce, None), (HardBounce, None), None),
            ((SoftBounces, short), (HardBounce, None), Some((HardBounce, None))),
            ((SoftBounces, long), (Manual, short), Some((Manual, long))),
            ((HardBounce, None), (Manual, long), Some((Manual, None))),
            ((HardBounce, None), (Complaint, None), Some((Complaint, None))),
            ((Complaint, None), (Manual, long), None),
            ((Complaint, None), (HardBounce, None), None),
            ((Manual, long), (HardBounce, None), None),
            ((Manual, short), (Complaint, None), Some((Complaint, None))),
            ((Manual, short), (Manual, long), Some((Manual, long))),
            ((Manual, long), (Manual, short), None),
            ((Complaint, ended), (SoftBounces, short), Some((SoftBounces, short))),
        ] {
            let stored = entry(new.0, new.1).over(Some(&entry(known.0, known.1)), now);
            let expected = expected.map(|(reason, until)| entry(reason, until));
            assert_eq!(stored, expected, "{new:?} over {known:?}");
        }
    }
}
