//! Recording proxy between the browser and a test's servers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, ORIGIN},
    request::Parts,
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

/// A request from the browser, and the response that it received from a server or from the proxy itself.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) sent: HeaderMap,
    pub(crate) status: StatusCode,
    pub(crate) received: HeaderMap,
    pub(crate) body: Bytes,
}

impl Exchange {
    /// Whether the page sent the request. Chromium also sends background requests, but those go to other hosts and
    /// carry none of these headers.
    pub(crate) fn is_from_page(&self) -> bool {
        let loopback = ["127.0.0.1", "localhost", "[::1]"];
        [ACCEPT, AUTHORIZATION, ORIGIN]
            .iter()
            .any(|name| self.sent.contains_key(name))
            || self.uri.host().is_some_and(|host| loopback.contains(&host))
    }

    /// Whether the request went to this host and port. Neither alone tells one server from another.
    pub(crate) fn went_to(&self, host: &str, port: u16) -> bool {
        self.uri.host() == Some(host) && self.uri.port_u16() == Some(port)
    }
}

/// Forward proxy for plain HTTP to loopback. It refuses requests to any other host, so the tests never reach the
/// network.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    _server: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let exchanges = Arc::<Mutex<Vec<Exchange>>>::default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let mut server = JoinSet::new();
        let recorded = Arc::clone(&exchanges);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (client, recorded) = (client.clone(), Arc::clone(&recorded));
                connections.spawn(async move {
                    let service = service_fn(|request| forward(&client, &recorded, request));
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            exchanges,
            _server: server,
        }
    }

    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().unwrap().clone()
    }
}

/// Forwards a request and records it, even if it fails: a token that the browser tried to send is a leak, whether or
/// not a server received it.
async fn forward(
    client: &reqwest::Client,
    recorded: &Mutex<Vec<Exchange>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let (status, received, body) = send_upstream(client, &head, body)
        .await
        .unwrap_or_else(|status| (status, HeaderMap::new(), Bytes::new()));
    let mut response = Response::new(Full::new(body.clone()));
    *response.status_mut() = status;
    *response.headers_mut() = received.clone();
    recorded.lock().unwrap().push(Exchange {
        method: head.method,
        uri: head.uri,
        sent: head.headers,
        status,
        received,
        body,
    });
    Ok(response)
}

/// The server's response, or the status for the proxy to send instead.
async fn send_upstream(
    client: &reqwest::Client,
    head: &Parts,
    body: Incoming,
) -> Result<(StatusCode, HeaderMap, Bytes), StatusCode> {
    if head.uri.host() != Some("127.0.0.1") || head.method == Method::CONNECT {
        return Err(StatusCode::FORBIDDEN);
    }
    let body = body.collect().await.map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut headers = head.headers.clone();
    headers.remove("Proxy-Connection");
    let request = client
        .request(head.method.clone(), head.uri.to_string())
        .headers(headers);
    let response = request.body(body.to_bytes()).send().await;
    let response = response.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let (status, mut received) = (response.status(), response.headers().clone());
    let body = response.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    received.remove("Transfer-Encoding");
    Ok((status, received, body))
}
