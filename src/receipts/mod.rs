//! Receipts: reports about mail that the mail server took, matched to its delivery and stored beside the
//! delivery's records.

mod classify;
mod follow_up;
mod mailbox;
mod report;
mod return_path;
mod ses;
mod sns;

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};

pub use follow_up::{FollowUp, kinds_of_receipts};
pub use mailbox::{MailboxReader, test as test_mailbox};
pub(crate) use report::MAX_BYTES;
pub use return_path::ReturnPath;
pub use sns::{Opened, Refused, Sns};

use crate::{
    audit::{
        Audit, AuditError, BounceKind, Evidence, Receipt, ReceiptStatus, Record, Suppression,
        SuppressionReason, store::MongoAudit,
    },
    config::RateLimit,
    routing::{ChannelKind, DeliveryId, Identity},
};
use report::Report;

/// Message-IDs in one report that are looked up.
const MAX_CANDIDATES: usize = 10;
/// A report that was written this recently may be about a mail whose record is still to be written.
const EARLY: SignedDuration = SignedDuration::from_hours(1);

/// Takes reports in.
pub struct Intake<'a> {
    pub audit: &'a MongoAudit,
    pub identity: &'a Identity,
    /// How long a receipt is kept whose delivery has no record.
    pub retention: Duration,
    /// Soft bounces within a period after which an address is suppressed.
    pub suppress_after: Option<RateLimit>,
}

/// What became of a message.
#[derive(Debug)]
pub enum Taken {
    Recorded(Box<Receipt>),
    /// The same was reported before.
    Known(Box<Receipt>),
    Ignored(Ignored),
    /// It is about a mail of usher's that has no record yet: it has to be given again.
    Early(DeliveryId),
}

/// Why a message gives no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    NotAReport,
    TooManyParts,
    AutoReply,
    MailingList,
    ReadReceipt,
    /// The server goes on trying.
    Delayed,
    /// It went to a server that makes no reports.
    Relayed,
    /// A feedback report that is no complaint, such as `not-spam`.
    NoComplaint,
    /// The text of a server has neither a code nor words that are known.
    NoCode,
    /// It names no mail that usher sent.
    UnknownMail,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAReport => "it is no report about a mail",
            Self::TooManyParts => "it has too many parts",
            Self::AutoReply => "it is an automatic reply",
            Self::MailingList => "it comes from a mailing list",
            Self::ReadReceipt => "it is a read receipt",
            Self::Delayed => "the server goes on trying",
            Self::Relayed => "the mail went to a server that makes no reports",
            Self::NoComplaint => "it is a feedback report, but no complaint",
            Self::NoCode => "it says neither a code nor a reason that is known",
            Self::UnknownMail => "it names no mail that was sent",
        })
    }
}

/// What a provider reports about one mail, and how it names the mail.
#[derive(Debug)]
struct Reported {
    report: Report,
    /// In angle brackets.
    message_ids: Vec<String>,
    /// The provider's own id, as its reply to the mail has it.
    relay_id: Option<String>,
    recipients: Vec<String>,
    sent_at: Option<Timestamp>,
}

/// The delivery that a report is about.
struct Match {
    delivery: DeliveryId,
    matched_by: &'static str,
    record: Option<Record>,
}

impl Intake<'_> {
    /// Takes in one message; safe to repeat.
    ///
    /// # Errors
    /// The audit does not answer.
    pub async fn take(&self, raw: &[u8]) -> Result<Taken, AuditError> {
        let raw = &raw[..raw.len().min(MAX_BYTES)];
        let report = match report::read(raw) {
            Ok(report) => report,
            Err(ignored) => return Ok(Taken::Ignored(ignored)),
        };
        let found = self.find_delivery(raw).await?;
        let written_at = report.written_at;
        self.record(report, found, written_at).await
    }

    /// Takes in one notification of Amazon SES; safe to repeat.
    ///
    /// # Errors
    /// The audit does not answer.
    pub async fn take_ses(&self, message: &str) -> Result<Taken, AuditError> {
        match ses::read(message) {
            Ok(reported) => self.take_reported(reported).await,
            Err(ignored) => Ok(Taken::Ignored(ignored)),
        }
    }

    /// Takes in what a provider reports.
    async fn take_reported(&self, reported: Reported) -> Result<Taken, AuditError> {
        let Reported { report, message_ids, relay_id, recipients, sent_at } = reported;
        let mut found = self.find_by_message_id(message_ids).await?;
        if let (false, Some(relay_id)) = (matches!(found, Found::Match(_)), relay_id) {
            let hashes: Vec<String> =
                recipients.iter().map(|address| self.identity.recipient_hash(address)).collect();
            let known = self.audit.sent_as(&relay_id, &hashes, sent_at).await?;
            if let Some(record) = known {
                let delivery = record.delivery_id.clone();
                let (matched_by, record) = ("relay_id", Some(record));
                found = Found::Match(Box::new(Match { delivery, matched_by, record }));
            }
        }
        self.record(report, found, sent_at).await
    }

    async fn record(
        &self,
        report: Report,
        found: Found,
        written_at: Option<Timestamp>,
    ) -> Result<Taken, AuditError> {
        let now = crate::clock::now();
        let is_early = written_at.is_some_and(|at| now.duration_since(at) < EARLY);
        let found = match found {
            // Without the record nobody knows whose address bounced.
            Found::Match(found) if is_early && found.record.is_none() => {
                return Ok(Taken::Early(found.delivery));
            }
            Found::WithoutRecord(delivery) if is_early => return Ok(Taken::Early(delivery)),
            Found::Match(found) => *found,
            Found::WithoutRecord(_) | Found::Nothing => {
                return Ok(Taken::Ignored(Ignored::UnknownMail));
            }
        };
        let record = found.record.as_ref();
        let channel = record.and_then(|record| record.channel);
        let domain = record.and_then(|record| record.recipient.rsplit_once('@'));
        let retention = SignedDuration::try_from(self.retention).unwrap_or(SignedDuration::MAX);
        let purge_at = now.checked_add(retention).unwrap_or(Timestamp::MAX);
        let receipt = Receipt {
            id: Receipt::id(&found.delivery, report.status, report.bounce),
            delivery_id: found.delivery,
            recipient_hash: record.map(|record| record.recipient_hash.clone()),
            route: record.map(|record| record.route.clone()),
            relay: record.and_then(|record| record.relay.clone()),
            domain: domain.map(|(_, domain)| domain.to_lowercase()),
            status: report.status,
            bounce: report.bounce,
            evidence: Evidence {
                matched_by: found.matched_by.to_owned(),
                diagnostic: report.evidence.diagnostic.filter(|_| {
                    // An erased person's address does not come back.
                    record.is_none_or(|record| record.erased_at.is_none())
                }),
                ..report.evidence
            },
            at: now,
            follow_up_at: Some(now),
            purge_at: record.map_or(purge_at, |record| record.purge_at),
        };
        let receipt = Box::new(receipt);
        if self.audit.has_receipt(&receipt.id).await? {
            return Ok(Taken::Known(receipt));
        }
        // Before the receipt is stored: then the same report does nothing any more, not even after an
        // operator has removed the entry.
        self.suppress(&receipt, channel).await?;
        crash_point!("after_report_suppressed");
        let is_new = self.audit.put_receipt(&receipt).await?;
        Ok(if is_new { Taken::Recorded(receipt) } else { Taken::Known(receipt) })
    }

    /// Suppresses the address, if the report says that mail to it is in vain or unwanted.
    async fn suppress(
        &self,
        receipt: &Receipt,
        channel: Option<ChannelKind>,
    ) -> Result<(), AuditError> {
        let (Some(hash), Some(channel)) = (&receipt.recipient_hash, channel) else { return Ok(()) };
        let now = receipt.at;
        let (reason, until) = match (receipt.status, receipt.bounce, self.suppress_after) {
            (ReceiptStatus::Complained, ..) => (SuppressionReason::Complaint, None),
            (_, Some(BounceKind::Hard), _) => (SuppressionReason::HardBounce, None),
            (_, Some(BounceKind::Soft), Some(limit)) => {
                let before = self.audit.soft_bounces(hash, limit.period).await?;
                if before.saturating_add(1) < limit.count {
                    return Ok(());
                }
                let period = SignedDuration::try_from(limit.period).unwrap_or(SignedDuration::MAX);
                (SuppressionReason::SoftBounces, now.checked_add(period).ok())
            }
            _ => return Ok(()),
        };
        let entry = Suppression {
            id: Suppression::id(channel, hash),
            channel,
            recipient_hash: hash.clone(),
            reason,
            note: receipt.summary(),
            delivery_id: Some(receipt.delivery_id.clone()),
            since: now,
            until,
            changed_at: now,
        };
        let known = self.audit.suppression(&entry.id).await?;
        match entry.over(known.as_ref(), now) {
            Some(entry) => self.audit.put_suppression(&entry).await,
            None => Ok(()),
        }
    }

    /// By the return path, which nobody else can make, else by the Message-ID of a record.
    async fn find_delivery(&self, raw: &[u8]) -> Result<Found, AuditError> {
        if let Some(delivery) = return_path::find(raw, self.identity) {
            let record = self.audit.last(&delivery).await?;
            let matched_by = "return_path";
            return Ok(Found::Match(Box::new(Match { delivery, matched_by, record })));
        }
        self.find_by_message_id(message_ids(raw)).await
    }

    async fn find_by_message_id(&self, message_ids: Vec<String>) -> Result<Found, AuditError> {
        let mut without = Found::Nothing;
        for message_id in message_ids.into_iter().take(MAX_CANDIDATES) {
            let Some(delivery) = DeliveryId::from_message_id(&message_id) else { continue };
            match self.audit.last(&delivery).await? {
                Some(record) if has_message_id(&record, &message_id) => {
                    let record = Some(record);
                    let matched_by = "message_id";
                    return Ok(Found::Match(Box::new(Match { delivery, matched_by, record })));
                }
                Some(_) => {}
                None => without = Found::WithoutRecord(delivery),
            }
        }
        Ok(without)
    }
}

enum Found {
    Match(Box<Match>),
    /// A Message-ID has the form of usher's, and there is no record.
    WithoutRecord(DeliveryId),
    Nothing,
}

/// The record of an attempt whose process died has no Message-ID.
fn has_message_id(record: &Record, message_id: &str) -> bool {
    record.message_id.as_deref().is_none_or(|known| known.eq_ignore_ascii_case(message_id))
}

/// The different Message-IDs of usher's form in a text.
fn message_ids(raw: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for at in memchr::memchr_iter(b'<', raw) {
        let Some(rest) = raw.get(at..raw.len().min(at + 300)) else { continue };
        let end = memchr::memchr(b'>', rest).unwrap_or_default();
        let Ok(text) = str::from_utf8(&rest[..=end]) else { continue };
        if DeliveryId::from_message_id(text).is_some() && !found.iter().any(|one| one == text) {
            found.push(text.to_owned());
        }
        if found.len() == MAX_CANDIDATES {
            break;
        }
    }
    found
}
