//! Listener of the server, on a port set by `PORT`.

use std::{ffi::OsStr, fmt, io};

use tokio::net::TcpListener;

/// Listens on 127.0.0.1, on the port that the variable `PORT` sets. Defaults to 3000.
///
/// # Errors
///
/// If the variable is not a port number, or the port cannot be opened.
pub async fn listen(port: Option<&OsStr>) -> Result<TcpListener, PortError> {
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
