//! Tests over real sockets, in real time.

mod chain;
mod connection;
mod endpoint;
mod events;
mod fake_hub;
mod metrics;
mod middleware;
mod rotation;
mod soak;
mod unauthorized;
mod waiting;
