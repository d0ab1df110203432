//! `/metrics`: what this service, its requests to OS and its tokens have done, for Prometheus.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::Service;

/// Upper bounds of the buckets of every duration, in seconds.
const BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0];

/// Installs the recorder of this process. The library's metrics go to it as well.
///
/// # Errors
///
/// If there is one already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?;
    let handle = recorder.install_recorder()?;
    metrics::describe_counter!(
        "os_requests_total",
        "Requests to OS by API and outcome; a status or `error` was spent"
    );
    metrics::describe_counter!("http_responses_total", "Responses of this service by route and status");
    metrics::describe_histogram!("http_response_seconds", "Time until the head of a response, by route");
    Ok(handle)
}

pub(crate) async fn metrics(State(service): State<Arc<Service>>) -> String {
    service.metrics.render()
}

/// Counts and times each response, by the route's pattern: paths would be labels without end.
pub(crate) async fn track(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none".to_owned(), |route| route.as_str().to_owned());
    let start = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    metrics::histogram!("http_response_seconds", "route" => route.clone()).record(start.elapsed());
    metrics::counter!("http_responses_total", "route" => route, "status" => status).increment(1);
    response
}
