//! Checks `reqwest` with TLS but without a crypto provider. There it panics when it has to build a TLS configuration.

use std::sync::Arc;

use osdatahub_auth::{ErrorKind, ProjectCredentials, TokenEndpoint, TokenEndpointBuilder, TokenManager};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

fn main() {
    let credentials = || ProjectCredentials::new("key", "secret").expect("the key and the secret should be valid");
    let endpoint = || TokenEndpoint::builder(credentials());

    // `reqwest` panics for each of these, so standard error shows three panics.
    let assert_refused = |endpoint: TokenEndpointBuilder| {
        let error = endpoint.build().expect_err("reqwest should need a provider");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("rustls-no-provider"), "{error}");
        error
    };
    let error = assert_refused(endpoint());
    assert_refused(endpoint().http_client(|client| client));
    TokenManager::new(credentials()).expect_err("reqwest should need a provider");

    // A ready TLS configuration has its own provider. No panic may happen, even one that is caught.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring should know every version")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let ready = endpoint().http_client(|client| client.tls_backend_preconfigured(tls));
    ready.build().expect("a ready TLS configuration should do");

    ring::default_provider()
        .install_default()
        .expect("no provider should be installed yet");
    endpoint().build().expect("an installed provider should do");
    println!("error without a crypto provider: {error}");
}
