//! Sample responses: what each API sends for a good request. Short and made up, but in the API's format.

use serde_json::{Value, json};

use super::answer::FakeAnswer;
use super::request::ReceivedRequest;

const PNG_TILE: &[u8] = include_bytes!("tile.png");

fn as_json(value: &Value) -> FakeAnswer {
    FakeAnswer::json(200, value.to_string())
}

fn as_xml(body: &'static str) -> FakeAnswer {
    FakeAnswer::of_type("application/xml", 200, body)
}

/// For a path that belongs to no known API.
pub(super) fn path(request: &ReceivedRequest) -> FakeAnswer {
    as_json(&json!({"path": request.path}))
}

/// One place, with the name that was asked for.
pub(super) fn names(request: &ReceivedRequest) -> FakeAnswer {
    let name = request.parameter("query").unwrap_or_else(|| "Bath".to_owned());
    search(
        request,
        &json!({"GAZETTEER_ENTRY": {
            "ID": "osgb4000000074564391", "NAMES_URI": "http://data.ordnancesurvey.co.uk/id/4000000074564391",
            "NAME1": name, "TYPE": "populatedPlace", "LOCAL_TYPE": "City",
            "GEOMETRY_X": 375_000.0, "GEOMETRY_Y": 165_000.0, "COUNTRY": "England",
        }}),
    )
}

pub(super) fn places(request: &ReceivedRequest) -> FakeAnswer {
    search(
        request,
        &json!({"DPA": {
            "UPRN": "100000000001", "ADDRESS": "1, FAKE STREET, SOUTHAMPTON, SO16 0AS", "POST_TOWN": "SOUTHAMPTON",
            "POSTCODE": "SO16 0AS",
            "X_COORDINATE": 437_000.0, "Y_COORDINATE": 115_000.0, "COUNTRY_CODE": "E",
        }}),
    )
}

/// The envelope of the Names and Places APIs.
fn search(request: &ReceivedRequest, result: &Value) -> FakeAnswer {
    let query = request.query.as_deref().unwrap_or_default();
    let uri = request.url_of(&format!("{}?{query}", request.path));
    as_json(&json!({
        "header": {"uri": uri, "query": query, "format": "JSON", "maxresults": 100, "offset": 0, "totalresults": 1},
        "results": [result],
    }))
}

pub(super) fn links(_: &ReceivedRequest) -> FakeAnswer {
    as_json(&json!({"linkedIdentifiers": []}))
}

pub(super) fn raster_tile(_: &ReceivedRequest) -> FakeAnswer {
    FakeAnswer::of_type("image/png", 200, PNG_TILE)
}

/// A tile, or the capabilities.
pub(super) fn wmts(request: &ReceivedRequest) -> FakeAnswer {
    match request.parameter("request") {
        Some(operation) if operation.eq_ignore_ascii_case("GetTile") => raster_tile(request),
        _ => as_xml(
            r#"<?xml version="1.0" encoding="UTF-8"?><Capabilities xmlns="http://www.opengis.net/wmts/1.0" version="1.0.0"><Contents/></Capabilities>"#,
        ),
    }
}

/// A tile without layers, which is an empty file, or a description of the tiles.
pub(super) fn vector_tiles(request: &ReceivedRequest) -> FakeAnswer {
    if request.path.contains("/tile/") || request.path.contains("/tiles/") {
        FakeAnswer::of_type("application/vnd.mapbox-vector-tile", 200, "")
    } else {
        as_json(&json!({"name": "Fake tiles", "links": []}))
    }
}

pub(super) fn features(_: &ReceivedRequest) -> FakeAnswer {
    let collection = json!({"type": "FeatureCollection", "links": [], "numberReturned": 0, "features": []});
    FakeAnswer::of_type("application/geo+json", 200, collection.to_string())
}

/// `GeoJSON` if the request asks for it, as OS's own examples do, or the capabilities.
pub(super) fn wfs(request: &ReceivedRequest) -> FakeAnswer {
    match request.parameter("outputFormat") {
        Some(format) if format.eq_ignore_ascii_case("GeoJSON") => features(request),
        _ => as_xml(
            r#"<?xml version="1.0" encoding="UTF-8"?><wfs:WFS_Capabilities xmlns:wfs="http://www.opengis.net/wfs/2.0" version="2.0.0"/>"#,
        ),
    }
}

/// The list of products.
pub(super) fn downloads(request: &ReceivedRequest) -> FakeAnswer {
    as_json(&json!([{
        "id": "OpenNames", "name": "OS Open Names", "version": "2026-10",
        "url": request.url_of("/downloads/v1/products/OpenNames"),
    }]))
}

pub(super) fn net(_: &ReceivedRequest) -> FakeAnswer {
    as_json(&json!({"title": "OS Net API RINEX data years", "description": "Years with RINEX data", "links": []}))
}
