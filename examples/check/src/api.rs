//! OS's APIs, each with a cheap request that needs a token.

pub(crate) struct Api {
    pub(crate) name: &'static str,
    /// A path with its query. Some lists are open to anyone and would say nothing about the project.
    pub(crate) path: &'static str,
}

#[rustfmt::skip]
pub(crate) const APIS: [Api; 11] = [
    Api { name: "Names", path: "/search/names/v1/find?query=Bath&maxresults=1" },
    Api { name: "Places", path: "/search/places/v1/postcode?postcode=SO160AS&maxresults=1" },
    Api { name: "Linked Identifiers", path: "/search/links/v1/productVersionInfo/BLPU_UPRN_TopographicArea_TOID_5" },
    Api { name: "Maps (raster)", path: "/maps/raster/v1/zxy/Road_3857/7/63/42.png" },
    Api { name: "Maps (WMTS)", path: "/maps/raster/v1/wmts?service=WMTS&request=GetCapabilities" },
    Api { name: "Vector Tiles", path: "/maps/vector/v1/vts" },
    Api { name: "NGD tiles", path: "/maps/vector/ngd/ota/v1/collections/ngd-base/tiles/3857/7/42/63" },
    Api { name: "NGD features", path: "/features/ngd/ofa/v1/collections/bld-fts-building-1/items?limit=1" },
    Api { name: "Features (WFS)", path: "/features/v1/wfs?service=WFS&request=GetCapabilities&version=2.0.0" },
    Api { name: "Downloads", path: "/downloads/v1/dataPackages" },
    Api { name: "OS Net", path: "/positioning/osnet/v1/rinex" },
];
