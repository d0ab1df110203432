//! Where a manager's tokens come from.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{AccessToken, Error};

/// Gets a new access token. [`TokenEndpoint`](crate::TokenEndpoint) asks OS; implement it for anything else, with the
/// crate `async-trait`.
///
/// A source makes one attempt and says what came of it. The [`TokenManager`](crate::TokenManager) above it sees to the
/// rest: one fetch at a time, when to try again, and giving up on a fetch after 30 s.
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
    /// `replaces` is the token that the manager wants replaced, because it is stale, unusable or refused by the API;
    /// `None` when it has none. A source that shares tokens must not hand that very token out again.
    ///
    /// # Errors
    /// Whatever kept it from getting one; the [kind](crate::ErrorKind) decides how soon it is tried again.
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error>;
}

#[async_trait]
impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        (**self).fetch(replaces).await
    }
}
