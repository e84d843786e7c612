//! Delivery ids on the command line: whole, or their beginning as `audit find` prints it.

use crate::{audit::ReadAudit, failure::Failure, routing::DeliveryId};

/// Ids that are listed where the beginning of an id is ambiguous.
const MAX_CANDIDATES: usize = 5;

/// A whole delivery id.
pub(super) fn delivery_id(text: &str) -> Result<DeliveryId, Failure> {
    DeliveryId::from_stored(text)
        .map_err(|text| Failure::data(format!("{text:?} is not a delivery id")))
}

/// A whole delivery id, or the only one in the audit that begins like this.
pub(super) async fn from_beginning(
    audit: &dyn ReadAudit,
    beginning: &str,
) -> Result<DeliveryId, Failure> {
    if let Ok(id) = DeliveryId::from_stored(beginning) {
        return Ok(id);
    }
    if beginning.is_empty() || !beginning.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::data(format!("{beginning:?} is not a delivery id")));
    }
    let found = audit.ids_with_prefix(beginning, MAX_CANDIDATES).await;
    let mut found = found.map_err(Failure::unavailable)?;
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(Failure::data(format!(
            "no delivery id in the audit begins with {beginning}; one that only waits needs the whole id"
        ))),
        (Some(id), true) => Ok(id),
        (Some(id), false) => {
            let ids: Vec<String> = found.iter().chain([&id]).map(ToString::to_string).collect();
            let ids = ids.join(", ");
            Err(Failure::data(format!("several delivery ids begin with {beginning}: {ids}")))
        }
    }
}
