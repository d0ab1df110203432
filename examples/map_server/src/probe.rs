//! Probe of the API: the server's own check, after a page reported that the API refused its token.

use std::{sync::Arc, time::Duration};

use reqwest_middleware::ClientWithMiddleware;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// Minimum time between two probes, however many clients report a refused token.
///
/// Anyone can send such a report, and OS allows a project in development mode 50 requests a minute. So reports cost 6
/// probes a minute at most.
const INTERVAL: Duration = Duration::from_secs(10);

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

    /// Probes the API, or waits for the probe under way. Does nothing if the last probe was less than 10 s ago.
    ///
    /// The result does not matter: if the API refuses the token, `BearerAuth` replaces it. So a report alone never
    /// replaces a token. The library replaces at most 6 a minute, even if the API refuses every token.
    pub(crate) async fn run(self: &Arc<Self>) {
        let probe = Arc::clone(self);
        // In its own task, because a client that hangs up must not cancel the probe for everyone.
        let task = tokio::spawn(async move {
            let mut last = probe.last.lock().await;
            if last.is_none_or(|last| last.elapsed() >= INTERVAL) {
                *last = Some(Instant::now());
                let _ = timeout(TIMEOUT, probe.os.get(&probe.url).send()).await;
            }
        });
        let _ = task.await;
    }
}
