//! The parts of the map server, which `main.rs` and the tests put together.

mod clients;
mod origin;
pub mod port;
mod server;
pub mod tiles;

pub use server::MapServer;
