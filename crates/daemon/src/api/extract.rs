//! What handlers take out of requests; what cannot be taken out is refused as everything else is.

use super::Refusal;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// What the path names.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Named(name))
            .map_err(|rejection| Refusal::bad_request(rejection.body_text()))
    }
}

/// What the query says.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, Refusal> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(params)| Params(params))
            .map_err(|rejection| Refusal::bad_request(rejection.body_text()))
    }
}

/// A body of JSON, whatever its declared type.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, Refusal> {
        let body = axum::body::Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
        serde_json::from_slice(&body)
            .map(Json)
            .map_err(Refusal::bad_request)
    }
}
