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
