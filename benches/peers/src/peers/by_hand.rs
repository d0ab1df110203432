//! What people write by hand: a token behind tokio's `Mutex`, held over the fetch, and a header made for each request.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use reqwest::Client;
use tokio::sync::Mutex;

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// A usual margin.
const RENEWED_BEFORE: Duration = Duration::from_secs(30);

/// The usual.
pub struct ByHand {
    url: String,
    client: Client,
    held: Mutex<Option<(String, Instant)>>,
}

impl ByHand {
    async fn token(&self) -> Result<String, Failure> {
        let mut held = self.held.lock().await;
        if let Some((token, renew_at)) = &*held
            && Instant::now() < *renew_at
        {
            return Ok(token.clone());
        }
        let (token, life) = fetch(&self.client, &self.url).await?;
        *held = Some((token.clone(), Instant::now() + life.saturating_sub(RENEWED_BEFORE)));
        Ok(token)
    }
}

impl Peer for ByHand {
    const NAME: &'static str = "by hand, `tokio::sync::Mutex`";
    const RULE: &'static str = "by the next caller once less than 30 s are left, who holds the lock meanwhile; a \
                                failure is that caller's error (`src/peers/by_hand.rs`, here)";
    const READS: bool = false;

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        Ok(Self {
            url: endpoint.url(),
            client: Client::new(),
            held: Mutex::default(),
        })
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let token = self.token().await?;
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
        Ok(())
    }
}

/// One POST, no second attempt: a token and its life.
pub(super) async fn fetch(client: &Client, url: &str) -> Result<(String, Duration), Failure> {
    let answer = client
        .post(url)
        .basic_auth(KEY, Some(SECRET))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials")
        .send()
        .await?
        .error_for_status()?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
    let token = answer["access_token"].as_str().ok_or("no access_token")?;
    let life = answer["expires_in"].as_u64().ok_or("no expires_in")?;
    Ok((token.to_owned(), Duration::from_secs(life)))
}
