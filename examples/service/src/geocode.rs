//! `/geocode?q=`: places by name, from the OS Names API.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Query, State},
};
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::{Service, refusal::Refusal};

/// Limit on the query, in characters. The longest place name in Great Britain has 58.
const MAX_QUERY: usize = 100;

/// Limit on OS's response. Ten places take about 10 kB.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

#[derive(Deserialize)]
pub(crate) struct Search {
    q: String,
}

/// Place, read in OS's words and written in this service's own. Its clients need not change if OS's API does.
#[derive(Deserialize, Serialize)]
pub(crate) struct Place {
    #[serde(rename(deserialize = "NAME1"))]
    name: String,
    #[serde(rename(deserialize = "LOCAL_TYPE"))]
    kind: String,
    /// Metres on the British National Grid, as is the northing.
    #[serde(rename(deserialize = "GEOMETRY_X"))]
    easting: f64,
    #[serde(rename(deserialize = "GEOMETRY_Y"))]
    northing: f64,
}

#[derive(Deserialize)]
struct Names {
    /// Missing if there are none.
    #[serde(default)]
    results: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "GAZETTEER_ENTRY")]
    place: Place,
}

pub(crate) async fn geocode(
    State(service): State<Arc<Service>>,
    Query(Search { q }): Query<Search>,
) -> Result<Json<Vec<Place>>, Refusal> {
    let q = q.trim();
    if q.is_empty() || q.chars().count() > MAX_QUERY || q.contains(char::is_control) {
        return Err(Refusal::BadRequest("q must be 1 to 100 characters of text"));
    }
    let query = [("query", q), ("maxresults", "10")];
    let response = service
        .names
        .get("/search/names/v1/find", &query, HeaderMap::new())
        .await?;
    let unusable = |how| Refusal::upstream("names", how);
    let body = to_bytes(Body::new(reqwest::Body::from(response)), MAX_RESPONSE_BYTES).await;
    let body = body.map_err(|_| unusable("OS's response broke off, or is too large"))?;
    let names: Names = serde_json::from_slice(&body).map_err(|_| unusable("OS's response is not a list of names"))?;
    Ok(Json(names.results.into_iter().map(|entry| entry.place).collect()))
}
