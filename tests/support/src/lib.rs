//! What several test binaries need: a scripted token source, recorders of logs and metrics, and servers.
#![expect(
    missing_debug_implementations,
    missing_docs,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    reason = "only this repository uses it"
)]

mod example;
mod log_capture;
mod metrics_capture;
mod raw;
mod redis_server;
mod source;
mod tls;

pub use example::fails_without_bearer_auth;
pub use log_capture::LogCapture;
pub use metrics_capture::MetricsCapture;
pub use raw::{RawServer, http_2_goaway, http_response};
pub use redis_server::{Program, RedisCluster, RedisServer, send_signal};
pub use source::{Fetch, KINDS, LIFETIME, Outcome, Source, eventually, millis, secs};
pub use tls::{Authority, TlsServer, Validity};
