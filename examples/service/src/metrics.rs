//! Metrics of the process, for `/metrics`: the requests to OS, and what the library records about its tokens.
//!
//! For those of the routes, add the crate `axum-prometheus`, which uses the same recorder.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the buckets of every duration, in seconds.
const BUCKETS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Installs the recorder, before anything is recorded.
///
/// # Errors
///
/// If there is one already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let durations = Matcher::Suffix("_seconds".to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(durations, &BUCKETS)?
        .install_recorder()?;
    metrics::describe_counter!(
        "os_requests_total",
        "Requests to OS by API; an outcome of a status or `error` was spent"
    );
    metrics::describe_histogram!("os_turn_wait_seconds", "Wait of a request to OS for its turn, by API");
    Ok(handle)
}
