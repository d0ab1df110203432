//! Checks the error that a build without TLS reports for https. `scripts/check-tls` builds and runs this program.

use osdatahub_auth::{ErrorKind, ProjectCredentials, TokenEndpoint, TokenManager};

fn main() {
    let credentials = || ProjectCredentials::new("key", "secret").expect("the key and the secret should be valid");
    let error = TokenManager::new(credentials()).expect_err("https should be rejected without TLS");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let shown = error.to_string();
    assert!(shown.contains("`rustls`") && shown.contains("`native-tls`"), "{shown}");

    let loopback = "http://127.0.0.1:1/".parse().expect("the URL should be valid");
    let endpoint = TokenEndpoint::builder(credentials()).token_url(loopback).build();
    endpoint.expect("http to loopback should need no TLS");
    println!("error without TLS: {shown}");
}
