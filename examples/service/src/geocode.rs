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

/// Place, in this service's own words: if OS's API gets another version, its clients need not change.
#[derive(Serialize)]
pub(crate) struct Place {
    name: String,
    kind: String,
    /// Metres on the British National Grid.
    easting: f64,
    northing: f64,
}

#[derive(Deserialize)]
struct Names {
    /// Missing if there are none.
    #[serde(default)]
    results: Vec<NamesResult>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct NamesResult {
    gazetteer_entry: GazetteerEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct GazetteerEntry {
    name1: String,
    local_type: String,
    geometry_x: f64,
    geometry_y: f64,
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
    let body = Body::new(reqwest::Body::from(response));
    let body = to_bytes(body, MAX_RESPONSE_BYTES).await;
    let body = body.map_err(|_| Refusal::unexpected("names", "the response broke off or is too large"))?;
    let names: Names = serde_json::from_slice(&body)
        .map_err(|_| Refusal::unexpected("names", "the response is not a list of names"))?;
    Ok(Json(names.results.into_iter().map(Place::from).collect()))
}

impl From<NamesResult> for Place {
    fn from(NamesResult { gazetteer_entry: entry }: NamesResult) -> Self {
        Self {
            name: entry.name1,
            kind: entry.local_type,
            easting: entry.geometry_x,
            northing: entry.geometry_y,
        }
    }
}
