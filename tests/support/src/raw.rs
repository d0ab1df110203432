//! Raw TCP servers, for responses that no HTTP library would send.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::Url;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// TCP server on loopback that reads one request per connection, then passes the stream to a handler.
pub struct RawServer {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl RawServer {
    pub async fn start<F, Fut>(handler: F) -> Self
    where
        F: Fn(TcpStream, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let handler = Arc::new(handler);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let handler = handler.clone();
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await;
                    handler(stream, request).await;
                });
            }
        });
        Self { address, connections }
    }

    /// Sends these bytes in response to every request, then closes the connection.
    pub async fn responding(response: impl Into<Vec<u8>>) -> Self {
        let response = Arc::new(response.into());
        Self::start(move |mut stream, _| {
            let response = response.clone();
            async move {
                let _ = stream.write_all(&response).await;
                let _ = stream.shutdown().await;
            }
        })
        .await
    }

    pub fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Reads the request's head, and any part of the body that arrived with it. Stops early on input that is not HTTP,
/// such as a TLS handshake.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
        if !request[0].is_ascii_uppercase() {
            break;
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// A complete HTTP response with this status, these extra header lines and this body.
pub fn http_response(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into()
}

/// The frames of an HTTP/2 server that ends the connection with a GOAWAY and this debug data (RFC 9113, section 6.8).
pub fn http_2_goaway(debug_data: &str) -> Vec<u8> {
    let payload = [&[0; 8], debug_data.as_bytes()].concat();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let goaway = [0, 0, u8::try_from(payload.len()).unwrap(), 7, 0, 0, 0, 0, 0];
    [&settings[..], &goaway, &payload].concat()
}
