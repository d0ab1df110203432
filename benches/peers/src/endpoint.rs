//! A token endpoint on loopback that counts its POSTs, knows when each of its tokens expires, and can die.

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

/// What an answer takes, dead or alive. All of a burst has asked by then.
const ANSWERS_AFTER: Duration = Duration::from_millis(50);

/// A token endpoint for one contestant. It is gone when this is dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// How long its tokens live.
    pub life: Duration,
    /// From when on it answers 503, for good.
    pub dies: Option<Instant>,
    /// Whether its numbers are strings, as OS's are.
    pub like_os: bool,
}

impl Manners {
    /// It lives for ever, and its numbers are numbers.
    #[must_use]
    pub fn good(life: Duration) -> Self {
        Self {
            life,
            dies: None,
            like_os: false,
        }
    }
}

#[derive(Debug)]
struct State {
    manners: Manners,
    posts: AtomicU64,
    /// When each token was issued, by its serial number.
    issued: Mutex<Vec<Instant>>,
}

impl Endpoint {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// If it cannot.
    pub async fn start(manners: Manners) -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            manners,
            posts: AtomicU64::new(0),
            issued: Mutex::default(),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { address, state, server })
    }

    /// Where it takes its POSTs.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/oauth2/token/v1", self.address)
    }

    /// How many it has had.
    #[must_use]
    pub fn posts(&self) -> u64 {
        self.state.posts.load(Ordering::Relaxed)
    }

    /// When the last of its tokens expires, if there was any.
    #[must_use]
    pub fn last_expiry(&self) -> Option<Instant> {
        let issued = self.state.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.last().map(|issued| *issued + self.state.manners.life)
    }

    /// Whether the token in these headers has expired by now, by the endpoint's own clock.
    ///
    /// # Errors
    /// If there is none of its tokens in them.
    pub fn has_expired(&self, headers: &HeaderMap) -> Result<bool, Failure> {
        let value = headers.get(header::AUTHORIZATION).ok_or("no Authorization header")?;
        let serial = value.to_str()?.strip_prefix("Bearer ").ok_or("no Bearer token")?;
        let serial: usize = serial.parse()?;
        let issued = self.state.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = issued.get(serial).ok_or("no token of this endpoint")?;
        Ok(issued.elapsed() >= self.state.manners.life)
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
            let service = service_fn(|request| answer(request, &state));
            // A client that hangs up is none of our business.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: &State) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::POST {
        return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
    }
    state.posts.fetch_add(1, Ordering::Relaxed);
    // Read to its end, so that the connection can be used again.
    let _ = request.into_body().collect().await;
    tokio::time::sleep(ANSWERS_AFTER).await;
    if state.manners.dies.is_some_and(|dies| Instant::now() >= dies) {
        return Ok(status(StatusCode::SERVICE_UNAVAILABLE));
    }
    let serial = {
        let mut issued = state.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.push(Instant::now());
        issued.len() - 1
    };
    let issued_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let quote = if state.manners.like_os { "\"" } else { "" };
    let expires_in = state.manners.life.as_secs();
    let issued_at = issued_at.as_millis();
    // The token is as long as OS's.
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
