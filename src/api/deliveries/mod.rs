//! Deliveries: found by what is known of them, and what happened to one.

mod mail;
mod search;
mod show;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::ApiState;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(search::find))
        .routes(routes!(show::show))
        .routes(routes!(mail::mail))
        .routes(routes!(mail::preview))
}
