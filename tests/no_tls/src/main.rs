//! Checks the errors that a build without TLS reports for https. `scripts/test` builds and runs this program.

use std::net::TcpListener;

use osdatahub_auth::{Error, ErrorKind, ProjectCredentials, SharedSource, TokenEndpoint, TokenManager, TokenSource};
use reqwest::Proxy;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let credentials = || ProjectCredentials::new("key", "secret").expect("the key and the secret should be valid");
    let error = TokenManager::new(credentials()).expect_err("https should be rejected without TLS");
    assert_names_the_features(&error);

    let loopback = "http://127.0.0.1:1/".parse().expect("the URL should be valid");
    let endpoint = TokenEndpoint::builder(credentials()).token_url(loopback).build();
    let endpoint = endpoint.expect("http to loopback should need no TLS");

    let shared = SharedSource::builder(endpoint, "rediss://user:canary@cache.example").build();
    let error = shared.expect_err("rediss should be rejected without TLS");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let shown = format!("{error} {error:?}");
    assert!(
        shown.contains("tokio-rustls-comp") && !shown.contains("canary"),
        "{shown}"
    );

    // With a client of the user's, the first fetch reports it. The proxy would get key and secret in clear text.
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port should be free");
    proxy
        .set_nonblocking(true)
        .expect("a listener can be asked without waiting");
    let address = proxy.local_addr().expect("a listener has an address");
    let proxies = [
        None,
        Some(Proxy::all(format!("http://{address}")).expect("the URL should be valid")),
    ];
    for through in proxies {
        let endpoint = TokenEndpoint::builder(credentials())
            .http_client(|client| match through {
                Some(proxy) => client.proxy(proxy),
                None => client.no_proxy(),
            })
            .build();
        let endpoint = endpoint.expect("the client should not be asked");
        let error = endpoint
            .fetch(None)
            .await
            .expect_err("https should be refused without TLS");
        assert_names_the_features(&error);
    }
    proxy.accept().expect_err("nothing should be sent to the proxy");
    println!("error without TLS: {error}");
}

fn assert_names_the_features(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let shown = error.to_string();
    assert!(shown.contains("`rustls`") && shown.contains("`native-tls`"), "{shown}");
}
