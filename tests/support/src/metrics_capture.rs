//! Metrics capture: a recorder for the metrics of the current thread.

use std::collections::BTreeMap;

use metrics::{LocalRecorderGuard, Unit};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Recorder of the metrics of the current thread.
pub struct MetricsCapture(Snapshotter);

impl MetricsCapture {
    /// Records until the guard is dropped.
    pub fn start() -> (Self, LocalRecorderGuard<'static>) {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let guard = metrics::set_default_local_recorder(Box::leak(Box::new(recorder)));
        (Self(snapshotter), guard)
    }

    /// What was recorded since the last call. This resets every metric.
    pub fn take(&self) -> Recorded {
        let all = self.0.snapshot().into_vec().into_iter();
        let by_name = all.map(|(key, _, _, value)| {
            let (name, labels) = key.key().clone().into_parts();
            let labels = labels.iter().map(|label| format!(" {}={}", label.key(), label.value()));
            (name.as_str().to_owned() + &labels.collect::<String>(), value)
        });
        Recorded(by_name.collect())
    }

    /// The units of what was recorded since the last call, by name. `None` if a metric was not described. This resets
    /// every metric.
    pub fn take_units(&self) -> BTreeMap<String, Option<Unit>> {
        let all = self.0.snapshot().into_vec().into_iter();
        all.map(|(key, unit, description, _)| {
            let described = description.is_some_and(|text| !text.is_empty());
            (key.key().name().to_owned(), unit.filter(|_| described))
        })
        .collect()
    }
}

/// Recorded metrics. Each has a name such as `requests_total method=GET`, with its labels.
#[derive(Debug)]
pub struct Recorded(BTreeMap<String, DebugValue>);

impl Recorded {
    /// Value of a counter. Panics if there is none with this name.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some(DebugValue::Counter(count)) => *count,
            other => panic!("{name} is {other:?} in {self:#?}"),
        }
    }

    /// Value of a gauge. Panics if there is none with this name.
    #[track_caller]
    pub fn gauge(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(DebugValue::Gauge(value)) => value.into_inner(),
            other => panic!("{name} is {other:?} in {self:#?}"),
        }
    }

    /// Values of a histogram. Panics if there is none with this name.
    #[track_caller]
    pub fn histogram(&self, name: &str) -> Vec<f64> {
        match self.0.get(name) {
            Some(DebugValue::Histogram(values)) => values.iter().map(|value| value.into_inner()).collect(),
            other => panic!("{name} is {other:?} in {self:#?}"),
        }
    }

    /// Whether there is a metric with this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Metrics with a value: counters and gauges other than 0, and histograms with values.
    pub fn not_empty(&self) -> impl Iterator<Item = (&str, &DebugValue)> {
        let empty = |value: &DebugValue| match value {
            DebugValue::Counter(count) => *count == 0,
            DebugValue::Histogram(values) => values.is_empty(),
            DebugValue::Gauge(value) => value.into_inner() == 0.0,
        };
        let values = self.0.iter().filter(move |(_, value)| !empty(value));
        values.map(|(name, value)| (name.as_str(), value))
    }
}
