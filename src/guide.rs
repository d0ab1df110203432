//! Guide to using the library in production, by need, with one page per topic.
//!
//! # Learn
//!
//! | page | topic |
//! |---|---|
//! | [`first_service`] | a first service in ten minutes, with OS or with a fake |
//! | [`testing`] | tests of your service against a fake Data Hub on loopback, or against `wiremock` |
//! | [`map_pages`] | a map in a browser: handing out tokens, or a proxy for tiles |
//!
//! # Solve
//!
//! | page | topic |
//! |---|---|
//! | [`refusals`] | a 401, a 403, a 429 or a 503 from OS, and what to answer to your own clients |
//! | [`os_limits`] | how to keep within OS's limits |
//! | [`layers`] | layer order in a chain, retries, traces, timeouts, a chain as a `tower` service |
//! | [`caches`] | an HTTP cache in the chain |
//! | [`proxies`] | proxies for outgoing requests, gateways in front of OS |
//! | [`rotation`] | new keys and secrets without a restart |
//! | [`projects`] | several projects in one service |
//! | [`sharing`] | one token for many processes, through Redis |
//! | [`deployment`] | secrets in Kubernetes, systemd and Docker; a check at start-up; probes; graceful shutdown |
//! | [`runtimes`] | blocking code, actix-web, and other runtimes that may be blocked |
//! | [`without_middleware`] | another HTTP client, or a plain `reqwest::Client` |
//!
//! # Understand
//!
//! | page | topic |
//! |---|---|
//! | [`token_life`] | how a token lives, why the windows are as they are, what a 401 may cost |
//! | [`protection`] | what the library does *not* protect |
//!
//! # Look up
//!
//! | page | topic |
//! |---|---|
//! | [`settings`] | every setting with its default |
//! | [`errors`] | every kind of error, and what to do about it |
//! | [`logs`] | every span, message and field |
//! | [`metrics`] | every metric and label, and alerts for Prometheus |
//! | [`headers`] | the headers that the library sends and reads |

#[doc = include_str!("guide/first_service.md")]
pub mod first_service {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/map_pages.md")]
pub mod map_pages {}

#[doc = include_str!("guide/refusals.md")]
pub mod refusals {}

#[doc = include_str!("guide/os_limits.md")]
pub mod os_limits {}

#[doc = include_str!("guide/layers.md")]
pub mod layers {}

#[doc = include_str!("guide/caches.md")]
pub mod caches {}

#[doc = include_str!("guide/proxies.md")]
pub mod proxies {}

#[doc = include_str!("guide/rotation.md")]
pub mod rotation {}

#[doc = include_str!("guide/projects.md")]
pub mod projects {}

#[doc = include_str!("guide/sharing.md")]
pub mod sharing {}

#[doc = include_str!("guide/deployment.md")]
pub mod deployment {}

#[doc = include_str!("guide/runtimes.md")]
pub mod runtimes {}

#[doc = include_str!("guide/without_middleware.md")]
pub mod without_middleware {}

#[doc = include_str!("guide/token_life.md")]
pub mod token_life {}

#[doc = include_str!("guide/protection.md")]
pub mod protection {}

#[doc = include_str!("guide/settings.md")]
pub mod settings {}

#[doc = include_str!("guide/errors.md")]
pub mod errors {}

#[doc = include_str!("guide/logs.md")]
pub mod logs {}

#[doc = include_str!("guide/metrics.md")]
pub mod metrics {}

#[doc = include_str!("guide/headers.md")]
pub mod headers {}
