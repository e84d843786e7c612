//! What happened to one delivery: its attempts, receipts, and what operators did.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        ApiState,
        problem::{Path, Problem},
        reports::{reschedules::recipient, statistics::audit_unavailable},
    },
    audit::{
        Audit, BounceKind, Receipt, Record,
        store::actions::{FieldChange, RecordedAction},
    },
    routing::{ChannelKind, DeliveryId},
};

/// A delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Shown {
    /// Delivery id.
    id: String,
    event_id: String,
    event_type: String,
    /// The event's source, else its queue.
    source: String,
    route: String,
    /// `email` or `sms`.
    channel: Option<&'static str>,
    /// Mail address or phone number; null if it was erased.
    recipient: Option<String>,
    /// Subject of the mail, secrets masked.
    subject: String,
    /// Ids from the event, such as `booking_id`.
    correlation: BTreeMap<String, String>,
    message_id: Option<String>,
    /// Oldest first.
    attempts: Vec<Attempt>,
    /// What became of the mail after the server took it, oldest first.
    receipts: Vec<ReceiptShown>,
    /// What operators did, oldest first.
    actions: Vec<ActionShown>,
}

/// An attempt, or what ended the delivery without one.
#[derive(Debug, Serialize, ToSchema)]
struct Attempt {
    /// From 1.
    number: u32,
    status: &'static str,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// When the next one is due.
    #[schema(value_type = Option<String>, format = DateTime)]
    due: Option<Timestamp>,
    /// Kind of error.
    error: Option<String>,
    /// The error in words.
    message: Option<String>,
    /// The server's last reply.
    reply: Option<Reply>,
}

/// What a mail server said.
#[derive(Debug, Serialize, ToSchema)]
struct Reply {
    server: String,
    /// The command that it answered.
    command: String,
    /// The reply code (RFC 5321 section 4.2).
    code: u16,
    /// The enhanced status code (RFC 3463).
    enhanced: Option<String>,
    text: String,
}

/// A report about a mail that was sent.
#[derive(Debug, Serialize, ToSchema)]
struct ReceiptShown {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `delivered`, `bounced` or `complained`.
    status: &'static str,
    /// Of a bounce: `hard`, `soft` or `blocked`.
    bounce: Option<&'static str>,
    /// The enhanced status code (RFC 3463).
    code: Option<String>,
    /// The server's words.
    detail: Option<String>,
}

/// What an operator did.
#[derive(Debug, Serialize, ToSchema)]
struct ActionShown {
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
    by: String,
    action: String,
    reason: String,
    /// `delivered`, `lost` or `void`, where that was said of parked mail.
    outcome: Option<String>,
    /// The other delivery: what this one became, or what it was made of.
    other: Option<String>,
    /// Fields of the event that were corrected.
    changes: Vec<Change>,
}

/// A corrected field; its values are JSON with secrets masked.
#[derive(Debug, Serialize, ToSchema)]
struct Change {
    field: String,
    before: Option<String>,
    after: Option<String>,
}

/// Show a delivery
///
/// Its attempts with the server's replies, receipts, and what operators did. As `usher audit show`.
#[utoipa::path(
    get, path = "/api/v1/deliveries/{id}", tag = "deliveries",
    params(("id" = String, Path, description = "Delivery id")),
    responses((status = 200, description = "The delivery", body = Shown), Problem)
)]
pub(super) async fn show(
    State(api): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    let delivery = DeliveryId::from_stored(&id).map_err(|_| Problem::not_found())?;
    let unavailable = |error| audit_unavailable(&error);
    let records = api.audit.history(&delivery).await.map_err(unavailable)?;
    let last = api.audit.last(&delivery).await.map_err(unavailable)?;
    let Some(last) = last.or_else(|| records.last().cloned()) else {
        return Err(Problem::not_found());
    };
    let of_it = std::slice::from_ref(&delivery);
    let receipts = api.audit.receipts_of(of_it).await.map_err(unavailable)?;
    let actions = api.audit.actions_on(delivery.as_str()).await.map_err(unavailable)?;
    Ok(Json(Shown {
        id,
        event_id: last.event.id,
        event_type: last.event.kind,
        source: last.event.source,
        route: last.route,
        channel: last.channel.map(ChannelKind::as_str),
        recipient: recipient(last.recipient),
        subject: last.subject,
        correlation: last.correlation,
        message_id: last.message_id,
        attempts: records.into_iter().map(Attempt::from).collect(),
        receipts: receipts.into_iter().map(ReceiptShown::from).collect(),
        actions: actions.into_iter().map(|one| ActionShown::of(one, &delivery)).collect(),
    }))
}

impl From<Record> for Attempt {
    fn from(record: Record) -> Self {
        let (error, message) = record.error.map(|error| (error.kind, error.message)).unzip();
        let reply = record.smtp.map(|smtp| Reply {
            server: smtp.server,
            command: smtp.command,
            code: smtp.code,
            enhanced: smtp.enhanced,
            text: smtp.reply,
        });
        Self {
            number: record.attempt,
            status: record.status.as_str(),
            at: record.at,
            due: record.due,
            error,
            message,
            reply,
        }
    }
}

impl From<Receipt> for ReceiptShown {
    fn from(receipt: Receipt) -> Self {
        Self {
            at: receipt.at,
            status: receipt.status.as_str(),
            bounce: receipt.bounce.map(BounceKind::as_str),
            code: receipt.evidence.enhanced,
            detail: receipt.evidence.diagnostic,
        }
    }
}

impl ActionShown {
    fn of(done: RecordedAction, delivery: &DeliveryId) -> Self {
        let is_origin = done.target == delivery.as_str();
        let other = if is_origin { done.became } else { Some(done.target) };
        let change = |FieldChange { field, before, after }| Change { field, before, after };
        Self {
            at: done.at,
            by: done.by,
            action: done.action,
            reason: done.reason,
            outcome: done.outcome,
            other,
            changes: done.changes.into_iter().map(change).collect(),
        }
    }
}
