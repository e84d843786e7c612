//! Sessions of browsers: the token is kept in a cookie that scripts can't read.

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::COOKIE;
use crate::{
    api::{
        ApiState, Caller,
        problem::{Json, Problem},
    },
    config::Role,
};

/// Twelve hours: a shift.
const LASTS: u32 = 12 * 3600;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(sign_in, sign_out))
}

pub(crate) fn guarded() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(signed_in))
}

/// A token to sign in with.
#[derive(Deserialize, ToSchema)]
struct SignIn {
    /// The token.
    token: String,
}

/// What the caller may do.
#[derive(Serialize, ToSchema)]
struct Session {
    /// `support`, `auditor` or `operator`; null: everything.
    role: Option<&'static str>,
}

/// Sign in
///
/// Stores the token in a cookie that the browser sends with every request of usher's own pages.
#[utoipa::path(post, path = "/api/session", tag = "session", request_body = SignIn, responses(
    (status = 204, description = "Signed in", headers(("set-cookie" = String))),
    Problem,
))]
async fn sign_in(
    State(api): State<ApiState>,
    headers: HeaderMap,
    Json(sign_in): Json<SignIn>,
) -> Result<impl IntoResponse, Problem> {
    api.guard.check_origin(&headers, false)?;
    if api.guard.is_open() {
        return Ok(answer(&headers, "", 0));
    }
    // The characters that a cookie may contain (RFC 6265 section 4.1.1).
    let fits = sign_in.token.bytes().all(|b| b.is_ascii_graphic() && !b"\",;\\".contains(&b));
    if !fits {
        return Err(Problem::unauthorized());
    }
    api.guard.caller(&sign_in.token)?;
    Ok(answer(&headers, &sign_in.token, LASTS))
}

/// Sign out
#[utoipa::path(delete, path = "/api/session", tag = "session", responses(
    (status = 204, description = "Signed out", headers(("set-cookie" = String))),
    Problem,
))]
async fn sign_out(
    State(api): State<ApiState>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    api.guard.check_origin(&headers, false)?;
    Ok(answer(&headers, "", 0))
}

/// Check the session
#[utoipa::path(get, path = "/api/session", tag = "session", responses(
    (status = 200, description = "The token or cookie is valid", body = Session),
    Problem,
))]
async fn signed_in(Extension(caller): Extension<Caller>) -> axum::Json<Session> {
    axum::Json(Session { role: caller.role.map(Role::as_str) })
}

fn answer(headers: &HeaderMap, token: &str, lasts: u32) -> impl IntoResponse + use<> {
    // TLS ends before usher, and the page knows that it did.
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let secure =
        if origin.is_some_and(|origin| origin.starts_with("https://")) { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={token}; Path=/; Max-Age={lasts}; HttpOnly; SameSite=Strict{secure}");
    (StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, cookie)]))
}
