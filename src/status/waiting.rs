//! Deliveries that wait now, found by what they are about.

use std::{collections::HashSet, fmt::Display};

use jiff::SignedDuration;

use super::in_time;
use crate::{
    audit::{AuditError, ReadAudit, Status, store::search::Last},
    ledger::{Ledger, WaitingMark},
    routing::{DeliveryId, Identity},
};

/// The copy that ended a delivery may write its record a moment before another copy marks that it waits.
const OVERLAP: SignedDuration = SignedDuration::from_secs(5);

/// What deliveries that wait are found by; all that is named has to fit.
#[derive(Debug, Clone, Default)]
pub struct WaitingFilter<'f> {
    pub delivery: Option<&'f DeliveryId>,
    pub booking: Option<&'f str>,
    /// Event id.
    pub event: Option<&'f str>,
    pub recipient_hash: Option<&'f str>,
}

impl WaitingFilter<'_> {
    fn keys(&self, identity: &Identity) -> Vec<String> {
        let named = [
            ("delivery", self.delivery.map(DeliveryId::as_str)),
            ("event", self.event),
            ("booking_id", self.booking),
            ("recipient", self.recipient_hash),
        ];
        let named = named.into_iter().filter_map(|(field, value)| Some((field, value?)));
        named.map(|(field, value)| identity.waiting_key(field, value)).collect()
    }
}

/// The deliveries that wait, those that were marked last first; none where the filter names nothing. Each is
/// in the ledger until its mark expires, so those that went on since are left out.
///
/// # Errors
/// Why they can't be told.
pub async fn waiting(
    ledger: &dyn Ledger,
    audit: &dyn ReadAudit,
    identity: &Identity,
    filter: &WaitingFilter<'_>,
) -> Result<Vec<WaitingMark>, String> {
    let read = async {
        let mut keys = filter.keys(identity).into_iter();
        let Some(first) = keys.next() else { return Ok::<_, String>(Vec::new()) };
        let mut marks = ledger.waiting(&first).await.map_err(text)?;
        for key in keys {
            let others = ledger.waiting(&key).await.map_err(text)?;
            let others: HashSet<_> = others.iter().map(|mark| &mark.delivery_id).collect();
            marks.retain(|mark| others.contains(&mark.delivery_id));
        }
        let ids: Vec<&str> = marks.iter().map(|mark| mark.delivery_id.as_str()).collect();
        let last = audit.last_of(&ids).await.map_err(|error: AuditError| text(error))?;
        marks.retain(|mark| last.get(&mark.delivery_id).is_none_or(|last| waits(mark, last)));
        Ok(marks)
    };
    in_time(read).await
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Whether a delivery with this last record still waits.
fn waits(mark: &WaitingMark, last: &Last) -> bool {
    match last.status {
        Status::Sent | Status::Simulated => false,
        _ if last.is_final => mark.at > last.at + OVERLAP,
        _ => mark.at > last.at,
    }
}
