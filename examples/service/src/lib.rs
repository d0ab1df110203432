//! The parts of the service, which `main.rs` and the tests put together. In reading order:
//!
//! - `server.rs` has the routes.
//! - `geocode.rs`, `tiles.rs` and `token.rs` have one route each. `health.rs` has the probes.
//! - `api.rs` is the client for one of OS's APIs: the layers, and their order. `pace.rs` is the layer that keeps to OS's
//!   limits. `refusal.rs` decides what a client of this service gets in place of OS's errors.
//! - `os.rs` holds the tokens and the HTTP client, of OS or of a fake.
//! - `settings.rs`, `metrics.rs` and `signals.rs` are what `main.rs` needs besides.
//!
//! The listener with its graceful shutdown, the same-origin check and the rate limit per client are the map server's.

mod api;
mod geocode;
mod health;
pub mod metrics;
mod os;
mod pace;
mod refusal;
mod server;
mod settings;
pub mod signals;
mod tiles;
mod token;

pub use os::Os;
pub use server::Service;
pub use settings::Settings;
