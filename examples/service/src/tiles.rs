//! `/tiles/{z}/{x}/{y}?layer=`: map tiles, from the OS Maps API.

use std::{ops::RangeInclusive, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, Query, State},
    response::Response,
};
use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{AGE, CACHE_CONTROL, CONTENT_TYPE, DATE, ETAG, EXPIRES, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED},
};
use serde::Deserialize;

use crate::{Service, refusal::Refusal};

/// Zoom levels with open data. Levels 17 to 20 are premium data, which costs money.
const ZOOM: RangeInclusive<u32> = 7..=16;

/// Headers of the client that OS gets: its validators (RFC 9110, section 8.8), and nothing that says who it is. An
/// `Accept-Encoding` must not be among them, because `reqwest` decodes only what it asked for itself.
const UP: [HeaderName; 2] = [IF_NONE_MATCH, IF_MODIFIED_SINCE];

/// Headers of OS that the client gets.
const DOWN: [HeaderName; 7] = [CONTENT_TYPE, ETAG, LAST_MODIFIED, CACHE_CONTROL, EXPIRES, AGE, DATE];

#[derive(Deserialize)]
pub(crate) struct Style {
    #[serde(default)]
    layer: Layer,
}

/// Allow list of OS's layers.
#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Layer {
    #[default]
    Road,
    Outdoor,
    Light,
}

impl Layer {
    fn name(&self) -> &'static str {
        match self {
            Self::Road => "Road_3857",
            Self::Outdoor => "Outdoor_3857",
            Self::Light => "Light_3857",
        }
    }
}

pub(crate) async fn tile(
    State(service): State<Arc<Service>>,
    Path((z, x, y)): Path<(u32, u32, u32)>,
    Query(Style { layer }): Query<Style>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if !ZOOM.contains(&z) || x >> z != 0 || y >> z != 0 {
        return Err(Refusal::NotFound);
    }
    // The path has numbers and a name from the list above, and no text of the client's.
    let path = format!("/maps/raster/v1/zxy/{}/{z}/{x}/{y}.png", layer.name());
    let tile = service.maps.get(&path, &[], pick(&headers, &UP)).await?;

    let status = tile.status();
    let headers = pick(tile.headers(), &DOWN);
    let is_image = |kind: &http::HeaderValue| kind.as_bytes().starts_with(b"image/");
    if status == StatusCode::OK && !headers.get(CONTENT_TYPE).is_some_and(is_image) {
        // For a path that it does not know, OS sends its landing page.
        return Err(Refusal::upstream("maps", "OS's response is not an image"));
    }
    // The body is passed on as it arrives.
    let mut response = Response::new(Body::new(reqwest::Body::from(tile)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn pick(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let picked = headers.iter().filter(|(name, _)| names.contains(name));
    picked.map(|(name, value)| (name.clone(), value.clone())).collect()
}
