//! How to use this library well: one page for each question that comes up when a service goes to production.
//!
//! | page | what it is about |
//! |---|---|
//! | [`choosing`] | which pieces a service needs |
//! | [`layers`] | the order in a chain, retries, traces, timeouts, a chain as a `tower` service |
//! | [`operating`] | readiness, logs, metrics, what an operator should be woken for |
//! | [`rotation`] | new keys and secrets without a restart |
//! | [`testing`] | your service against a Data Hub on loopback, or against `wiremock` |
//! | [`projects`] | several projects in one service |
//! | [`sharing`] | one token for many processes, through Redis |
//! | [`map_pages`] | tokens for a map in a browser |
//! | [`proxies`] | behind a proxy, or with a gateway in front of OS |
//! | [`limits`] | what is *not* protected |

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
