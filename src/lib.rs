//! x
#![cfg_attr(docsrs, feature(doc_cfg))]
// A panic in library code takes a service down.
#![warn(clippy::expect_used, clippy::unwrap_used)]

#[cfg(target_arch = "wasm32")]
compile_error!("osdatahub-auth needs tokio's clock and tasks, which wasm32 does not have");

mod challenge;
mod clock;
mod credentials;
mod endpoint;
mod error;
#[cfg(feature = "test-util")]
mod fake;
mod fault;
mod manager;
mod middleware;
mod peek;
mod rejection;
mod schedule;
mod scope;
mod source;
mod token;

#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use self::fake::{FakeAnswer, FakeDataHub, ReceivedRequest};
pub use self::{
    credentials::{CredentialsProvider, FileCredentials, ProjectCredentials},
    endpoint::{TokenEndpoint, TokenEndpointBuilder},
    error::{Error, ErrorKind},
    manager::{KeepWarm, TokenManager, TokenManagerBuilder, TokenState, TokenStatus},
    middleware::{BearerAuth, NoAuth},
    source::TokenSource,
    token::AccessToken,
};
