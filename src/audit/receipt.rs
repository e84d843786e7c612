//! What became of a mail after the mail server took it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::routing::DeliveryId;

/// One report about one delivery. It stands beside the records of the attempts and alters none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// `<delivery_id>/<status>`, for a bounce also `/<kind>`: a report that comes twice is one receipt.
    #[serde(rename = "_id")]
    pub id: String,
    pub delivery_id: DeliveryId,
    /// That of the delivery's record; absent if there was none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient_hash: Option<String>,
    /// Route of that record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The mail server that took the mail, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// Domain of the recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    pub status: ReceiptStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounce: Option<BounceKind>,
    pub evidence: Evidence,
    /// When it came in.
    #[serde(with = "crate::clients::bson_time")]
    pub at: Timestamp,
    /// When a running instance looks at it, to do what follows from it; absent once that is done.
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub follow_up_at: Option<Timestamp>,
    #[serde(with = "crate::clients::bson_time")]
    pub purge_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptStatus {
    /// The mail lies in the recipient's mailbox, as the reporting server says.
    Delivered,
    /// A later server did not take the mail, or gave up.
    Bounced,
    /// The recipient called it spam.
    Complained,
}

impl ReceiptStatus {
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Bounced, Self::Complained];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Complained => "complained",
        }
    }
}

/// Why a mail bounced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BounceKind {
    /// The address does not exist.
    Hard,
    /// The address can't take mail now: a full mailbox, a server that was away for too long.
    Soft,
    /// The mail or its sender was refused: content, size, policy or reputation. It says nothing about the
    /// address.
    Blocked,
}

impl BounceKind {
    pub const ALL: [Self; 3] = [Self::Hard, Self::Soft, Self::Blocked];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
            Self::Blocked => "blocked",
        }
    }
}

/// What a receipt is based on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `dsn` (RFC 3464), `arf` (RFC 5965) or `text`.
    pub source: String,
    /// `return_path` or `message_id`.
    pub matched_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reporting_mta: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// The reply code (RFC 5321 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// The enhanced status code (RFC 3463).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<String>,
    /// The server's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostic: Option<String>,
    /// Of a complaint: `abuse`, `fraud` or `opt-out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback_type: Option<String>,
}

impl Receipt {
    pub fn id(delivery: &DeliveryId, status: ReceiptStatus, bounce: Option<BounceKind>) -> String {
        let kind = bounce.map(|kind| format!("/{}", kind.as_str())).unwrap_or_default();
        format!("{delivery}/{}{kind}", status.as_str())
    }

    /// In one line, without personal data.
    pub fn summary(&self) -> String {
        let code = self.evidence.code.map(|code| code.to_string());
        let parts = [
            Some(self.status.as_str()),
            self.bounce.map(BounceKind::as_str),
            code.as_deref(),
            self.evidence.enhanced.as_deref(),
            self.evidence.feedback_type.as_deref(),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}
