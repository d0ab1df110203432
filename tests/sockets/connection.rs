//! [`TokenEndpoint`]: connecting, and the message of every way in which it fails. Over real sockets, in real time.

use std::{
    error::Error as _,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use osdatahub_auth::{
    AccessToken, Error, ErrorKind, ProjectCredentials, TokenEndpoint, TokenEndpointBuilder, TokenSource,
};
use reqwest::{ClientBuilder, Proxy, dns};
use test_support::{Authority, RawServer, TlsServer, Validity, http_response, millis, secs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    time::sleep,
};

/// A name that only the tests' own resolver knows.
const HOST: &str = "token.example";

/// Text in what a server chooses, which no error may show.
const CANARY: &str = "canary";

/// Resolver that knows every name, and takes its time. Without an address it fails.
struct Resolver {
    delay: Duration,
    addresses: Vec<Ipv4Addr>,
}

impl Resolver {
    fn after(delay: Duration) -> Arc<Self> {
        let addresses = vec![Ipv4Addr::LOCALHOST];
        Arc::new(Self { delay, addresses })
    }

    fn to(addresses: impl Into<Vec<Ipv4Addr>>) -> Arc<Self> {
        Arc::new(Self {
            delay: Duration::ZERO,
            addresses: addresses.into(),
        })
    }
}

impl dns::Resolve for Resolver {
    fn resolve(&self, _name: dns::Name) -> dns::Resolving {
        let (delay, addresses) = (self.delay, self.addresses.clone());
        Box::pin(async move {
            sleep(delay).await;
            if addresses.is_empty() {
                return Err("canary".into());
            }
            let addresses = addresses.into_iter().map(|address| SocketAddr::from((address, 0)));
            Ok(Box::new(addresses) as dns::Addrs)
        })
    }
}

fn endpoint(port: u16) -> TokenEndpointBuilder {
    let credentials = ProjectCredentials::new("key", "secret").unwrap();
    let url = format!("https://{HOST}:{port}/token?key=canary");
    TokenEndpoint::builder(credentials).token_url(url.parse().unwrap())
}

/// Fetches a token with a client that has been changed in this way.
async fn fetch(
    endpoint: TokenEndpointBuilder,
    client: impl FnOnce(ClientBuilder) -> ClientBuilder + Send + 'static,
) -> Result<AccessToken, Error> {
    // The proxies of the environment would get in the way.
    let endpoint = endpoint.http_client(|builder| client(builder.no_proxy()));
    endpoint.build().unwrap().fetch(None).await
}

/// Server with a good certificate, which sends a token in response to anything.
async fn token_server(authority: &Authority) -> TlsServer {
    let response = http_response(200, "", r#"{"access_token":"t","expires_in":"299"}"#);
    TlsServer::responding(authority.server_config(HOST, Validity::Now, &[]), response).await
}

/// The message of an error, which is all that the error shows.
#[track_caller]
fn shown(error: &Error, host: &str) -> String {
    let shown = error.to_string();
    assert!(error.source().is_none(), "{error:#}");
    assert!(!format!("{error:?}").contains(CANARY), "{error:?}");
    assert!(shown.contains(host), "{shown} should name the host");
    shown
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_unavailable_and_the_cause_is_named() {
    let early: &[&str] = &["closed early", "reset"];
    for (cut, causes) in [
        (&b""[..], early),
        (b"HTTP/1.", early),
        (b"HTTP/1.1 200 OK\r\nContent-Le", early),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\":\"t\"",
            early,
        ),
        // The alert that a TLS server sends when it gets a plain HTTP request.
        (b"\x15\x03\x01\x00\x02\x02\x46", &["not HTTP/1.1", "reset"]),
        (b"220 canary.example ESMTP\r\n", &["not HTTP/1.1", "reset"]),
    ] {
        let reset = RawServer::start(move |mut stream, _| async move {
            stream.write_all(cut).await.unwrap();
            // Makes closing the socket send RST.
            stream.set_zero_linger().unwrap();
        });
        for server in [RawServer::responding(cut).await, reset.await] {
            let endpoint = endpoint(443).token_url(server.url("/"));
            let error = fetch(endpoint, |client| client).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{cut:?}");
            let shown = shown(&error, &server.address.to_string());
            assert!(causes.iter().any(|cause| shown.contains(cause)), "{shown}");
        }
    }
}

async fn closed_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_refused_connection_and_a_name_that_does_not_exist_are_unavailable() {
    let address = format!("127.0.0.1:{}", closed_port().await);
    for (url, host, cause) in [
        (format!("http://{address}/"), &*address, "connection refused"),
        (format!("https://{address}/"), &address, "connection refused"),
        ("https://unknown.example/".to_owned(), "unknown.example", "name lookup"),
    ] {
        let endpoint = endpoint(443).token_url(url.parse().unwrap());
        let error = fetch(endpoint, |client| client.dns_resolver(Resolver::to([]))).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(shown(&error, host).contains(cause), "{error}");
    }
}

#[tokio::test]
async fn a_slow_name_lookup_has_as_long_as_the_settings_say() {
    let authority = Authority::new("known");
    let server = token_server(&authority).await;
    let fetch = |endpoint: TokenEndpointBuilder, connect_timeout: Option<Duration>| {
        let root = authority.root();
        fetch(endpoint, move |client| {
            let client = client
                .tls_certs_only([root])
                .dns_resolver(Resolver::after(millis(2_500)));
            match connect_timeout {
                Some(limit) => client.connect_timeout(limit),
                None => client,
            }
        })
    };
    let endpoint = || endpoint(server.port());
    let (default, more_for_all, more_to_connect, less_to_connect) = tokio::join!(
        fetch(endpoint(), None),
        fetch(endpoint().request_timeout(secs(10)), None),
        fetch(endpoint(), Some(secs(4))),
        fetch(endpoint(), Some(millis(500))),
    );
    more_for_all.unwrap();
    more_to_connect.unwrap();
    for error in [default.as_ref().unwrap_err(), less_to_connect.as_ref().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let shown = shown(error, HOST);
        for included in ["name lookup", "proxy", "TLS"] {
            assert!(shown.contains(included), "{shown}");
        }
    }
    let (ours, theirs) = (
        default.unwrap_err().to_string(),
        less_to_connect.unwrap_err().to_string(),
    );
    assert!(ours.contains("2s") && ours.contains("request_timeout"), "{ours}");
    assert!(
        !theirs.contains("2s") && !theirs.contains("request_timeout"),
        "{theirs}"
    );
}

#[tokio::test]
async fn a_slow_proxy_has_two_fifths_of_the_request_timeout() {
    let authority = Authority::new("known");
    let server = token_server(&authority).await;
    let address = server.address;
    let proxy = RawServer::start(move |mut stream, _| async move {
        sleep(millis(1_700)).await;
        let mut tunnel = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
        let _ = copy_bidirectional(&mut stream, &mut tunnel).await;
    })
    .await;
    for (request_timeout, token) in [(secs(3), false), (secs(6), true)] {
        let (root, through) = (authority.root(), Proxy::https(proxy.url("/")).unwrap());
        let endpoint = endpoint(server.port()).request_timeout(request_timeout);
        let result = fetch(endpoint, |client| client.tls_certs_only([root]).proxy(through)).await;
        assert_eq!(result.is_ok(), token, "{request_timeout:?} {result:?}");
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Timeout);
            let shown = shown(&error, HOST);
            assert!(shown.contains("1.2s") && shown.contains("proxy"), "{shown}");
        }
    }
}

/// Address in 127.0.0.0/8 on which nothing answers: Linux drops what comes to a listener whose queue is full.
struct BlackHole {
    _listener: TcpListener,
    _queue: Vec<std::net::TcpStream>,
}

impl BlackHole {
    async fn new(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let fill = move || {
            let connect = |()| std::net::TcpStream::connect_timeout(&address, millis(200)).ok();
            std::iter::repeat(()).map_while(connect).take(10).collect()
        };
        Self {
            _listener: listener,
            _queue: tokio::task::spawn_blocking(fill).await.unwrap(),
        }
    }
}

#[tokio::test]
async fn an_address_that_is_a_black_hole_leaves_time_for_the_next_one() {
    let authority = Authority::new("known");
    let server = token_server(&authority).await;
    let hole = Ipv4Addr::new(127, 0, 0, 2);
    let _hole = BlackHole::new(SocketAddr::from((hole, server.port()))).await;
    let fetch = |addresses: &[Ipv4Addr], request_timeout| {
        let (root, resolver) = (authority.root(), Resolver::to(addresses));
        let endpoint = endpoint(server.port()).request_timeout(request_timeout);
        fetch(endpoint, |client| client.tls_certs_only([root]).dns_resolver(resolver))
    };
    let error = fetch(&[hole], secs(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(shown(&error, HOST).contains("1.2s"), "{error}");
    fetch(&[hole, Ipv4Addr::LOCALHOST], secs(2)).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_a_setting_to_correct() {
    let [known, unknown, namesake] = ["known", "unknown", "known"].map(Authority::new);
    for (authority, name, validity, cause) in [
        (&known, HOST, Validity::Expired, "expired"),
        (&known, HOST, Validity::NotYet, "expired"),
        (&unknown, HOST, Validity::Now, "unknown authority"),
        (&namesake, HOST, Validity::Now, "unknown authority"),
        (&known, "canary.example", Validity::Now, "another name"),
    ] {
        let config = authority.server_config(name, validity, &[]);
        let server = TlsServer::responding(config, http_response(200, "", "")).await;
        let address = server.address;
        let proxy = RawServer::start(move |mut stream, _| async move {
            let mut tunnel = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = copy_bidirectional(&mut stream, &mut tunnel).await;
        })
        .await;
        for through in [None, Some(Proxy::https(proxy.url("/")).unwrap())] {
            let root = known.root();
            let result = fetch(endpoint(server.port()), |client| {
                let client = client
                    .tls_certs_only([root])
                    .dns_resolver(Resolver::after(Duration::ZERO));
                match through {
                    Some(proxy) => client.proxy(proxy),
                    None => client,
                }
            });
            let error = result.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{cause}");
            let shown = shown(&error, HOST);
            assert!(shown.contains(cause), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_the_connection_is_named_as_the_cause() {
    let refusal = |status, headers| http_response(status, headers, "<html>canary</html>");
    for (response, kind, cause) in [
        (
            refusal(407, "Proxy-Authenticate: Basic realm=canary\r\n"),
            ErrorKind::Unavailable,
            "407",
        ),
        (refusal(403, ""), ErrorKind::Unavailable, "the proxy refused"),
        (
            refusal(302, "Location: https://canary.example/\r\n"),
            ErrorKind::Unavailable,
            "the proxy refused",
        ),
        (
            b"<html>canary</html>".to_vec(),
            ErrorKind::Unavailable,
            "the proxy refused",
        ),
        (Vec::new(), ErrorKind::Unavailable, "the proxy closed the connection"),
    ] {
        let proxy = RawServer::responding(response).await;
        let through = Proxy::https(proxy.url("/")).unwrap().basic_auth("canary", "canary");
        let error = fetch(endpoint(443), |client| client.proxy(through)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{cause}");
        let shown = shown(&error, HOST);
        assert!(shown.contains(cause), "{shown}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_not_mistaken_for_the_endpoint() {
    let closed_port = closed_port().await;
    for (proxy, cause) in [
        (
            format!("http://canary:canary@127.0.0.1:{closed_port}/"),
            "connection refused",
        ),
        ("http://canary:canary@proxy.example/".to_owned(), "name lookup"),
    ] {
        let through = Proxy::https(proxy).unwrap();
        let error = fetch(endpoint(443), |client| {
            client.proxy(through).dns_resolver(Resolver::to([]))
        });
        let error = error.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let shown = shown(&error, HOST);
        assert!(shown.contains("the proxy") && shown.contains(cause), "{shown}");
    }
}

#[tokio::test]
async fn a_handshake_that_fails_says_so() {
    let alert = RawServer::responding(&b"\x15\x03\x01\x00\x02\x02\x28"[..]).await;
    let clear_text = RawServer::responding(http_response(200, "", r#"{"access_token":"canary"}"#)).await;
    let closed = RawServer::responding(Vec::new()).await;
    for (server, cause) in [(alert, "TLS"), (clear_text, "TLS"), (closed, "closed")] {
        let resolver = Resolver::after(Duration::ZERO);
        let endpoint = endpoint(server.address.port());
        let error = fetch(endpoint, |client| client.dns_resolver(resolver))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(shown(&error, HOST).contains(cause), "{error}");
    }
}

/// The first bytes of a connection from a client that speaks HTTP/2 (RFC 9113, section 3.4).
const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

#[tokio::test]
async fn http_2_is_never_asked_for() {
    let authority = Authority::new("known");
    for prior_knowledge in [false, true] {
        let config = authority.server_config(HOST, Validity::Now, &["h2", "http/1.1"]);
        let server = TlsServer::start(config, |mut stream| async move {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let mut beginning = [0; 4096];
            let read = stream.read(&mut beginning).await.unwrap();
            assert!(!beginning[..read].starts_with(HTTP_2_PREFACE));
            let response = http_response(200, "", r#"{"access_token":"t"}"#);
            let _ = stream.write_all(&response).await;
        })
        .await;
        let root = authority.root();
        let result = fetch(endpoint(server.port()), move |client| {
            let client = client
                .tls_certs_only([root])
                .dns_resolver(Resolver::after(Duration::ZERO));
            if prior_knowledge {
                client.http2_prior_knowledge()
            } else {
                client
            }
        });
        result.await.unwrap();
    }
}

#[tokio::test]
async fn what_a_server_says_in_http_2_is_not_shown() {
    let authority = Authority::new("known");
    let config = authority.server_config(HOST, Validity::Now, &["h2"]);
    let server = TlsServer::start(config, |mut stream| async move {
        let mut beginning = [0; 4096];
        let read = stream.read(&mut beginning).await.unwrap();
        assert!(beginning[..read].starts_with(HTTP_2_PREFACE));
        let _ = stream.write_all(&test_support::http_2_goaway(CANARY)).await;
        let _ = stream.read(&mut beginning).await;
    })
    .await;
    let tls = authority.client_config(&["h2"]);
    let error = fetch(endpoint(server.port()), |client| {
        client
            .tls_backend_preconfigured(tls)
            .dns_resolver(Resolver::after(Duration::ZERO))
    });
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    shown(&error, HOST);
}

#[tokio::test]
async fn the_name_localhost_is_this_machine_whatever_a_resolver_says() {
    let server = RawServer::responding(http_response(200, "", r#"{"access_token":"t"}"#)).await;
    let mut url = server.url("/");
    url.set_host(Some("localhost")).unwrap();
    let elsewhere = Resolver::to([Ipv4Addr::new(127, 0, 0, 3)]);
    let endpoint = endpoint(443).token_url(url);
    fetch(endpoint, |client| client.dns_resolver(elsewhere)).await.unwrap();
}
