//! Tests with real Redis servers, and with fleets of processes.

mod fleet;
mod pauses;
mod shared;
