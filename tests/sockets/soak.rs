//! Soak test: minutes of traffic over real sockets, against a Data Hub that fails, stalls, revokes and resets at
//! random. Not part of the usual run: `tests/README.md` has the command.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use osdatahub_auth::{BearerAuth, FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager};
use reqwest::Url;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle},
    task::JoinSet,
    time::sleep,
};

const CALLERS: usize = 40;
const MIN_REQUESTS: usize = 200_000;
/// A 401 replaces a token of this lifetime once it has been held for 2 s.
const LIFETIME: Duration = Duration::from_secs(8);

/// The remaining lifetime with which a request should succeed: the expiry margin of 0.5 s, and 0.1 s more. A token that
/// is usable at the check may turn unusable before the request asks for it.
const USABLE_FOR_A_REQUEST: Duration = Duration::from_millis(600);
/// After this time a 401 may replace the token: 2 s, and 0.2 s more for a slow machine.
const REPLACEABLE_AFTER: Duration = Duration::from_millis(2_200);
/// Allowed growth of the resident memory after the first third of the run.
const MAX_GROWTH: usize = 16 * 1024 * 1024;

#[test]
#[ignore = "takes minutes: tests/README.md has the command"]
fn nothing_is_lost_and_nothing_grows() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(300, |seconds| seconds.parse().expect("SOAK_SECONDS"));
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    runtime.block_on(soak(Duration::from_secs(seconds)));
    let start = Instant::now();
    while handle.metrics().num_alive_tasks() > 0 {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "tasks are still alive after everything was dropped"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Default)]
struct Count {
    requests: AtomicUsize,
    /// Requests without a 200 although there was a usable token.
    lost: AtomicUsize,
    /// Requests without a 200 while there was no usable token.
    without_token: AtomicUsize,
}

async fn soak(time: Duration) {
    let hub = Arc::new(FakeDataHub::start().await.unwrap());
    hub.set_lifetime(LIFETIME);
    let storage = FakeDataHub::start().await.unwrap();
    storage.answer_public_path("/signed", FakeAnswer::new(200, "the file"));
    hub.redirect_path("/downloads/v1/file", storage.url("/signed"));
    let proxy = ResettingProxy::in_front_of(hub.token_url()).await;
    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(proxy.url.clone())
        .request_timeout(Duration::from_secs(1));
    let tokens = TokenManager::builder(endpoint.build().unwrap())
        .refresh_at(0.4..=0.5)
        .build()
        .unwrap();
    let auth = BearerAuth::new(tokens.clone()).with_origin(hub.origin()).unwrap();
    let client = ClientBuilder::new(hub.client_builder().build().unwrap())
        .with(auth)
        .build();
    tokens.token().await.unwrap();

    let count = Arc::new(Count::default());
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (hub, tokens, client, count) = (hub.clone(), tokens.clone(), client.clone(), count.clone());
        callers.spawn(async move {
            let paths = [
                "/search/names/v1/find?query=Bath",
                "/maps/raster/v1/zxy/x/7/63/42.png",
                "/downloads/v1/file",
            ];
            loop {
                call(&tokens, &client, hub.url(paths[caller % paths.len()]), &count).await;
            }
        });
    }
    let start = Instant::now();
    let mut baseline = 0;
    while start.elapsed() < time {
        inject_fault(&hub, &tokens, &proxy).await;
        if start.elapsed() < time / 3 {
            baseline = resident_memory();
        }
    }
    callers.shutdown().await;

    let [requests, lost, without] =
        [&count.requests, &count.lost, &count.without_token].map(|n| n.load(Ordering::Relaxed));
    let grown = resident_memory().saturating_sub(baseline);
    let leaked = storage
        .received()
        .iter()
        .filter(|request| request.headers.contains_key("authorization"))
        .count();
    println!(
        "{requests} requests in {:?}, {} token POSTs, {} connections reset; failed with a usable token: {lost}; failed \
         without one: {without}; tokens sent to another origin: {leaked}; resident memory {} KiB, grown by {} KiB",
        start.elapsed(),
        hub.token_posts(),
        proxy.resets.load(Ordering::Relaxed),
        resident_memory() / 1024,
        grown / 1024,
    );
    assert_eq!((lost, leaked), (0, 0));
    assert!(grown < MAX_GROWTH, "memory grew by {grown} bytes");
    assert!(
        requests >= MIN_REQUESTS || time < Duration::from_secs(300),
        "only {requests} requests"
    );
}

async fn call(tokens: &TokenManager, client: &ClientWithMiddleware, url: Url, count: &Count) {
    sleep(Duration::from_millis(fastrand::u64(0..60))).await;
    let usable = tokens
        .current()
        .is_some_and(|token| token.remaining() > USABLE_FOR_A_REQUEST);
    count.requests.fetch_add(1, Ordering::Relaxed);
    let outcome = match client.get(url).send().await {
        Ok(response) => {
            let status = response.status();
            if response.bytes().await.is_ok() && status == 200 {
                return;
            }
            status.to_string()
        }
        Err(error) => format!("{error:#?}"),
    };
    let counter = if usable {
        println!("lost: {outcome}; {:?}", tokens.status());
        &count.lost
    } else {
        &count.without_token
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Injects one random fault, then waits for a random time without any.
async fn inject_fault(hub: &FakeDataHub, tokens: &TokenManager, proxy: &ResettingProxy) {
    match fastrand::u8(0..6) {
        0 => {
            let status = [429, 500, 503][fastrand::usize(0..3)];
            hub.fail_next(fastrand::usize(1..4), FakeAnswer::new(status, "no"));
        }
        1 => {
            let status = [200, 401, 404][fastrand::usize(0..3)];
            hub.fail_next(1, FakeAnswer::new(status, "<html>Welcome</html>"));
        }
        2 => {
            hub.set_delay(Duration::from_millis(fastrand::u64(100..1_500)));
            sleep(Duration::from_secs(3)).await;
            hub.set_delay(Duration::ZERO);
        }
        3 => {
            proxy.on.store(true, Ordering::Relaxed);
            sleep(Duration::from_millis(fastrand::u64(500..2_500))).await;
            proxy.on.store(false, Ordering::Relaxed);
        }
        _ => {
            // Revoke only while the endpoint is healthy: otherwise no other token is available, and the caller gets
            // the 401. Also wait until a 401 may replace the token.
            hub.recover();
            let token = tokens.token().await;
            sleep(REPLACEABLE_AFTER).await;
            let current = tokens.current();
            let same = token.is_ok_and(|token| current.is_some_and(|now| now.expose_secret() == token.expose_secret()));
            if same && tokens.status().consecutive_failures == 0 {
                hub.revoke_all();
            }
        }
    }
    sleep(Duration::from_millis(fastrand::u64(100..2_000))).await;
}

fn resident_memory() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("this test needs /proc, as on Linux");
    pages
        .split(' ')
        .nth(1)
        .expect("statm should have a second field")
        .parse::<usize>()
        .expect("statm should count pages")
        * 4096
}

/// Proxy in front of the token endpoint. While it is on, it resets every connection.
struct ResettingProxy {
    url: Url,
    on: Arc<AtomicBool>,
    resets: Arc<AtomicUsize>,
    _listening: JoinSet<()>,
}

impl ResettingProxy {
    async fn in_front_of(target: Url) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut url = target.clone();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (on, resets) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut listening = JoinSet::new();
        let (is_on, counter) = (on.clone(), resets.clone());
        listening.spawn_on(
            async move {
                let mut connections = JoinSet::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    if is_on.load(Ordering::Relaxed) {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.set_zero_linger();
                        continue;
                    }
                    let address = (target.host_str().unwrap().to_owned(), target.port().unwrap());
                    connections.spawn(async move {
                        let mut hub = TcpStream::connect(address).await.unwrap();
                        let _ = copy_bidirectional(&mut stream, &mut hub).await;
                    });
                    while connections.try_join_next().is_some() {}
                }
            },
            &Handle::current(),
        );
        Self {
            url,
            on,
            resets,
            _listening: listening,
        }
    }
}
