//! [`Refusal`]: why a request is not served, and the HTTP status that says so.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use raic_storage::StorageError;

use super::{headers::OCTETS, messages::Malformed};

/// Why a request is not served. Clients get its status alone: they read no reasons, and the reason
/// may name clouds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The swissnum is missing or unknown.
    #[error("its swissnum is missing or unknown")]
    Unauthorized,
    /// The secrets are not those that the request needs.
    #[error("its secrets are not those that it needs")]
    Secrets,
    /// The path names no storage index or share.
    #[error("its path names nothing")]
    NoSuchResource,
    /// The client does not take the answer's media type.
    #[error("the answer has a type that it does not accept")]
    NotAcceptable,
    /// The body's media type is not CBOR.
    #[error("its body is not CBOR")]
    MediaType,
    /// The length of the body is not announced.
    #[error("its body has no Content-Length")]
    Length,
    /// The body is longer than the request may have.
    #[error("its body is too long")]
    TooLong,
    /// The body or a header is wrong, for this reason.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The range is not one closed range of bytes, or a body's place in its share is not.
    #[error("its range is not one closed range of bytes")]
    Range,
    /// The upload is to be given up, and its share is complete.
    #[error("the share is complete")]
    Complete,
    /// The body stopped coming.
    #[error("its body stopped coming")]
    Slow,
    /// There is no memory for the body now.
    #[error("there is no memory for its body now")]
    Busy,
    /// The storage server refuses or fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<Malformed> for Refusal {
    fn from(Malformed(why): Malformed) -> Self {
        Self::BadRequest(why)
    }
}

fn of_storage(e: &StorageError) -> StatusCode {
    match e {
        StorageError::NotFound { .. } | StorageError::NoUpload { .. } => StatusCode::NOT_FOUND,
        StorageError::OtherUpload { .. } | StorageError::WriteEnabler { .. } => {
            StatusCode::UNAUTHORIZED
        }
        StorageError::Conflict { .. }
        | StorageError::InTheWay { .. }
        | StorageError::Taken { .. } => StatusCode::CONFLICT,
        StorageError::PastEnd { .. } | StorageError::TooManyPieces { .. } => {
            StatusCode::BAD_REQUEST
        }
        StorageError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        StorageError::QuotaExceeded { .. } | StorageError::TooManyLeases { .. } => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        StorageError::AccountDisabled(_)
        | StorageError::NoAccount(_)
        | StorageError::Draining(_)
        | StorageError::ReadOnly { .. } => StatusCode::FORBIDDEN,
        StorageError::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
        e if e.is_full() => StatusCode::INSUFFICIENT_STORAGE,
        StorageError::Damaged { .. }
        | StorageError::Short { .. }
        | StorageError::Task(_)
        | StorageError::Database(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Secrets | Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchResource => StatusCode::NOT_FOUND,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Length => StatusCode::LENGTH_REQUIRED,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Range => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Complete => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Storage(e) => of_storage(e),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        match status.is_server_error() {
            true => tracing::warn!("a Tahoe client's request gets {status}: {self}"),
            false => tracing::debug!("a Tahoe client's request gets {status}: {self}"),
        }
        // Without a body: the client of 1.20 reads none after some requests, and would never use
        // that connection again. It understands a status only beside this type.
        let mut response = (status, Body::empty()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCTETS));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
