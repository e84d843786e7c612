//! Error responses: problem details (RFC 9457).

use std::borrow::Cow;

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{RefOr, Response as Documented},
};

use crate::event::exact;

pub(crate) const PROBLEM: &str = "application/problem+json";

/// An error response.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// The HTTP status code.
    #[serde(serialize_with = "code")]
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    status: StatusCode,
    /// Meaning of the status code.
    title: &'static str,
    /// What is wrong with this request.
    detail: String,
    /// Invalid fields of the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    #[serde(skip)]
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

/// An invalid field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// Name of the field.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

fn code<S: serde::Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { status, title, detail: detail.into(), errors: Vec::new(), header: None }
    }

    /// Some fields of the body are invalid.
    pub fn invalid(errors: Vec<Fault>) -> Self {
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "some fields are invalid");
        Self { errors, ..problem }
    }

    /// Nothing has this id.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found")
    }

    /// The token is missing or invalid.
    pub fn unauthorized() -> Self {
        let problem = Self::new(StatusCode::UNAUTHORIZED, "a valid bearer token is required");
        problem.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// A service did not answer. The error's text is only for the log.
    pub fn unavailable(service: &'static str, error: &dyn std::fmt::Display) -> Self {
        tracing::warn!(service, %error, "a request could not be answered");
        let detail = format!("{service} does not answer; try again later");
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.with(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// Adds a header.
    #[must_use]
    pub fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        headers.extend(self.header.map(|header| *header));
        response
    }
}

/// Documents the default response of handlers: a problem.
impl IntoResponses for Problem {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Documented>> {
        use utoipa::openapi::{Content, ResponseBuilder, schema::Ref};
        let schema = Ref::from_schema_name("Problem");
        let response = ResponseBuilder::new()
            .description("A problem (RFC 9457)")
            .content(PROBLEM, Content::new(Some(schema)));
        [("default".to_owned(), response.build().into())].into()
    }
}

macro_rules! from_rejection {
    ($($rejection:ty),*) => {$(
        impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Self {
                Self::new(rejection.status(), rejection.body_text())
            }
        }
    )*};
}
from_rejection!(BytesRejection, JsonRejection, PathRejection, QueryRejection);

/// A JSON object as body. Anything else gives a [`Problem`].
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await?;
        // serde would also accept a list of the values.
        let is_list = body.trim_ascii_start().starts_with(b"[");
        // Nor may it round the numbers.
        let body = match exact(&body) {
            Cow::Borrowed(_) => body.into(),
            Cow::Owned(exact) => exact.into(),
        };
        let request = Request::from_parts(parts, body);
        let axum::Json(read) = axum::Json::from_request(request, state).await?;
        match is_list {
            false => Ok(Self(read)),
            true => Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the body is a list, not an object",
            )),
        }
    }
}

/// The query. An invalid one gives a [`Problem`].
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(axum::extract::Query::from_request_parts(parts, state).await?.0))
    }
}

/// A path parameter. An invalid one gives a [`Problem`].
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(axum::extract::Path::from_request_parts(parts, state).await?.0))
    }
}
