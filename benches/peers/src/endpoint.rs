//! Token endpoint on loopback: counts POSTs, records when each token expires, and can go down.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::peers::Failure;

/// Delay of every response, up or down. By then every caller of a burst has asked.
const RESPONSE_DELAY: Duration = Duration::from_millis(50);

/// Token endpoint for one contestant. Dropping it stops the server.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

/// Configuration of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Lifetime of its tokens.
    pub lifetime: Duration,
    /// When it goes down: from then on it returns 503 for good.
    pub down_from: Option<Instant>,
    /// Whether numbers in the response are JSON strings, as OS sends them.
    pub quoted_numbers: bool,
}

impl Behaviour {
    /// Endpoint that never goes down and sends JSON numbers.
    #[must_use]
    pub fn healthy(lifetime: Duration) -> Self {
        Self {
            lifetime,
            down_from: None,
            quoted_numbers: false,
        }
    }
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    posts: AtomicU64,
    /// Time of issue of each token, indexed by its serial number.
    issued: Mutex<Vec<Instant>>,
}

impl Endpoint {
    /// Starts an endpoint on a free loopback port.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub async fn start(behaviour: Behaviour) -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            behaviour,
            posts: AtomicU64::new(0),
            issued: Mutex::default(),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { address, state, server })
    }

    /// URL of the token endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/oauth2/token/v1", self.address)
    }

    /// Number of POSTs received.
    #[must_use]
    pub fn posts(&self) -> u64 {
        self.state.posts.load(Ordering::Relaxed)
    }

    /// Expiry of the last token that it issued, if there is one.
    #[must_use]
    pub fn last_expiry(&self) -> Option<Instant> {
        let issued = self.state.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.last().map(|issued| *issued + self.state.behaviour.lifetime)
    }

    /// Whether the token in these headers has expired, by the endpoint's own clock.
    ///
    /// # Errors
    /// If the headers contain no token of this endpoint.
    pub fn has_expired(&self, headers: &HeaderMap) -> Result<bool, Failure> {
        let value = headers.get(header::AUTHORIZATION).ok_or("no Authorization header")?;
        let serial = value.to_str()?.strip_prefix("Bearer ").ok_or("no Bearer token")?;
        let serial: usize = serial.parse()?;
        let issued = self.state.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = issued.get(serial).ok_or("no token of this endpoint")?;
        Ok(issued.elapsed() >= self.state.behaviour.lifetime)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, &state));
            // A client that closes the connection early is not an error of the endpoint.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond(request: Request<Incoming>, state: &State) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::POST {
        return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
    }
    state.posts.fetch_add(1, Ordering::Relaxed);
    // The body must be read to its end before the connection can be reused.
    let _ = request.into_body().collect().await;
    tokio::time::sleep(RESPONSE_DELAY).await;
    if state
        .behaviour
        .down_from
        .is_some_and(|down_from| Instant::now() >= down_from)
    {
        return Ok(status(StatusCode::SERVICE_UNAVAILABLE));
    }
    let serial = {
        let mut issued = state.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.push(Instant::now());
        issued.len() - 1
    };
    let issued_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let quote = if state.behaviour.quoted_numbers { "\"" } else { "" };
    let expires_in = state.behaviour.lifetime.as_secs();
    let issued_at = issued_at.as_millis();
    // The token has the length of an OS token.
    let body = format!(
        "{{\"access_token\":\"{serial:028}\",\"expires_in\":{quote}{expires_in}{quote},\
          \"issued_at\":{quote}{issued_at}{quote},\"token_type\":\"Bearer\"}}"
    );
    let mut response = Response::new(body.into());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}
