//! Tests with real Redis servers, and with fleets of processes.

mod clocks;
mod cluster;
mod common;
mod entries;
mod failures;
mod fleet;
mod leases;
mod metrics;
mod pauses;
mod servers;
mod shared;
mod soak;
