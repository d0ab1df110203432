//! The page of the example `map_server`, in a real browser: what it shows, and what it sends where.

#[path = "common/browser.rs"]
mod browser;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "../examples/map_server/server/mod.rs"]
mod server;
#[path = "../examples/map_server/tiles.rs"]
mod tiles;

use std::{
    collections::{HashMap, HashSet},
    env,
    f64::consts::{PI, TAU},
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use axum::Router;
use base64::{Engine, engine::general_purpose::STANDARD};
use browser::Browser;
use http::{Method, StatusCode, header::AUTHORIZATION};
use osdatahub_auth::{FakeAnswer, FakeDataHub};
use proxy::{Exchange, Proxy};
use reqwest::Url;
use serde_json::Value;
use server::MapServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

const KEY: &str = "CanaryKey0123456789";
const SECRET: &str = "CanarySecret456";

/// What is written on the tiles is in this colour.
const INK: [u8; 3] = [0x45, 0x3c, 0x90];

/// How much of it there is on two tiles at least.
const INK_OF_TWO_TILES: usize = 2_000;

/// Below the page's heading, which has a line in the same colour.
const MAP_TOP: usize = 80;

/// Of the map; that of the tiles is one more.
const ZOOM: u32 = 11;

/// A page with its server, its Data Hub, a server of tiles that want no token, and a browser that shows it.
struct Stage {
    hub: FakeDataHub,
    overlay: SocketAddr,
    proxy: Proxy,
    browser: Browser,
    url: String,
    _servers: JoinSet<()>,
}

impl Stage {
    async fn set(lifetime: Duration) -> Self {
        let hub = FakeDataHub::start().await.unwrap();
        hub.set_credentials(KEY, SECRET);
        hub.set_lifetime(lifetime);
        tiles::serve(&hub);
        let mut servers = JoinSet::new();
        // It would take the token if the page were to send it.
        let any_page = [
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Headers", "authorization"),
        ];
        let nothing_to_show = Router::new().fallback((StatusCode::NO_CONTENT, any_page));
        let overlay = serve(&mut servers, nothing_to_show).await;
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

    /// Moves the map, without waiting for it.
    async fn go_to(&self, place: Place) {
        self.browser.run(&format!("location.hash = '{}'", place.hash())).await;
    }

    /// Waits until the place's own tile has come, and tiles are to be seen.
    async fn wait_for(&self, place: Place) {
        let path = place.tile();
        let shown = async || {
            let come = self
                .tiles()
                .iter()
                .any(|tile| tile.status == StatusCode::OK && tile.uri.path() == path);
            come && ink(&self.browser.screenshot().await) >= INK_OF_TWO_TILES
        };
        self.browser.wait_until(&format!("{path} is shown"), shown).await;
    }

    /// Runs a line of script with the `map`, which is its page's own, when it is about to be drawn.
    async fn tell_map(&self, line: &str) {
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

    /// The browser's requests for tiles, without its preflights.
    fn tiles(&self) -> Vec<Exchange> {
        self.asked_for("/maps/raster/")
    }

    fn token_answers(&self) -> Vec<Exchange> {
        self.asked_for("/token")
            .into_iter()
            .filter(|exchange| exchange.uri.path() == "/token")
            .collect()
    }

    fn asked_for(&self, path: &str) -> Vec<Exchange> {
        let mut exchanges = self.proxy.exchanges();
        exchanges.retain(|exchange| exchange.method != Method::OPTIONS && exchange.uri.path().starts_with(path));
        exchanges
    }

    /// What must hold whatever has happened: the browser never received the secret, and the token went to the hub alone.
    fn check_secrets(&self) {
        let basic = STANDARD.encode(format!("{KEY}:{SECRET}"));
        let tokens = self.tokens();
        assert!(!tokens.is_empty(), "the page got a token");
        let hub = self.hub.origin();
        let mut elsewhere = 0;
        for exchange in self.proxy.exchanges() {
            let Exchange {
                uri, received, body, ..
            } = &exchange;
            let answer = format!("{received:?} {}", String::from_utf8_lossy(body));
            for secret in [KEY, SECRET, basic.trim_end_matches('=')] {
                assert!(!answer.contains(secret), "a secret came with {uri}");
            }
            assert!(
                !leaks(&exchange, &hub, &tokens),
                "the token, or a wish to send it, went to {uri}"
            );
            assert_ne!(uri.path(), self.hub.token_url().path(), "a page has no business there");
            elsewhere += usize::from(exchange.went_to("127.0.0.1", self.overlay.port()));
        }
        assert!(elsewhere > 0, "the page asked another origin for something");
    }

    /// All that the page was given.
    fn tokens(&self) -> HashSet<String> {
        let answers = self
            .token_answers()
            .into_iter()
            .filter(|answer| answer.status == StatusCode::OK);
        let token = |answer: Exchange| {
            let answer: Value = serde_json::from_slice(&answer.body).unwrap();
            answer["access_token"].as_str().unwrap().to_owned()
        };
        answers.map(token).collect()
    }
}

/// Whether a token, or a wish to send it, went to anywhere but the hub.
fn leaks(exchange: &Exchange, hub: &Url, tokens: &HashSet<String>) -> bool {
    if exchange.went_to(hub.host_str().unwrap(), hub.port().unwrap()) {
        return false;
    }
    let request = format!("{} {:?}", exchange.uri, exchange.sent).to_lowercase();
    request.contains("authorization") || tokens.iter().any(|token| request.contains(&token.to_lowercase()))
}

async fn serve(servers: &mut JoinSet<()>, app: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    servers.spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// Where the map is centred: places far enough from each other to have no tile in common.
#[derive(Debug, Clone, Copy)]
struct Place {
    latitude: f64,
    longitude: f64,
}

impl Place {
    /// The first three dozen are all different.
    fn number(n: u32) -> Self {
        Self {
            latitude: 50.5 + f64::from(n % 9) * 0.9,
            longitude: -5.5 + f64::from(n / 9 % 4) * 1.9,
        }
    }

    fn hash(self) -> String {
        format!("#{ZOOM}/{}/{}", self.latitude, self.longitude)
    }

    /// The path of the tile that it is on.
    fn tile(self) -> String {
        let across = f64::from(1_u32 << (ZOOM + 1));
        let north = (PI / 4.0 + self.latitude.to_radians() / 2.0).tan().ln();
        let x = ((self.longitude / 360.0 + 0.5) * across).floor();
        let y = ((0.5 - north / TAU) * across).floor();
        format!("/maps/raster/v1/zxy/Road_3857/{}/{x}/{y}.png", ZOOM + 1)
    }
}

/// How many pixels of the map are written on.
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
async fn what_the_proxy_does_not_pass_on_is_kept_and_judged_all_the_same() {
    let hub = FakeDataHub::start().await.unwrap();
    let proxy = Proxy::start().await;
    let port = hub.origin().port().unwrap();
    let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    for to in [
        format!("GET http://127.0.0.1:{port}/"),
        // The hub's port, and yet another origin.
        format!("GET http://localhost:{port}/"),
        format!("CONNECT localhost:{port}"),
        format!("GET http://{nobody}/"),
    ] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let request = format!("{to} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let judged: Vec<_> = proxy
        .exchanges()
        .iter()
        .map(|exchange| {
            assert!(exchange.is_the_pages());
            let leaks = leaks(exchange, &hub.origin(), &HashSet::new());
            (exchange.status.as_u16(), leaks)
        })
        .collect();
    assert_eq!(judged, [(200, false), (403, true), (403, true), (502, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_goes_on_showing_new_tiles_over_three_lifetimes_without_a_failed_request() {
    const LIFE: Duration = Duration::from_secs(6);
    let stage = Stage::set(LIFE).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    if let Some(file) = env::var_os("MAP_PAGE_SCREENSHOT") {
        // Tiles fade in.
        sleep(Duration::from_secs(1)).await;
        fs::write(file, stage.browser.screenshot().await).unwrap();
    }
    let start = Instant::now();
    let mut places = 1..36;
    while start.elapsed() < 3 * LIFE + Duration::from_secs(1) {
        // As fast as a reader moves a map, for as long as there are places.
        sleep(Duration::from_millis(300)).await;
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
        .filter(|exchange| exchange.is_the_pages())
    {
        assert!(exchange.status.is_success(), "{} {}", exchange.status, exchange.uri);
    }
    let renewals = stage.token_answers().len();
    assert!(renewals < 20, "{renewals} requests for tokens: no hot loop");
    assert_eq!(stage.browser.complaints().await, Vec::<String>::new());
    assert!(!stage.has_banner().await);
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced_and_the_tiles_that_failed_are_loaded_again() {
    // Long enough that no renewal is due meanwhile.
    let stage = Stage::set(Duration::from_secs(299)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    // A token that the server has had for less than 5 s is not replaced because of a 401.
    sleep(Duration::from_secs(5)).await;
    stage.hub.revoke_all();
    // Every tile has failed before there is another token.
    stage.hub.set_delay(Duration::from_secs(1));
    stage.go_to(Place::number(1)).await;
    stage.wait_for(Place::number(1)).await;
    assert!(
        stage.tiles().iter().any(|tile| tile.status == StatusCode::UNAUTHORIZED),
        "the token was refused"
    );
    assert_eq!(stage.hub.token_posts(), 2);
    let asked: Vec<_> = stage
        .token_answers()
        .iter()
        .map(|answer| answer.uri.query().is_some())
        .collect();
    assert_eq!(
        asked,
        [false, true],
        "one request for each token, the second because of the refusal"
    );
    assert!(!stage.has_banner().await, "the reader need not know");
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_that_fail_are_asked_for_again_until_they_come_and_the_others_are_left_alone() {
    let stage = Stage::set(Duration::from_secs(299)).await;
    let (whole, holed) = (Place::number(0), Place::number(1));
    stage.open(whole).await;
    stage.wait_for(whole).await;
    // While it is on its way, the map is drawn without it.
    stage.tell_map("map.repaint = true").await;
    stage.hub.answer_under(&holed.tile(), |_| {
        thread::sleep(Duration::from_millis(100));
        FakeAnswer::new(503, "")
    });
    stage.go_to(holed).await;
    stage.wait_for_banner(true).await;
    sleep(Duration::from_secs(2)).await;
    assert!(
        stage.has_banner().await,
        "for as long as it fails, whatever other tiles do"
    );

    tiles::serve(&stage.hub);
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
    assert_eq!(stage.token_answers().len(), 1, "it was not the token");
    for complaint in stage.browser.complaints().await {
        assert!(
            complaint.contains("the server responded with a status of 503"),
            "{complaint}"
        );
    }
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_all_tiles_shows_a_banner_until_it_is_over_however_the_map_is_moved() {
    let stage = Stage::set(Duration::from_secs(299)).await;
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
    // Outside of what OS has on its map there is no tile, which is no failure.
    let missing = Place::number(2).tile();
    stage.hub.answer_under("/maps/raster/v1/zxy/", move |request| {
        if request.path == missing {
            return FakeAnswer::new(404, "");
        }
        tiles::answer(request)
    });
    stage.wait_for_banner(false).await;
    assert!(stage.tiles().len() < 400, "{} requests for tiles", stage.tiles().len());
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_whose_network_was_away_goes_on_as_soon_as_it_is_back() {
    let stage = Stage::set(Duration::from_secs(299)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    // The longest waits that the page may choose: 2 s, 4 s, 8 s.
    stage.browser.run("Math.random = () => 1").await;
    stage.browser.set_offline(true).await;
    stage.go_to(Place::number(1)).await;
    stage.wait_for_banner(true).await;
    sleep(Duration::from_millis(4_500)).await;
    assert!(stage.has_banner().await);
    stage.browser.set_offline(false).await;
    let back = Instant::now();
    stage.wait_for(Place::number(1)).await;
    let waited = back.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    stage.wait_for_banner(false).await;
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_that_are_refused_whatever_the_token_show_a_banner_while_they_are_in_view() {
    let stage = Stage::set(Duration::from_secs(299)).await;
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
    assert_eq!(stage.hub.token_posts(), 1, "it was not the token");
    let asked = stage.token_answers().len();
    assert!((2..6).contains(&asked), "{asked} requests for tokens");
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_in_the_map_itself_is_to_be_seen_in_the_console() {
    let stage = Stage::set(Duration::from_secs(60)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    assert_eq!(stage.browser.complaints().await, Vec::<String>::new());
    stage.tell_map("map.isSourceLoaded('canary')").await;
    let complaints = stage.browser.complaints().await;
    assert!(
        matches!(&complaints[..], [complaint] if complaint.contains("canary")),
        "{complaints:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tile_that_is_redirected_elsewhere_takes_no_token_along() {
    let stage = Stage::set(Duration::from_secs(60)).await;
    let there = format!("http://{}/redirected", stage.overlay).parse().unwrap();
    stage.hub.redirect_path(&Place::number(0).tile(), there);
    stage.open(Place::number(0)).await;
    let redirected = async || !stage.asked_for("/redirected").is_empty();
    stage.browser.wait_until("the browser follows", redirected).await;
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_token_endpoint_shows_a_banner_until_it_is_over() {
    let stage = Stage::set(Duration::from_secs(6)).await;
    stage.open(Place::number(0)).await;
    stage.wait_for(Place::number(0)).await;
    stage.hub.fail(FakeAnswer::new(503, "CanaryReason"));
    // The token serves to its end first.
    stage.wait_for_banner(true).await;
    let asked = stage.tiles().len();
    stage.go_to(Place::number(1)).await;
    let refusals = || {
        stage
            .token_answers()
            .into_iter()
            .filter(|answer| answer.status != StatusCode::OK)
    };
    stage
        .browser
        .wait_until("two refusals", async || refusals().count() >= 2)
        .await;
    assert_eq!(stage.tiles().len(), asked, "without a token no tile is asked for");
    assert!(stage.has_banner().await);

    stage.hub.recover();
    stage.wait_for_banner(false).await;
    stage.wait_for(Place::number(1)).await;
    for refusal in refusals() {
        assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refusal.received.contains_key("Retry-After"));
        assert_eq!(refusal.received["Cache-Control"], "no-store");
        assert_eq!(refusal.body, "", "not a word of why");
    }
    assert!(
        refusals().count() < 20,
        "{} requests during the outage",
        refusals().count()
    );
    assert!(stage.tiles().iter().all(|tile| tile.status == StatusCode::OK));
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_opened_during_an_outage_says_so_and_starts_by_itself() {
    let stage = Stage::set(Duration::from_secs(60)).await;
    stage.hub.fail(FakeAnswer::new(503, ""));
    stage.open(Place::number(0)).await;
    stage.wait_for_banner(true).await;
    assert_eq!(stage.tiles().len(), 0);
    stage.hub.recover();
    stage.wait_for(Place::number(0)).await;
    stage.wait_for_banner(false).await;
    stage.check_secrets();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_tokens_keep_their_promises_in_a_time_of_their_own() {
    const PROMISES: &str = include_str!("map_token.js");
    let stage = Stage::set(Duration::from_secs(60)).await;
    // Anything of the same origin that does nothing by itself.
    let blank = format!("{}page.css", stage.url);
    stage.browser.open(&blank).await;
    let names = stage
        .browser
        .run(&format!("{PROMISES} return Object.keys(promises)"))
        .await;
    let names = names.as_array().unwrap();
    assert!(names.len() >= 17);
    let mut faults = Vec::new();
    for name in names {
        stage.browser.open(&blank).await;
        let fault = stage
            .browser
            .run_async(&format!("{PROMISES} fault({name}).then(arguments[0])"))
            .await;
        if !fault.is_null() {
            faults.push(format!("{name}: {fault}"));
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}
