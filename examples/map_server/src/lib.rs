//! The parts of the map server, which `main.rs` and the tests put together. In reading order:
//!
//! - `token.rs` is the token route. `same_origin.rs`, `rate_limit.rs` and `probe.rs` protect it.
//! - `server.rs` has the state and the routes. `page.rs` has the page, its files and the security headers.
//! - `listener.rs` opens the port and serves connections.
//!   The example `service` uses it too, with `same_origin.rs`, `rate_limit.rs` and the fake tiles.
//! - `fake_tiles.rs` draws tiles for the fake Data Hub. With OS's own tiles you do not need it.

pub mod fake_tiles;
pub mod listener;
mod page;
mod probe;
pub mod rate_limit;
pub mod same_origin;
mod server;
mod token;

pub use server::MapServer;
