//! Listener of the server: the port that it opens, and the connections that it serves.

use std::{ffi::OsStr, fmt, io, net::SocketAddr};

use axum::Router;
use tokio::net::TcpListener;

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

/// Serves the router to every client that connects. Handlers find the client's address in `ConnectInfo`.
///
/// # Errors
///
/// Never: `axum::serve` does not return.
pub async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await
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
            Self::InvalidPort(port) => write!(f, "PORT is {port:?}, which is no number from 0 to 65535"),
            Self::NotOpened(port, _) => write!(f, "port {port} cannot be opened; the variable PORT chooses another"),
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
