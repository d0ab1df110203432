//! Listener of the server: the port that it opens, and the connections that it serves.

use std::{ffi::OsStr, fmt, io, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;

/// Time limit for a request head, which a browser sends at once.
///
/// Without it, clients that send their heads byte by byte could hold any number of connections open (a "slowloris"
/// attack). An idle connection is closed after the same time. A browser then opens another, and a proxy should close its
/// idle connections sooner.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

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
pub async fn serve(mut listener: TcpListener, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD_TIMEOUT);
    loop {
        let (stream, client) = Listener::accept(&mut listener).await;
        let router = router.clone().layer(Extension(ConnectInfo(client)));
        tokio::spawn(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    }
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
