//! Throughput: what share of the requests a second over loopback does `BearerAuth` cost?
//!
//! The same client sends requests with and without the layer, 16 at a time. The same server returns empty
//! responses, with status 401 to a request without a token. The figure includes everything that reqwest, hyper, the
//! kernel and the server do.
//!
//! HTTP gets no faster than this: about 15 us a request with both ends on the same cores, so 1 % is 150 ns. OS takes
//! tens of milliseconds. The figure compares the layer with one that sets a constant header. Two lines before it have the
//! cost of that header, and the cost without the copy of the request that a replay needs.

use std::{
    convert::Infallible,
    process::ExitCode,
    time::{Duration, Instant},
};

use benches::{ConstantHeader, Limit, finish, fresh, header, ratio, report};
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use osdatahub_auth::BearerAuth;
use reqwest::{Client, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet};

const ROUNDS: usize = 101;
const CONCURRENCY: usize = 16;
const REQUESTS_PER_CALLER: usize = 100;

fn main() -> ExitCode {
    let (tokens, _runtime) = fresh();
    let runtime = Runtime::new().expect("a runtime");
    let url = runtime.block_on(server());
    let client = Client::builder().no_proxy().build().expect("a client");
    let auth = BearerAuth::new(tokens).with_origin(url.clone()).expect("loopback");
    let bare = ClientBuilder::new(client.clone()).build();
    let [constant, no_replay, with_replay] = [
        Box::new(ConstantHeader(header())) as Box<dyn Middleware>,
        Box::new(auth.clone().replay_rejected(false)),
        Box::new(auth),
    ]
    .map(|layer| ClientBuilder::new(client.clone()).with_arc(layer.into()).build());
    // A layer that does nothing would be the fastest.
    let is_authenticated = |client: &ClientWithMiddleware| {
        let response = runtime.block_on(client.get(url.clone()).send());
        response.expect("a response").status() == StatusCode::OK
    };
    assert!([&constant, &no_replay, &with_replay].into_iter().all(is_authenticated) && !is_authenticated(&bare));
    let time = |client: &ClientWithMiddleware| runtime.block_on(time_requests(client, &url));
    // Warm-up: opens the connections.
    time(&bare);
    // Throughput is the inverse of time: a client's time over another's is the other's throughput over its own.
    let throughput = |client, over| ratio(ROUNDS, || time(client), || time(over));
    println!("# a constant header over bare: {:.3}", throughput(&constant, &bare));
    println!(
        "# without replay over a constant header: {:.3}",
        throughput(&no_replay, &constant)
    );
    let measured = throughput(&with_replay, &constant);
    report("throughput/loopback_over_constant", measured, Limit::AtLeast(0.99));
    finish()
}

async fn time_requests(client: &ClientWithMiddleware, url: &Url) -> Duration {
    let start = Instant::now();
    let mut callers: JoinSet<()> = (0..CONCURRENCY)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            async move {
                for _ in 0..REQUESTS_PER_CALLER {
                    let response = client.get(url.clone()).send().await.expect("a response");
                    response.bytes().await.expect("an empty body");
                }
            }
        })
        .collect();
    while let Some(result) = callers.join_next().await {
        result.expect("the task does not panic");
    }
    start.elapsed()
}

async fn server() -> Url {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |request: Request<Incoming>| {
                let mut response = Response::new(String::new());
                if !request.headers().contains_key(AUTHORIZATION) {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                }
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    url.parse().expect("a URL")
}
