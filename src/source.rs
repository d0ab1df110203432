//! The trait behind a manager: where its tokens come from.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{error::Error, token::AccessToken};

/// A source of access tokens. [`TokenEndpoint`](crate::TokenEndpoint) asks OS. Implement this trait, with the crate
/// `async-trait`, to get tokens from anywhere else.
///
/// A source makes one attempt and returns its result. The [`TokenManager`](crate::TokenManager) above it does the rest:
/// single-flight, backoff, and a limit of 30 s for each fetch.
///
/// ```
/// use std::time::Duration;
/// use osdatahub_auth::{AccessToken, Error, TokenManager, TokenSource};
///
/// struct Fixed;
///
/// #[async_trait::async_trait]
/// impl TokenSource for Fixed {
///     async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
///         AccessToken::new("a-token-for-tests", Duration::from_secs(299))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let tokens = TokenManager::builder(Fixed).build()?;
/// assert_eq!(tokens.token().await?.expose_secret(), "a-token-for-tests");
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a token that is valid now.
    ///
    /// `replaces` is the token that the manager wants to replace because it is stale, unusable or refused by the API.
    /// It is `None` if the manager has never had a token. A source that shares tokens must not return that same token
    /// again.
    ///
    /// # Errors
    /// The reason why there is no token. Its [kind](crate::ErrorKind) decides how soon the manager tries again.
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error>;
}

#[async_trait]
impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        (**self).fetch(replaces).await
    }
}
