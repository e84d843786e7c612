//! Addresses that get no mail any more: who is on the list, and what operators change.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState, Caller,
    decision::{DecisionRequest, decided},
    problem::{Fault, Json as Body, Path, Problem, Query},
    reports::pagination::{Page, Pages},
};
use crate::{
    audit::{self, AuditError, Suppression, store::suppressions::SuppressionFilter},
    delivery::suppressed::Suppressor,
    routing::ChannelKind,
};

pub(super) fn for_support() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_suppressions))
}

pub(super) fn for_operators() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(add_suppression)).routes(routes!(remove_suppression))
}

/// Selects entries in force.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SuppressionsQuery {
    /// Only the entry of this mail address or phone number.
    recipient: Option<String>,
    /// Only addresses of this channel.
    #[param(inline)]
    channel: Option<AddressKind>,
    /// Only entries with this reason.
    #[param(inline)]
    reason: Option<SuppressedFor>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AddressKind {
    Email,
    Sms,
}

/// Why an address gets no mail.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SuppressedFor {
    /// The address does not exist.
    HardBounce,
    /// Several bounces in a row.
    SoftBounces,
    /// The mail was called spam.
    Complaint,
    /// A person decided it.
    Manual,
}

/// An address to suppress, why, and who wants it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSuppression {
    /// Mail address, or phone number in E.164 form.
    address: String,
    /// When it ends by itself; absent: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Recorded in the audit and in the entry.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
    /// Person who decides, recorded in the audit beside the caller of the API.
    #[schema(min_length = 1, max_length = 500)]
    by: Option<String>,
}

/// An address that gets no mail.
#[derive(Debug, Serialize, ToSchema)]
struct SuppressedAddress {
    /// Keyed hash of the address.
    recipient_hash: String,
    channel: AddressKind,
    reason: SuppressedFor,
    /// The codes of the report, or the operator's reason.
    note: String,
    /// The delivery whose report caused it.
    delivery_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When it ends by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

impl From<ChannelKind> for AddressKind {
    fn from(channel: ChannelKind) -> Self {
        match channel {
            ChannelKind::Email => Self::Email,
            ChannelKind::Sms => Self::Sms,
        }
    }
}

impl From<AddressKind> for ChannelKind {
    fn from(channel: AddressKind) -> Self {
        match channel {
            AddressKind::Email => Self::Email,
            AddressKind::Sms => Self::Sms,
        }
    }
}

impl From<audit::SuppressionReason> for SuppressedFor {
    fn from(reason: audit::SuppressionReason) -> Self {
        match reason {
            audit::SuppressionReason::HardBounce => Self::HardBounce,
            audit::SuppressionReason::SoftBounces => Self::SoftBounces,
            audit::SuppressionReason::Complaint => Self::Complaint,
            audit::SuppressionReason::Manual => Self::Manual,
        }
    }
}

impl From<SuppressedFor> for audit::SuppressionReason {
    fn from(reason: SuppressedFor) -> Self {
        match reason {
            SuppressedFor::HardBounce => Self::HardBounce,
            SuppressedFor::SoftBounces => Self::SoftBounces,
            SuppressedFor::Complaint => Self::Complaint,
            SuppressedFor::Manual => Self::Manual,
        }
    }
}

impl From<Suppression> for SuppressedAddress {
    fn from(entry: Suppression) -> Self {
        Self {
            recipient_hash: entry.recipient_hash,
            channel: entry.channel.into(),
            reason: entry.reason.into(),
            note: entry.note,
            delivery_id: entry.delivery_id.map(|id| id.to_string()),
            since: entry.since,
            until: entry.until,
        }
    }
}

/// List suppressed addresses
///
/// Newest first, as `usher suppressions list`. The list has hashes in place of addresses.
#[utoipa::path(
    get, path = "/api/v1/suppressions", tag = "suppressions",
    params(SuppressionsQuery, Pages),
    responses((status = 200, description = "A page", body = Page<SuppressedAddress>), Problem)
)]
async fn list_suppressions(
    State(api): State<ApiState>,
    Query(query): Query<SuppressionsQuery>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Page<SuppressedAddress>>, Problem> {
    let window = pages.window()?;
    let recipient = query.recipient.as_deref().map(|address| suppressor(&api).recipient(address));
    let recipient = recipient.transpose().map_err(|fault| invalid("recipient", fault))?;
    let filter = SuppressionFilter {
        recipient_hash: recipient.map(|(_, hash)| hash),
        channel: query.channel.map(ChannelKind::from),
        reason: query.reason.map(audit::SuppressionReason::from),
    };
    let (count, found) = api.audit.active_suppressions(&filter, window).await.map_err(away)?;
    let found = found.into_iter().map(SuppressedAddress::from).collect();
    Ok(Json(pages.page_of(count, found, &uri, &headers)?))
}

/// Suppress an address
///
/// As `usher suppressions add`: it gets no more mail. The answer is the entry in force, which is an earlier one
/// where that says as much.
#[utoipa::path(
    post, path = "/api/v1/suppressions", tag = "suppressions",
    request_body = NewSuppression,
    responses((status = 200, description = "It is on the list", body = SuppressedAddress), Problem)
)]
async fn add_suppression(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<NewSuppression>,
) -> Result<Json<SuppressedAddress>, Problem> {
    let decided = decided(&request.reason, request.by.as_deref(), &caller)?;
    if request.until.is_some_and(|until| until <= crate::clock::now()) {
        return Err(invalid("until", "must be in the future".to_owned()));
    }
    let suppressor = suppressor(&api);
    let entry = suppressor.entry(&request.address, &decided.reason, request.until);
    let entry = entry.map_err(|fault| invalid("address", fault))?;
    let hash = entry.recipient_hash.clone();
    suppressor.suppress(entry, &decided.by, &decided.reason).await.map_err(away)?;
    let stored = suppressor.find(&hash).await.map_err(away)?;
    // Another operator may have removed it a moment ago.
    let gone = || Problem::new(StatusCode::CONFLICT, "it was removed meanwhile");
    stored.map(|entry| Json(entry.into())).ok_or_else(gone)
}

/// Remove an address from the list
///
/// As `usher suppressions remove`: it gets mail again. The answer is the entry that has ended.
#[utoipa::path(
    post, path = "/api/v1/suppressions/{recipient_hash}/remove", tag = "suppressions",
    params(("recipient_hash" = String, Path, description = "Hash of the address, as in the list")),
    request_body = DecisionRequest,
    responses((status = 200, description = "It has ended", body = SuppressedAddress), Problem)
)]
async fn remove_suppression(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(recipient_hash): Path<String>,
    Body(request): Body<DecisionRequest>,
) -> Result<Json<SuppressedAddress>, Problem> {
    let decided = decided(&request.reason, request.by.as_deref(), &caller)?;
    let suppressor = suppressor(&api);
    let entry = suppressor.find(&recipient_hash).await.map_err(away)?;
    let entry = entry.ok_or_else(Problem::not_found)?;
    let ended = suppressor.end(entry, &decided.by, &decided.reason).await.map_err(away)?;
    Ok(Json(ended.into()))
}

fn suppressor(api: &ApiState) -> Suppressor<'_> {
    Suppressor { audit: &api.audit, identity: &api.identity }
}

fn invalid(field: &str, detail: String) -> Problem {
    Problem::invalid(vec![Fault { field: field.to_owned(), detail }])
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn away(error: AuditError) -> Problem {
    Problem::unavailable("mongodb", &error)
}
