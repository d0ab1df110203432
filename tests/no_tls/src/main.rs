//! Run by `scripts/check-tls`: what a user sees who has compiled no TLS in.

use osdatahub_auth::{ErrorKind, ProjectCredentials, TokenEndpoint, TokenManager};

fn main() {
    let credentials = || ProjectCredentials::new("key", "secret").expect("a key and a secret");
    let error = TokenManager::new(credentials()).expect_err("https cannot work");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let shown = error.to_string();
    assert!(shown.contains("`rustls`") && shown.contains("`native-tls`"), "{shown}");

    let loopback = "http://127.0.0.1:1/".parse().expect("a URL");
    let endpoint = TokenEndpoint::builder(credentials()).token_url(loopback).build();
    endpoint.expect("loopback needs no TLS");
    println!("without TLS: {shown}");
}
