//! Log capture: a `tracing` layer that records the events and spans of the current thread.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Recorded spans, and the events of this library, in order.
#[derive(Clone, Default, Debug)]
pub struct LogCapture(Arc<Mutex<Vec<(Level, String)>>>);

impl LogCapture {
    /// Records until the guard is dropped.
    pub fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = tracing_subscriber::registry().with(log.clone()).set_default();
        (log, guard)
    }

    fn add(&self, level: Level, text: String) {
        self.0.lock().unwrap().push((level, text));
    }

    /// The WARN events that contain this text.
    pub fn warnings(&self, containing: &str) -> Vec<String> {
        let records = self.0.lock().unwrap().clone();
        let warnings = records.into_iter().filter(|(level, _)| *level == Level::WARN);
        warnings
            .map(|(_, text)| text)
            .filter(|text| text.contains(containing))
            .collect()
    }

    /// The records that start with this text, with their levels.
    pub fn starting_with(&self, prefix: &str) -> Vec<(Level, String)> {
        let records = self.0.lock().unwrap().clone();
        records
            .into_iter()
            .filter(|(_, text)| text.starts_with(prefix))
            .collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogCapture {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target().starts_with("osdatahub_auth") {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let span = context.event_span(event).map_or("no span", |span| span.name());
            self.add(
                *event.metadata().level(),
                format!("{}{} in {span}", fields.message, fields.rest),
            );
        }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let parent = span.parent().map_or("none", |parent| parent.name());
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.add(
            *attributes.metadata().level(),
            format!("span {}{}, parent {parent}", span.name(), fields.rest),
        );
    }

    fn on_follows_from(&self, span: &Id, follows: &Id, context: Context<'_, S>) {
        let [span, follows] = [span, follows].map(|id| context.span(id).unwrap().name());
        self.add(Level::TRACE, format!("{span} follows from {follows}"));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            write!(self.rest, " {}={value:?}", field.name()).unwrap();
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let causes = std::iter::successors(Some(value), |&error| error.source());
        let causes: Vec<_> = causes.map(ToString::to_string).collect();
        write!(self.rest, " {}={}", field.name(), causes.join(": ")).unwrap();
    }
}
