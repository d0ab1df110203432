//! Token cache written by hand: a token behind tokio's `Mutex`, locked during the fetch, and a new header per
//! request.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use reqwest::Client;
use tokio::sync::Mutex;

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Remaining lifetime at which a new token is fetched: a common choice.
const REFRESH_MARGIN: Duration = Duration::from_secs(30);

/// Cache as many services write it: one lock around the token and its fetch.
pub struct ByHand {
    url: String,
    client: Client,
    cached: Mutex<Option<(String, Instant)>>,
}

impl ByHand {
    async fn token(&self) -> Result<String, Failure> {
        let mut cached = self.cached.lock().await;
        if let Some((token, refresh_at)) = &*cached
            && Instant::now() < *refresh_at
        {
            return Ok(token.clone());
        }
        let (token, lifetime) = fetch(&self.client, &self.url).await?;
        *cached = Some((token.clone(), Instant::now() + lifetime.saturating_sub(REFRESH_MARGIN)));
        Ok(token)
    }
}

impl Peer for ByHand {
    const NAME: &'static str = "by hand, `tokio::sync::Mutex`";
    const RULE: &'static str = "By the next caller once less than 30 s are left. It holds the lock meanwhile, and a \
                                failure is its error (`src/peers/by_hand.rs`, here).";
    const PARSES_RESPONSE: bool = false;

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        Ok(Self {
            url: endpoint.url(),
            client: Client::new(),
            cached: Mutex::default(),
        })
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let token = self.token().await?;
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
        Ok(())
    }
}

/// Fetches a token and its lifetime with one POST, without a retry.
pub(super) async fn fetch(client: &Client, url: &str) -> Result<(String, Duration), Failure> {
    let response = client
        .post(url)
        .basic_auth(KEY, Some(SECRET))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials")
        .send()
        .await?
        .error_for_status()?;
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await?)?;
    let token = body["access_token"].as_str().ok_or("no access_token")?;
    let lifetime = body["expires_in"].as_u64().ok_or("no expires_in")?;
    Ok((token.to_owned(), Duration::from_secs(lifetime)))
}
