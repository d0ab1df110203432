//! The page in a real browser: what it shows, and which server it sends each request to.

mod browser;
mod proxy;

use std::{
    collections::{HashMap, HashSet},
    f64::consts::{PI, TAU},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use axum::Router;
use base64::{Engine, engine::general_purpose::STANDARD};
use browser::Browser;
use http::{Method, StatusCode, header::AUTHORIZATION};
use map_server::{MapServer, fake_tiles, listener};
use osdatahub_auth::{FakeAnswer, FakeDataHub};
use proxy::{Exchange, Proxy};
use reqwest::Url;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

const KEY: &str = "CanaryKey0123456789";
const SECRET: &str = "CanarySecret456";

/// The colour of the text on the tiles.
const INK: [u8; 3] = [0x45, 0x3c, 0x90];

/// Minimum number of pixels in that colour on two tiles.
const MIN_INK_OF_TWO_TILES: usize = 2_000;

/// The top of the map, in pixels. The page's heading above it has a line in the same colour as the text.
const MAP_TOP: usize = 80;

/// The map's zoom level. The tiles' level is one more.
const ZOOM: u32 = 11;

/// Fixture: the map server, its Data Hub, a server for overlay tiles, and a browser.
struct Stage {
    hub: FakeDataHub,
    overlay: SocketAddr,
    proxy: Proxy,
    browser: Browser,
    url: String,
    _servers: JoinSet<()>,
}

impl Stage {
    async fn start(lifetime: Duration) -> Self {
        let hub = FakeDataHub::start().await.unwrap();
        hub.set_credentials(KEY, SECRET);
        hub.set_lifetime(lifetime);
        fake_tiles::serve(&hub);
        let mut servers = JoinSet::new();
        // This server would accept the token, if the page sent it.
        let cors = [
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Headers", "authorization"),
        ];
        let empty = Router::new().fallback((StatusCode::NO_CONTENT, cors));
        let overlay = serve(&mut servers, empty).await;
        let server = MapServer::of_fake(&hub).unwrap();
        let server = server.with_overlay(&format!("http://{overlay}/{{z}}/{{x}}/{{y}}.png"));
        let server = serve(&mut servers, server.router()).await;
        let proxy = Proxy::start().await;
        let browser = Browser::start(proxy.address).await;
        Self {
            hub,
            overlay,
            proxy,
            browser,
            url: format!("http://{server}/"),
            _servers: servers,
        }
    }

    /// Opens the page at a place.
    async fn open(&self, place: Place) {
        self.browser.open(&format!("{}{}", self.url, place.hash())).await;
    }

    /// Moves the map, without waiting for its tiles.
    async fn go_to(&self, place: Place) {
        self.browser.run(&format!("location.hash = '{}'", place.hash())).await;
    }

    /// Waits until the place's own tile has loaded and tiles are visible.
    async fn wait_for(&self, place: Place) {
        let path = place.tile();
        let shown = async || {
            let loaded = self
                .tiles()
                .iter()
                .any(|tile| tile.status == StatusCode::OK && tile.uri.path() == path);
            loaded && ink(&self.browser.screenshot().await) >= MIN_INK_OF_TWO_TILES
        };
        self.browser.wait_until(&format!("{path} is shown"), shown).await;
    }

    /// Runs a line of JavaScript with `map`, just before the next repaint. The page keeps its map private, so this
    /// patches the method that asks for a repaint.
    async fn run_with_map(&self, line: &str) {
        let script = format!(
            r#"const [done] = arguments;
            import("/maplibre/maplibre-gl.mjs").then(({{ Map }}) => {{
                const {{ triggerRepaint }} = Map.prototype;
                Map.prototype.triggerRepaint = function () {{
                    const map = this;
                    Map.prototype.triggerRepaint = triggerRepaint;
                    {line};
                    done();
                    return map.triggerRepaint();
                }};
                location.hash = location.hash.replace(/[^/]*$/, (longitude) => Number(longitude) + 0.001);
            }});"#
        );
        self.browser.run_async(&script).await;
    }

    async fn wait_for_banner(&self, wanted: bool) {
        let what = if wanted { "a banner" } else { "no banner" };
        self.browser
            .wait_until(what, async || self.has_banner().await == wanted)
            .await;
    }

    async fn has_banner(&self) -> bool {
        let text = self
            .browser
            .run("return document.getElementById('banner').innerText")
            .await;
        text.as_str().unwrap().contains("cannot be refreshed")
    }

    /// The browser's tile requests, without preflights.
    fn tiles(&self) -> Vec<Exchange> {
        self.requests_under("/maps/raster/")
    }

    fn token_requests(&self) -> Vec<Exchange> {
        self.requests_under("/token")
            .into_iter()
            .filter(|exchange| exchange.uri.path() == "/token")
            .collect()
    }

    fn requests_under(&self, path: &str) -> Vec<Exchange> {
        let mut exchanges = self.proxy.exchanges();
        exchanges.retain(|exchange| exchange.method != Method::OPTIONS && exchange.uri.path().starts_with(path));
        exchanges
    }

    /// Asserts the invariant of all these tests: the browser never received the secret, and sent the token only to
    /// the hub.
    async fn assert_no_leak(&self) {
        // The page adds the overlay when its first tiles are drawn.
        let overlay = self.overlay.port();
        let to_overlay = |exchange: &Exchange| exchange.went_to("127.0.0.1", overlay);
        self.browser
            .wait_until("a request to the overlay", async || {
                self.proxy.exchanges().iter().any(to_overlay)
            })
            .await;
        let basic = STANDARD.encode(format!("{KEY}:{SECRET}"));
        let tokens = self.tokens();
        assert!(!tokens.is_empty(), "the page should have received a token");
        let hub = self.hub.origin();
        for exchange in self.proxy.exchanges() {
            let Exchange {
                uri, received, body, ..
            } = &exchange;
            let response = format!("{received:?} {}", String::from_utf8_lossy(body));
            for secret in [KEY, SECRET, basic.trim_end_matches('=')] {
                assert!(!response.contains(secret), "a secret came with the response from {uri}");
            }
            assert!(
                !leaks(&exchange, &hub, &tokens),
                "the token, or a preflight that asks to send it, went to {uri}"
            );
            assert_ne!(
                uri.path(),
                self.hub.token_url().path(),
                "the page should not call the token endpoint"
            );
        }
    }

    /// All tokens that the page received.
    fn tokens(&self) -> HashSet<String> {
        let exchanges = self
            .token_requests()
            .into_iter()
            .filter(|exchange| exchange.status == StatusCode::OK);
        let token = |exchange: Exchange| {
            let body: Value = serde_json::from_slice(&exchange.body).unwrap();
            body["access_token"].as_str().unwrap().to_owned()
        };
        exchanges.map(token).collect()
    }
}

/// Whether a token, or a preflight that asks to send one, went anywhere but to the hub.
fn leaks(exchange: &Exchange, hub: &Url, tokens: &HashSet<String>) -> bool {
    if exchange.went_to(hub.host_str().unwrap(), hub.port().unwrap()) {
        return false;
    }
    let request = format!("{} {:?}", exchange.uri, exchange.sent).to_lowercase();
    request.contains("authorization") || tokens.iter().any(|token| request.contains(&token.to_lowercase()))
}

async fn serve(servers: &mut JoinSet<()>, router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(listener::serve(listener, router));
    address
}

/// The centre of the map. Places are far enough apart to have no tile in common.
#[derive(Debug, Clone, Copy)]
struct Place {
    latitude: f64,
    longitude: f64,
}

impl Place {
    /// The first 36 places are all different.
    fn number(n: u32) -> Self {
        Self {
            latitude: 50.5 + f64::from(n % 9) * 0.9,
            longitude: -5.5 + f64::from(n / 9 % 4) * 1.9,
        }
    }

    fn hash(self) -> String {
        format!("#{ZOOM}/{}/{}", self.latitude, self.longitude)
    }

    /// The path of the tile that contains the place.
    fn tile(self) -> String {
        let across = f64::from(1_u32 << (ZOOM + 1));
        let north = (PI / 4.0 + self.latitude.to_radians() / 2.0).tan().ln();
        let x = ((self.longitude / 360.0 + 0.5) * across).floor();
        let y = ((0.5 - north / TAU) * across).floor();
        format!("/maps/raster/v1/zxy/Road_3857/{}/{x}/{y}.png", ZOOM + 1)
    }
}

/// The number of pixels on the map that have the colour of the text.
fn ink(screenshot: &[u8]) -> usize {
    let mut reader = png::Decoder::new(std::io::Cursor::new(screenshot)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let map = pixels
        .chunks(info.line_size)
        .skip(MAP_TOP)
        .flat_map(|line| line.chunks(info.color_type.samples()));
    let is_ink = |pixel: &&[u8]| pixel.iter().zip(INK).all(|(is, ink)| is.abs_diff(ink) < 12);
    map.filter(is_ink).count()
}

#[tokio::test]
async fn the_proxy_also_records_requests_that_it_does_not_forward() {
    let hub = FakeDataHub::start().await.unwrap();
    let proxy = Proxy::start().await;
    let port = hub.origin().port().unwrap();
    let closed_port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    for to in [
        format!("GET http://127.0.0.1:{port}/"),
        // The hub's port, but another origin.
        format!("GET http://localhost:{port}/"),
        format!("CONNECT localhost:{port}"),
        format!("GET http://{closed_port}/"),
    ] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let request = format!("{to} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let verdicts: Vec<_> = proxy
        .exchanges()
        .iter()
        .map(|exchange| {
            assert!(exchange.is_from_page());
            let leaks = leaks(exchange, &hub.origin(), &HashSet::new());
            (exchange.status.as_u16(), leaks)
        })
        .collect();
    assert_eq!(verdicts, [(200, false), (403, true), (403, true), (502, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_shows_new_tiles_for_three_token_lifetimes_without_a_failed_request() {
    // The expiry margin is a tenth of it. A busy machine may need that time for a tile.
    const LIFETIME: Duration = Duration::from_secs(15);
    let stage = Stage::start(LIFETIME).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    let start = Instant::now();
    let mut places = 1..36;
    while start.elapsed() < 3 * LIFETIME + Duration::from_secs(1) {
        // About as fast as a user moves a map. After the last place, the map stays at the first.
        sleep(Duration::from_secs(1)).await;
        let place = Place::number(places.next().unwrap_or(0));
        stage.go_to(place).await;
        stage.wait_for(place).await;
    }
    let used: HashSet<_> = stage
        .tiles()
        .iter()
        .map(|tile| tile.sent[AUTHORIZATION].clone())
        .collect();
    assert!(used.len() > 3, "{} tokens over three lifetimes", used.len());
    for exchange in stage
        .proxy
        .exchanges()
        .iter()
        .filter(|exchange| exchange.is_from_page())
    {
        assert!(exchange.status.is_success(), "{} {}", exchange.status, exchange.uri);
    }
    let renewals = stage.token_requests().len();
    assert!(renewals < 20, "{renewals} requests for tokens: a hot loop");
    assert_eq!(stage.browser.errors().await, Vec::<String>::new());
    assert!(!stage.has_banner().await);
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced_and_the_failed_tiles_are_retried() {
    // Long enough that no renewal is due during the test.
    let stage = Stage::start(Duration::from_secs(299)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    // A 401 does not replace a token that the server has held for less than 5 s.
    sleep(Duration::from_secs(5)).await;
    stage.hub.revoke_all();
    // The delay lets every tile fail before the next token arrives.
    stage.hub.set_delay(Duration::from_secs(1));
    stage.go_to(Place::number(1)).await;
    stage.wait_for(Place::number(1)).await;
    assert!(
        stage.tiles().iter().any(|tile| tile.status == StatusCode::UNAUTHORIZED),
        "a tile should have been refused with a 401"
    );
    assert_eq!(stage.hub.token_posts(), 2);
    let asked: Vec<_> = stage
        .token_requests()
        .iter()
        .map(|exchange| exchange.uri.query().is_some())
        .collect();
    assert_eq!(
        asked,
        [false, true],
        "one request for each token, the second because of the 401"
    );
    assert!(!stage.has_banner().await, "the user should not see a banner");
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_tiles_are_retried_until_they_load_and_the_others_are_left_alone() {
    let stage = Stage::start(Duration::from_secs(299)).await;
    let (whole, holed) = (Place::number(0), Place::number(1));
    stage.open(whole).await;
    stage.wait_for(whole).await;
    // Repaint continuously, so that the map is also drawn while the tile is still loading.
    stage.run_with_map("map.repaint = true").await;
    stage.hub.answer_under(&holed.tile(), |_| {
        thread::sleep(Duration::from_millis(100));
        FakeAnswer::new(503, "")
    });
    stage.go_to(holed).await;
    stage.wait_for_banner(true).await;
    sleep(Duration::from_secs(2)).await;
    assert!(
        stage.has_banner().await,
        "the banner should stay while the tile fails, whatever other tiles do"
    );

    fake_tiles::serve(&stage.hub);
    stage.wait_for(holed).await;
    stage.wait_for_banner(false).await;
    let mut asked = HashMap::<_, Vec<_>>::new();
    for tile in stage.tiles() {
        let path = tile.uri.path().to_owned();
        asked.entry(path).or_default().push(tile.status.as_u16());
    }
    let failing = asked.remove(&holed.tile()).unwrap();
    let (last, before) = failing.split_last().unwrap();
    assert!(
        *last == 200 && (2..6).contains(&before.len()) && before.iter().all(|status| *status == 503),
        "{failing:?}"
    );
    for (path, statuses) in asked {
        assert_eq!(statuses, [200], "{path}");
    }
    assert_eq!(
        stage.token_requests().len(),
        1,
        "the token was valid, so the page should not replace it"
    );
    for error in stage.browser.errors().await {
        assert!(error.contains("the server responded with a status of 503"), "{error}");
    }
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_tiles_fail_the_banner_stays_even_if_the_map_is_moved() {
    let stage = Stage::start(Duration::from_secs(299)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    stage
        .hub
        .answer_under("/maps/raster/v1/zxy/", |_| FakeAnswer::new(429, ""));
    stage.go_to(Place::number(1)).await;
    stage.wait_for_banner(true).await;
    stage.go_to(Place::number(2)).await;
    let first_try = || {
        stage
            .tiles()
            .iter()
            .any(|tile| tile.uri.path() == Place::number(2).tile())
    };
    stage
        .browser
        .wait_until("the new place's tiles fail", async || first_try())
        .await;
    for _ in 0..10 {
        assert!(stage.has_banner().await);
        sleep(Duration::from_millis(50)).await;
    }
    // Outside OS's coverage a tile is a 404, which does not count as a failure.
    let missing = Place::number(2).tile();
    stage.hub.answer_under("/maps/raster/v1/zxy/", move |request| {
        if request.path == missing {
            return FakeAnswer::new(404, "");
        }
        fake_tiles::answer(request)
    });
    stage.wait_for_banner(false).await;
    assert!(stage.tiles().len() < 400, "{} requests for tiles", stage.tiles().len());
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_recovers_as_soon_as_the_network_is_up_again() {
    let stage = Stage::start(Duration::from_secs(299)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    // Maximum jitter: the page waits 2 s, 4 s, 8 s.
    stage.browser.run("Math.random = () => 1").await;
    stage.browser.set_offline(true).await;
    stage.go_to(Place::number(1)).await;
    stage.wait_for_banner(true).await;
    sleep(Duration::from_millis(4_500)).await;
    assert!(stage.has_banner().await);
    stage.browser.set_offline(false).await;
    let reconnected = Instant::now();
    stage.wait_for(Place::number(1)).await;
    let waited = reconnected.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    stage.wait_for_banner(false).await;
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tile_that_is_refused_with_every_token_shows_a_banner_while_it_is_in_view() {
    let stage = Stage::start(Duration::from_secs(299)).await;
    let refused = Place::number(1);
    stage.hub.refuse_path(&refused.tile());
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    stage.go_to(refused).await;
    stage.wait_for_banner(true).await;
    sleep(Duration::from_secs(3)).await;
    assert!(stage.has_banner().await);
    stage.go_to(Place::number(2)).await;
    stage.wait_for(Place::number(2)).await;
    stage.wait_for_banner(false).await;
    assert_eq!(
        stage.hub.token_posts(),
        1,
        "the token was valid, so the page should not replace it"
    );
    let asked = stage.token_requests().len();
    assert!((2..6).contains(&asked), "{asked} requests for tokens");
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_in_the_map_itself_appear_in_the_console() {
    let stage = Stage::start(Duration::from_secs(60)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    assert_eq!(stage.browser.errors().await, Vec::<String>::new());
    stage.run_with_map("map.isSourceLoaded('canary')").await;
    let errors = stage.browser.errors().await;
    assert!(matches!(&errors[..], [error] if error.contains("canary")), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tile_that_is_redirected_to_another_origin_loses_the_token() {
    let stage = Stage::start(Duration::from_secs(60)).await;
    let target = format!("http://{}/redirected", stage.overlay).parse().unwrap();
    stage.hub.redirect_path(&Place::number(0).tile(), target);
    stage.open(Place::number(0)).await;
    let redirected = async || !stage.requests_under("/redirected").is_empty();
    stage.browser.wait_until("the browser follows", redirected).await;
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_token_endpoint_shows_a_banner_until_it_ends() {
    let stage = Stage::start(Duration::from_secs(6)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    stage.hub.fail(FakeAnswer::new(503, "CanaryReason"));
    // The page uses its token until expiry before it shows a banner.
    stage.wait_for_banner(true).await;
    let asked = stage.tiles().len();
    stage.go_to(Place::number(1)).await;
    let refusals = || {
        stage
            .token_requests()
            .into_iter()
            .filter(|exchange| exchange.status != StatusCode::OK)
    };
    stage
        .browser
        .wait_until("two refusals", async || refusals().count() >= 2)
        .await;
    assert_eq!(
        stage.tiles().len(),
        asked,
        "without a token the page should not ask for tiles"
    );
    assert!(stage.has_banner().await);

    stage.hub.recover();
    stage.wait_for_banner(false).await;
    stage.wait_for(Place::number(1)).await;
    for refusal in refusals() {
        assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refusal.received.contains_key("Retry-After"));
        assert_eq!(refusal.received["Cache-Control"], "no-store");
        assert_eq!(refusal.body, "", "the body should not give the reason");
    }
    assert!(
        refusals().count() < 20,
        "{} requests during the outage",
        refusals().count()
    );
    assert!(stage.tiles().iter().all(|tile| tile.status == StatusCode::OK));
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_opened_during_an_outage_shows_a_banner_and_recovers_by_itself() {
    let stage = Stage::start(Duration::from_secs(60)).await;
    stage.hub.fail(FakeAnswer::new(503, ""));
    stage.open(Place::number(0)).await;
    stage.wait_for_banner(true).await;
    assert_eq!(stage.tiles().len(), 0);
    stage.hub.recover();
    stage.wait_for(Place::number(0)).await;
    stage.wait_for_banner(false).await;
    stage.assert_no_leak().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_the_token_module_pass_on_a_fake_clock() {
    const TESTS: &str = include_str!("token.js");
    let stage = Stage::start(Duration::from_secs(60)).await;
    // A resource of the same origin that runs no script.
    let blank = format!("{}page.css", stage.url);
    stage.browser.open(&blank).await;
    let names = stage.browser.run(&format!("{TESTS} return Object.keys(tests)")).await;
    let names = names.as_array().unwrap();
    assert!(names.len() >= 17);
    let mut failures = Vec::new();
    for name in names {
        stage.browser.open(&blank).await;
        let failure = stage
            .browser
            .run_async(&format!("{TESTS} run({name}).then(arguments[0])"))
            .await;
        if !failure.is_null() {
            failures.push(format!("{name}: {failure}"));
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}
