//! Where the server listens.

use std::{ffi::OsStr, fmt, io};

use tokio::net::TcpListener;

/// Listens on 127.0.0.1, at 3000 or what the variable `PORT` says.
pub(crate) async fn listen(port: Option<&OsStr>) -> Result<TcpListener, PortError> {
    let port = match port {
        None => 3000,
        Some(port) => {
            let number = port.to_str().and_then(|port| port.parse().ok());
            number.ok_or_else(|| PortError::NoPort(port.display().to_string()))?
        }
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    listener.map_err(|reason| PortError::NotOpened(port, reason))
}

/// Says which setting it is about: whoever starts the example has only this line to go by.
#[derive(Debug)]
pub(crate) enum PortError {
    NoPort(String),
    NotOpened(u16, io::Error),
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort(port) => write!(f, "PORT is {port:?}, which is no number from 0 to 65535"),
            Self::NotOpened(port, _) => write!(f, "port {port} cannot be opened; the variable PORT chooses another"),
        }
    }
}

impl std::error::Error for PortError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoPort(_) => None,
            Self::NotOpened(_, reason) => Some(reason),
        }
    }
}
