//! Keeps a long-running service authenticated to the [Ordnance Survey (OS) Data Hub](https://osdatahub.os.uk). It is
//! not affiliated with OS.
//!
//! OS gives a project a key and a secret. OS's token endpoint exchanges them for an access token that lives for 299 s.
//! This library fetches that token and renews it before it expires. It adds the token to every request that a
//! [`reqwest-middleware`](https://docs.rs/reqwest-middleware) client sends to OS:
//!
//! ```no_run
//! use osdatahub_auth::{BearerAuth, ProjectCredentials, TokenManager};
//! use reqwest_middleware::ClientBuilder;
//!
//! # fn main() -> Result<(), osdatahub_auth::Error> {
//! let credentials = ProjectCredentials::from_env()?; // OS_PROJECT_API_KEY and OS_PROJECT_API_SECRET
//! let tokens = TokenManager::new(credentials)?;
//! let os = ClientBuilder::new(reqwest::Client::new())
//!     .with(BearerAuth::new(tokens.clone()))
//!     .build();
//! # Ok(())
//! # }
//! ```
//!
//! Build one [`TokenManager`] for a project and keep it for as long as the service runs. Its clones share the token.
//!
//! # The pieces
//!
//! | piece | purpose |
//! |---|---|
//! | [`BearerAuth`] | the middleware: it decides which requests get the token, and acts on a 401 |
//! | [`TokenManager`] | holds the token and renews it, with single-flight, stale-while-revalidate and backoff |
//! | [`TokenSource`] | where tokens come from: OS's [`TokenEndpoint`], [`SharedSource`](struct.SharedSource.html) in front of it, or your own |
//! | [`CredentialsProvider`] | where the key and secret come from: [`ProjectCredentials`], [`FileCredentials`], or your own |
//! | [`HandOut`] | a token for a map page in a browser, from [`TokenManager::hand_out`] |
//! | [`Unauthorized`] | why a request got a 401: the API is not in the project, or the token was refused |
//! | [`Error`] | why there is no token; [`Error::find_in`] finds it in a chain's error |
//! | [`FakeDataHub`](struct.FakeDataHub.html) | a Data Hub on loopback, for your tests |
//!
//! The [`guide`] has a page for each need: to [learn](guide#learn), to [solve](guide#solve) a problem, to
//! [understand](guide#understand), and to [look up](guide#look-up). Begin with [`guide::first_service`].
//!
//! # What it promises
//!
//! Each promise has its tests, or a benchmark, in the repository.
//!
//! - **No expired token.** A token is handed out until shortly before it expires: the expiry margin is 10 s for OS's
//!   tokens. If there is no token, the request is not sent, and the error says why.
//! - **No avoidable wait.** A token is renewed in the background at 75 to 85 % of its lifetime. No caller waits while
//!   it is usable (stale-while-revalidate).
//! - **No more tokens than needed.** There is one token request at a time, however many callers wait (single-flight).
//!   10,000 callers without a token cost one POST.
//! - **An outage of the token endpoint does not take you down.** The current token is served until shortly before it
//!   expires, attempts back off, and no response stops the next attempt.
//! - **A revoked token is replaced, once.** After a 401 about the token, the request is repeated with another token. A
//!   401 that is not about the token costs nothing.
//! - **Secrets stay where they belong.** The token goes only to `https://api.os.uk` and to origins that you name, over
//!   https or loopback. The library compares parsed origins, not strings. No `Debug`, error or log line shows a key, a
//!   secret, a token or a response.
//!
//! # Try it without credentials
//!
//! [`FakeDataHub`](struct.FakeDataHub.html), behind the feature `test-util`, imitates the real one, oddities included:
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
//! # Features
//!
//! None is on by default, and none changes what the others do.
//!
//! - `rustls`, `native-tls`: turn on that TLS backend in `reqwest`. You need neither if your own `reqwest` has TLS, as
//!   it does by default. Without TLS, [`TokenManager::new`] fails with a [`Configuration`](ErrorKind::Configuration)
//!   error that says so.
//! - `metrics`: counters, gauges and histograms, for any recorder of the crate `metrics`; see [`guide::metrics`].
//! - `redis`: [`SharedSource`](struct.SharedSource.html), one token for many processes through Redis, Valkey or Redis
//!   Cluster. TLS for `rediss://` is a feature of the crate `redis` itself.
//! - `test-util`: [`FakeDataHub`](struct.FakeDataHub.html).
//!
//! # Limits
//!
//! The library needs a tokio runtime with I/O and time; see [`guide::runtimes`] for blocking code. A process that forks
//! must not use its parent's manager. wasm32 is not supported. [`guide::protection`] says what is *not* protected.
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
mod middleware;
mod origins;
mod schedule;
#[cfg(feature = "redis")]
mod shared;
mod source;
mod status;
mod tally;
mod telemetry;
mod token;

pub use self::credentials::{CredentialsProvider, FileCredentials, ProjectCredentials};
pub use self::endpoint::{TokenEndpoint, TokenEndpointBuilder};
pub use self::error::{Error, ErrorKind};
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use self::fake::{FakeAnswer, FakeDataHub, ReceivedRequest};
pub use self::manager::{KeepWarm, TokenManager, TokenManagerBuilder};
pub use self::middleware::{BearerAuth, NoAuth, Unauthorized};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::shared::{SharedSource, SharedSourceBuilder};
pub use self::status::{RefreshTotals, TokenState, TokenStatus};
pub use self::{handout::HandOut, source::TokenSource, token::AccessToken};
