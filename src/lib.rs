//! Keeps a long-running service authenticated to the [Ordnance Survey (OS) Data Hub](https://osdatahub.os.uk).
//!
//! OS gives a project a key and a secret, and its token endpoint turns them into an access token that lives for 299 s.
//! This library holds that token, renews it before it expires, and puts it on every OS request of a [`reqwest`] client
//! that is wrapped with [`reqwest_middleware`]. A service adds one line to its chain and never thinks about tokens
//! again:
//!
//! ```no_run
//! use osdatahub_auth::{BearerAuth, ProjectCredentials, TokenManager};
//! use reqwest_middleware::ClientBuilder;
//!
//! # fn main() -> Result<(), osdatahub_auth::Error> {
//! let credentials = ProjectCredentials::from_env()?; // OS_PROJECT_API_KEY and OS_PROJECT_API_SECRET
//! let tokens = TokenManager::new(credentials)?;
//! let client = ClientBuilder::new(reqwest::Client::new())
//!     .with(BearerAuth::new(tokens))
//!     .build();
//! # Ok(())
//! # }
//! ```
//!
//! Make one [`TokenManager`] for a project and keep it for as long as the service runs: its clones share the token.
//! Without the middleware, `tokens.token().await?.header_value()` is the header to send.
//!
//! # Try it without credentials
//!
//! [`FakeDataHub`](struct.FakeDataHub.html), of the feature `test-util`, is a Data Hub on loopback, as odd as the real
//! one. It is what this library is tested with, and what a service that uses it can be tested with:
//!
#![cfg_attr(feature = "test-util", doc = "```")]
#![cfg_attr(not(feature = "test-util"), doc = "```ignore")]
//! use osdatahub_auth::{BearerAuth, FakeDataHub, TokenEndpoint, TokenManager};
//! use reqwest_middleware::ClientBuilder;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = FakeDataHub::start().await?;
//! let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url()).build()?;
//! let tokens = TokenManager::builder(endpoint).build()?;
//! let client = ClientBuilder::new(hub.client_builder().build()?)
//!     .with(BearerAuth::new(tokens).with_origin(hub.origin())?)
//!     .build();
//!
//! for _ in 0..100 {
//!     let answer = client.get(hub.url("/search/names/v1/find?query=Bath")).send().await?;
//!     assert_eq!(answer.status(), 200);
//! }
//! assert_eq!(hub.token_posts(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! Each has its tests, or a benchmark, in the repository.
//!
//! - **No token that has expired.** A token is handed out until shortly before its end, 10 s for OS's, and no longer.
//!   If none can be had, the request is not sent, and the error says why.
//! - **No wait that can be avoided.** A token is renewed in the background after 75 to 85 % of its life; nobody waits
//!   while it can still be used.
//! - **No token too many.** One request to the token endpoint at a time, however many callers wait: 10,000 callers
//!   without a token cost one.
//! - **An endpoint that is down takes nobody down.** The token that there is serves to its end, attempts back off, and
//!   no answer whatever stops the next attempt.
//! - **A revoked token is replaced, once.** A 401 that is about the token gets the request repeated with the next one;
//!   a 401 that is not costs nothing.
//! - **No secret where it does not belong.** The token goes to `https://api.os.uk` and to origins that you name,
//!   compared as parsed, over https or within the machine. No `Debug`, error or log line shows a key, a secret, a token
//!   or an answer.
//!
//! # The pieces
//!
//! | piece | what it does |
//! |---|---|
//! | [`BearerAuth`] | the layer in the chain: which requests get the token, what a 401 does |
//! | [`TokenManager`] | holds the token: fresh, stale, unusable; one refresh in flight; backoff |
//! | [`TokenSource`] | where tokens come from: OS's [`TokenEndpoint`], [`SharedSource`](struct.SharedSource.html) in front of it, or your own |
//! | [`CredentialsProvider`] | where key and secret come from: [`ProjectCredentials`], [`FileCredentials`], or your own |
//! | [`HandOut`] | the token for a map page in a browser, from [`TokenManager::hand_out`] |
//! | [`Error`] | why no token could be had; [`Error::find_in`] finds it behind a chain |
//!
//! The [`guide`] has a page for each question that comes up in production.
//!
//! # Layer order
//!
//! Tracing, then retry, then [`BearerAuth`], then the client. Each retry then has a token of its own time, and a trace
//! shows one request however often it was repeated:
//!
//! ```no_run
//! # use osdatahub_auth::{BearerAuth, TokenManager};
//! # use reqwest_middleware::ClientBuilder;
//! use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
//! use reqwest_tracing::TracingMiddleware;
//!
//! # fn chain(tokens: TokenManager) -> reqwest_middleware::ClientWithMiddleware {
//! let policy = ExponentialBackoff::builder().build_with_max_retries(3);
//! ClientBuilder::new(reqwest::Client::new())
//!     .with(TracingMiddleware::default())
//!     .with(RetryTransientMiddleware::new_with_policy(policy))
//!     .with(BearerAuth::new(tokens))
//!     .build()
//! # }
//! ```
//!
//! `reqwest`'s own timeouts do not include the wait for a token, which is 10 s at most (the `acquire_timeout`). Put
//! `tokio::time::timeout` round the whole request if that matters.
//!
//! # Features
//!
//! None is on by default, and none changes what the others do.
//!
//! - `rustls`, `native-tls`: pass `reqwest`'s choice of TLS through. If your own `reqwest` has TLS already, as by
//!   default, you need neither. Without any, asking OS is a [`Configuration`](ErrorKind::Configuration) error that says
//!   so.
//! - `metrics`: counters, gauges and histograms, for whatever recorder of the crate `metrics` the program installs; see
//!   [`guide::operating`].
//! - `redis`: [`SharedSource`](struct.SharedSource.html), one token for many processes through Redis or Valkey. No TLS
//!   for `rediss://`: that is a feature of the crate `redis` itself.
//! - `test-util`: [`FakeDataHub`](struct.FakeDataHub.html).
//!
//! # Limits
//!
//! It needs a tokio runtime with I/O and time; blocking code can use `Handle::block_on` of a multi-threaded runtime. A
//! process that forks must not use the parent's manager. wasm32 is not supported. What is *not* protected is in
//! [`guide::limits`].
#![cfg_attr(docsrs, feature(doc_cfg))]
// A panic in library code takes a service down.
#![warn(clippy::expect_used, clippy::unwrap_used)]

#[cfg(target_arch = "wasm32")]
compile_error!("osdatahub-auth needs tokio's clock and tasks, which wasm32 does not have");

mod clock;
mod credentials;
mod endpoint;
mod error;
#[cfg(feature = "test-util")]
mod fake;
mod fault;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod handout;
mod manager;
mod metrics;
mod middleware;
mod rejection;
mod schedule;
mod scope;
#[cfg(feature = "redis")]
mod seal;
#[cfg(feature = "redis")]
mod shared;
mod source;
mod token;
mod unwind;

/// The code in the README is compiled and run as tests.
#[cfg(all(doctest, feature = "test-util"))]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use self::fake::{FakeAnswer, FakeDataHub, ReceivedRequest};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::shared::{SharedSource, SharedSourceBuilder};
pub use self::{
    credentials::{CredentialsProvider, FileCredentials, ProjectCredentials},
    endpoint::{TokenEndpoint, TokenEndpointBuilder},
    error::{Error, ErrorKind},
    handout::HandOut,
    manager::{KeepWarm, RefreshTotals, TokenManager, TokenManagerBuilder, TokenState, TokenStatus},
    middleware::{BearerAuth, NoAuth},
    source::TokenSource,
    token::AccessToken,
};
