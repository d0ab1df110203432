//! Listener of the server: the port that it opens, and the connections that it serves.

use std::{
    ffi::OsStr,
    fmt,
    future::{Future, pending},
    io,
    pin::pin,
    time::Duration,
};

use axum::{Extension, Router, extract::ConnectInfo, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::timeout};

/// Time limit for a request head, which a browser sends at once.
///
/// Without it, clients that send their heads byte by byte could hold any number of connections open (a "slowloris"
/// attack). An idle connection is closed after the same time. A browser then opens another, and a proxy should close its
/// idle connections sooner.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the requests under way when the server shuts down. Kubernetes kills a process 30 s after its SIGTERM.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Opens the port on 127.0.0.1 that the variable `PORT` sets. Defaults to 3000.
///
/// # Errors
///
/// If the variable is not a port number, or the port cannot be opened.
pub async fn open(port: Option<&OsStr>) -> Result<TcpListener, PortError> {
    let port = match port {
        None => 3000,
        Some(port) => {
            let number = port.to_str().and_then(|port| port.parse().ok());
            number.ok_or_else(|| PortError::InvalidPort(port.display().to_string()))?
        }
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    listener.map_err(|reason| PortError::NotOpened(port, reason))
}

/// Serves the router to every client that connects, until the future is dropped.
///
/// It does what `axum::serve` does, which has no time limit for request heads. Handlers find the client's address in
/// `ConnectInfo`.
pub async fn serve(listener: TcpListener, router: Router) {
    serve_until(listener, router, pending()).await;
}

/// The same with a graceful shutdown, which begins when `shutdown` is ready.
///
/// The port is then closed, and so are idle connections. The requests under way get their responses within 20 s.
pub async fn serve_until(mut listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD_TIMEOUT);
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, client) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = &mut shutdown => break,
        };
        let router = router.clone().layer(Extension(ConnectInfo(client)));
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::spawn(connections.watch(connection));
    }
    drop(listener);
    let _ = timeout(DRAIN_TIMEOUT, connections.shutdown()).await;
}

/// Error that names the setting, because its message is all that the user sees.
#[derive(Debug)]
pub enum PortError {
    /// `PORT` is not a port number.
    InvalidPort(String),
    /// The port could not be opened.
    NotOpened(u16, io::Error),
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidPort(port) => write!(f, "PORT is {port:?}, but it must be a number from 0 to 65535"),
            Self::NotOpened(port, _) => write!(f, "port {port} cannot be opened; set PORT to use another"),
        }
    }
}

impl std::error::Error for PortError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InvalidPort(_) => None,
            Self::NotOpened(_, reason) => Some(reason),
        }
    }
}
