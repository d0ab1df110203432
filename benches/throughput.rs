//! How many requests a second are lost to `BearerAuth`, over loopback?
//!
//! The same client with and without the layer asks the same server for an empty answer, 16 requests at a time. What is
//! measured besides: all that reqwest, hyper, the kernel and the server do. This is as fast as HTTP gets, some 15 us a
//! request with both ends on the same cores, so that each percent is 150 ns; OS answers in tens of milliseconds. The two
//! lines before the figure show what it consists of: what any layer costs that adds a header, and what it costs without
//! the copy of the request that a replay needs.

mod common;

use std::{
    convert::Infallible,
    process::ExitCode,
    time::{Duration, Instant},
};

use common::{ConstantHeader, Limit, finish, fresh, header, ratio, report};
use http::Response;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use osdatahub_auth::BearerAuth;
use reqwest::{Client, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet};

const ROUNDS: usize = 101;
const AT_A_TIME: usize = 16;
const REQUESTS_EACH: usize = 100;

fn main() -> ExitCode {
    let (tokens, _fetched) = fresh();
    let runtime = Runtime::new().expect("a runtime");
    let url = runtime.block_on(server());
    let client = Client::builder().no_proxy().build().expect("a client");
    let auth = BearerAuth::new(tokens).with_origin(url.clone()).expect("loopback");
    let bare = ClientBuilder::new(client.clone()).build();
    let [constant, once, ours] = [
        Box::new(ConstantHeader(header())) as Box<dyn Middleware>,
        Box::new(auth.clone().replay_rejected(false)),
        Box::new(auth),
    ]
    .map(|layer| ClientBuilder::new(client.clone()).with_arc(layer.into()).build());
    let time = |client: &ClientWithMiddleware| runtime.block_on(requests(client, &url));
    // The connections are opened before it counts.
    time(&bare);
    // The time of the bare client over ours is our throughput over the bare one's.
    let throughput = |client| ratio(ROUNDS, || time(client), || time(&bare));
    println!("# a constant header over bare: {:.3}", throughput(&constant));
    println!("# without replay over bare: {:.3}", throughput(&once));
    let measured = throughput(&ours);
    report("throughput/loopback_over_bare", measured, Limit::AtLeast(0.98));
    finish()
}

async fn requests(client: &ClientWithMiddleware, url: &Url) -> Duration {
    let start = Instant::now();
    let mut callers: JoinSet<()> = (0..AT_A_TIME)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            async move {
                for _ in 0..REQUESTS_EACH {
                    let answer = client.get(url.clone()).send().await.expect("an answer");
                    answer.bytes().await.expect("an empty body");
                }
            }
        })
        .collect();
    while let Some(ended) = callers.join_next().await {
        ended.expect("no panic");
    }
    start.elapsed()
}

async fn server() -> Url {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(String::new())) });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    url.parse().expect("a URL")
}
