// The map, and a banner for when it cannot be refreshed.

import { Map as MapView, NavigationControl, AttributionControl } from "/maplibre/maplibre-gl.mjs";
import { FailedTiles } from "/failed.js";
import { Tokens } from "/token.js";

const SOURCE = "os";
// Britain.
const BOUNDS = [[-10.8, 49.3], [3.5, 61.4]];

const container = document.getElementById("map");
const banner = document.getElementById("banner");
const { tiles, overlay } = container.dataset;
const tokens = new Tokens("/token");

// The token goes to the one origin that is meant to see it, compared as parsed: no other source of tiles must get it.
const api = new URL(tiles).origin;
const isForApi = (url) => new URL(url, location.href).origin === api;

let failed; // Before there is a map, no tile fails.

function tell() {
    const inTrouble = tokens.inTrouble || Boolean(failed?.inTrouble);
    // Set only when it changes, as it is read out.
    if (banner.hidden === inTrouble) {
        banner.textContent = inTrouble
            ? "The map cannot be refreshed at the moment. It will go on by itself as soon as it can."
            : "";
        banner.hidden = !inTrouble;
    }
}

tokens.addEventListener("change", tell);

// Without a token there is nothing to show.
await tokens.usable();

// Which token each tile was asked for with, in case that it is refused.
const sentWith = new Map();

const map = new MapView({
    container,
    hash: true,
    center: [-2.36, 51.38],
    zoom: 9,
    minZoom: 6,
    maxZoom: 15,
    maxBounds: BOUNDS,
    attributionControl: false,
    style: {
        version: 8,
        sources: {
            [SOURCE]: { type: "raster", tiles: [tiles], tileSize: 256, minzoom: 7, maxzoom: 16, attribution: attribution() },
        },
        layers: [{ id: SOURCE, type: "raster", source: SOURCE }],
    },
    // A tile for which there is no token yet waits for one.
    transformRequest: async (url) => {
        if (!isForApi(url)) {
            return { url };
        }
        const token = await tokens.usable();
        sentWith.set(url, token);
        return { url, headers: { Authorization: `Bearer ${token}` } };
    },
});
map.addControl(new NavigationControl({ showCompass: false }));
map.addControl(new AttributionControl({ compact: false }));

if (overlay) {
    map.once("load", () => {
        map.addSource("overlay", { type: "raster", tiles: [overlay], tileSize: 256 });
        map.addLayer({ id: "overlay", type: "raster", source: "overlay" });
    });
}

failed = new FailedTiles(map, SOURCE);
failed.addEventListener("change", tell);

map.on("error", ({ error, tile, sourceId }) => {
    if (!tile || sourceId !== SOURCE) {
        console.error(error); // As MapLibre does if nobody listens.
        return;
    }
    failed.add(tile);
    if (error.status === 401 && !tokens.refused(sentWith.get(error.url))) {
        failed.retrySoon();
    }
});

map.on("data", ({ tile, sourceId }) => {
    if (tile && sourceId === SOURCE) {
        tokens.accepted();
    }
});

tokens.addEventListener("renewed", () => {
    sentWith.clear();
    failed.retrySoon();
});

// As OS asks for on its map: the copyright with the year, the terms, and where to report what is wrong. Its logo, which its
// guide to branding wants as well, is OS's to give: see https://docs.os.uk/os-apis/core-concepts/os-api-branding.
function attribution() {
    const link = (href, text) => `<a href="${href}" target="_blank" rel="noopener">${text}</a>`;
    return [
        `Contains OS data © Crown copyright and database rights ${new Date().getFullYear()}`,
        link("https://osdatahub.os.uk/legal/apiTermsConditions", "Terms"),
        link("https://www.ordnancesurvey.co.uk/contact-us", "Report an error"),
    ].join(" | ");
}
