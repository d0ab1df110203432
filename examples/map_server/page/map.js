// The map, and a banner that is shown while the map cannot be refreshed.

import { Map as MapView, NavigationControl, AttributionControl } from "/maplibre/maplibre-gl.mjs";
import { FailedTiles } from "/failed.js";
import { Tokens } from "/token.js";

const SOURCE = "os";
// Great Britain.
const BOUNDS = [[-10.8, 49.3], [3.5, 61.4]];

const container = document.getElementById("map");
const banner = document.getElementById("banner");
const { tiles, overlay } = container.dataset;
const tokens = new Tokens("/token");

// The token is sent to the API's origin only. Parsed origins are compared, so that no lookalike host passes.
const api = new URL(tiles).origin;
const isForApi = (url) => new URL(url, location.href).origin === api;

let failed; // Undefined until there is a map.

function updateBanner() {
    const inTrouble = tokens.inTrouble || Boolean(failed?.inTrouble);
    // Set only on a change, because screen readers read each update aloud.
    if (banner.hidden === inTrouble) {
        banner.textContent = inTrouble
            ? "The map cannot be refreshed at the moment. It will resume as soon as it can."
            : "";
        banner.hidden = !inTrouble;
    }
}

tokens.addEventListener("change", updateBanner);

// Without a token the map has no tiles to show.
await tokens.usable();

// The token of each tile request, by URL. A 401 refuses that token, which may no longer be the current one.
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
    // Without a usable token, the tile request waits.
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
failed.addEventListener("change", updateBanner);

map.on("error", ({ error, tile, sourceId }) => {
    if (!tile || sourceId !== SOURCE) {
        console.error(error); // MapLibre does this itself only if no listener is registered.
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

// Attribution that OS requires on its maps: the copyright with the year, the terms, and a link to report errors.
//
// OS's branding guide also asks for its logo. The logo is not included here, because only OS can provide it. See
// https://docs.os.uk/os-apis/core-concepts/os-api-branding.
function attribution() {
    const link = (href, text) => `<a href="${href}" target="_blank" rel="noopener">${text}</a>`;
    return [
        `Contains OS data © Crown copyright and database rights ${new Date().getFullYear()}`,
        link("https://osdatahub.os.uk/legal/apiTermsConditions", "Terms"),
        link("https://www.ordnancesurvey.co.uk/contact-us", "Report an error"),
    ].join(" | ");
}
