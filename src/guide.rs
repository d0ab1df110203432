//! Guide to using the library in production, with one page per topic.
//!
//! | page | topic |
//! |---|---|
//! | [`choosing`] | which parts of the library a service needs |
//! | [`layers`] | layer order in a chain, retries, traces, timeouts, a chain as a `tower` service |
//! | [`operating`] | readiness, logs, metrics, alerts |
//! | [`rotation`] | new keys and secrets without a restart |
//! | [`testing`] | tests of your service against a fake Data Hub on loopback, or against `wiremock` |
//! | [`projects`] | several projects in one service |
//! | [`sharing`] | one token for many processes, through Redis |
//! | [`map_pages`] | tokens for a map in a browser |
//! | [`proxies`] | proxies for outgoing requests, gateways in front of OS |
//! | [`limits`] | what the library does *not* protect |

#[doc = include_str!("guide/choosing.md")]
pub mod choosing {}

#[doc = include_str!("guide/layers.md")]
pub mod layers {}

#[doc = include_str!("guide/operating.md")]
pub mod operating {}

#[doc = include_str!("guide/rotation.md")]
pub mod rotation {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/projects.md")]
pub mod projects {}

#[doc = include_str!("guide/sharing.md")]
pub mod sharing {}

#[doc = include_str!("guide/map_pages.md")]
pub mod map_pages {}

#[doc = include_str!("guide/proxies.md")]
pub mod proxies {}

#[doc = include_str!("guide/limits.md")]
pub mod limits {}
