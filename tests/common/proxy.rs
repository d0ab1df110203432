//! A proxy between a browser and the servers of a test, which keeps all that passes.

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

/// A request of the browser's, and what it received, from a server or from the proxy.
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
    /// Whether the page is behind it, and not Chromium on an errand of its own, which accepts whatever comes.
    pub(crate) fn is_the_pages(&self) -> bool {
        let loopback = ["127.0.0.1", "localhost", "[::1]"];
        [ACCEPT, AUTHORIZATION, ORIGIN]
            .iter()
            .any(|name| self.sent.contains_key(name))
            || self.uri.host().is_some_and(|host| loopback.contains(&host))
    }

    /// Whether it went there: host and port, as neither alone tells one server from another.
    pub(crate) fn went_to(&self, host: &str, port: u16) -> bool {
        self.uri.host() == Some(host) && self.uri.port_u16() == Some(port)
    }
}

/// A forward proxy for plain HTTP on loopback. What the browser wants from elsewhere, it does not get.
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
        let kept = Arc::clone(&exchanges);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (client, kept) = (client.clone(), Arc::clone(&kept));
                connections.spawn(async move {
                    let service = service_fn(|request| pass_on(&client, &kept, request));
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

/// Passes a request on, and keeps it whatever comes of it: what the browser wished to send counts, even to nobody.
async fn pass_on(
    client: &reqwest::Client,
    kept: &Mutex<Vec<Exchange>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let (status, received, body) = answer(client, &head, body)
        .await
        .unwrap_or_else(|status| (status, HeaderMap::new(), Bytes::new()));
    let mut response = Response::new(Full::new(body.clone()));
    *response.status_mut() = status;
    *response.headers_mut() = received.clone();
    kept.lock().unwrap().push(Exchange {
        method: head.method,
        uri: head.uri,
        sent: head.headers,
        status,
        received,
        body,
    });
    Ok(response)
}

/// What the server says, or else the proxy's own status.
async fn answer(
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
    let answer = request.body(body.to_bytes()).send().await;
    let answer = answer.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let (status, mut received) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    received.remove("Transfer-Encoding");
    Ok((status, received, body))
}
