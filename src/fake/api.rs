//! OS's APIs, by their paths.

use super::answer::FakeAnswer;
use super::request::ReceivedRequest;
use super::sample;

/// An API, or one of several interfaces to it.
pub(super) struct Api {
    /// The beginning of its paths.
    prefix: &'static str,
    /// OS counts requests by API, so interfaces to the same data have the same name.
    name: &'static str,
    /// Whether its faults come as OWS exception reports.
    pub(super) sends_ows: bool,
    sample: fn(&ReceivedRequest) -> FakeAnswer,
}

/// The longer of two overlapping prefixes comes first. The last rows are for paths that a test makes up.
#[rustfmt::skip]
const APIS: [Api; 15] = [
    Api { prefix: "/maps/raster/v1/wmts", name: "maps", sends_ows: true, sample: sample::wmts },
    Api { prefix: "/maps/raster/", name: "maps", sends_ows: false, sample: sample::raster_tile },
    Api { prefix: "/maps/vector/ngd/", name: "ngd-tiles", sends_ows: false, sample: sample::vector_tiles },
    Api { prefix: "/maps/vector/", name: "vector-tiles", sends_ows: true, sample: sample::vector_tiles },
    Api { prefix: "/features/ngd/", name: "ngd-features", sends_ows: false, sample: sample::features },
    Api { prefix: "/features/v1/wfs", name: "features", sends_ows: true, sample: sample::wfs },
    Api { prefix: "/search/names/", name: "names", sends_ows: false, sample: sample::names },
    Api { prefix: "/search/places/", name: "places", sends_ows: false, sample: sample::places },
    Api { prefix: "/search/links/", name: "links", sends_ows: false, sample: sample::links },
    Api { prefix: "/downloads/v1/", name: "downloads", sends_ows: false, sample: sample::downloads },
    Api { prefix: "/maps/", name: "", sends_ows: false, sample: sample::path },
    Api { prefix: "/features/", name: "", sends_ows: false, sample: sample::path },
    Api { prefix: "/search/", name: "", sends_ows: false, sample: sample::path },
    Api { prefix: "/downloads/", name: "", sends_ows: false, sample: sample::path },
    Api { prefix: "/positioning/", name: "net", sends_ows: false, sample: sample::net },
];

impl Api {
    /// The API of a path. Other paths of OS's host get its landing page.
    pub(super) fn of(path: &str) -> Option<&'static Self> {
        APIS.iter().find(|api| path.starts_with(api.prefix))
    }

    /// The name by which requests for this path are counted.
    pub(super) fn name_of(path: &str) -> &'static str {
        Self::of(path).map_or("", |api| api.name)
    }

    /// What the API sends for a good request: short and made up, in its format.
    pub(super) fn sample(&self, request: &ReceivedRequest) -> FakeAnswer {
        (self.sample)(request)
    }
}
