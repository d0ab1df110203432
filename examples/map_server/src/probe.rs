//! Probe of the API: the server's own check, after a page reported that the API refused its token.

use std::time::Duration;

use reqwest_middleware::ClientWithMiddleware;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// Minimum time between two probes, however many pages report a refused token.
const INTERVAL: Duration = Duration::from_secs(2);

/// Time limit of a probe, because a page waits for its token meanwhile.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Path of the tile to request. It is at the smallest scale, and one of the cheapest requests to the API.
const TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";

/// Request to the API that shows whether it accepts the current token.
#[derive(Debug)]
pub(crate) struct Probe {
    os: ClientWithMiddleware,
    url: String,
    last: Mutex<Option<Instant>>,
}

impl Probe {
    /// Probe of the API at this origin. The client must have `BearerAuth` in its chain.
    pub(crate) fn new(os: ClientWithMiddleware, api: &str) -> Self {
        Self {
            os,
            url: format!("{api}{TILE}"),
            last: Mutex::new(None),
        }
    }

    /// Probes the API with one request, unless the last probe was a moment ago.
    ///
    /// The server does not rely on what a page says. If the API refuses the probe too, `BearerAuth` replaces the
    /// token.
    pub(crate) async fn run(&self) {
        let mut last = self.last.lock().await;
        if last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            // The result does not matter: the caller then hands out the current token, replaced or not.
            let _ = timeout(TIMEOUT, self.os.get(&self.url).send()).await;
            *last = Some(Instant::now());
        }
    }
}
