//! Traces over OTLP, off by default: one span for a publish, and under it one for each of its first deliveries, so that the way of an event can be followed from whoever published it.
//!
//! The only place that names OpenTelemetry. With `tracing.otlp_endpoint` empty nothing is made, and a publish costs one look at an empty cell. Spans wait in the library's queue (2,048), are sent by its
//! thread, and are dropped where the collector does not keep up: a trace is a sample, not a record.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use crate::clock;

/// Deliveries of one publish that have a span of their own; a room may have a hundred thousand readers.
const DELIVERIES_MAX: u32 = 8;

struct Exporting {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

static EXPORTING: OnceLock<Exporting> = OnceLock::new();

/// The endpoint is not one.
#[derive(Debug, thiserror::Error)]
#[error("tracing.otlp_endpoint: {0}; expected such as http://127.0.0.1:4318")]
pub struct TracesError(String);

/// Begins to send traces, if there is an endpoint; of those publishes that do not say themselves whether they are traced, so many in a hundred are. To be called outside the runtime: the library's client brings one of its own.
///
/// # Errors
/// What is wrong with the endpoint.
pub fn start(endpoint: Option<&str>, sample_percent: u64) -> Result<(), TracesError> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let endpoint = endpoint.trim_end_matches('/');
    let endpoint = if endpoint.ends_with("/v1/traces") { endpoint.to_owned() } else { format!("{endpoint}/v1/traces") };
    let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| TracesError(error.to_string()))?;
    #[allow(clippy::cast_precision_loss, reason = "at most a hundred")]
    let ratio = sample_percent as f64 / 100.0;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(Resource::builder().with_service_name("tidegate").build())
        .build();
    let tracer = provider.tracer("tidegate");
    // A second start in one process keeps the first one's.
    let _ = EXPORTING.set(Exporting { tracer, provider });
    Ok(())
}

/// Sends what waits, and no more. Blocks.
pub fn stop() {
    if let Some(exporting) = EXPORTING.get() {
        // What cannot be sent now is lost, as every trace may be.
        let _ = exporting.provider.shutdown_with_timeout(Duration::from_secs(2));
    }
}

/// A header of the request that published.
struct Header<'h>(Option<&'h str>);

impl Extractor for Header<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.filter(|_| key == "traceparent")
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// A publish that is traced.
pub struct Publishing {
    span: opentelemetry_sdk::trace::Span,
    trace: Arc<Trace>,
}

impl std::fmt::Debug for Publishing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publishing")
    }
}

/// What an event carries of its trace.
#[derive(Debug)]
pub struct Trace {
    publish: SpanContext,
    /// Deliveries that may still have a span.
    left: AtomicU32,
}

/// Two traces are never compared; an event is what it is with or without one.
impl PartialEq for Trace {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Trace {}

/// Begins the span of a publish; nothing where traces are off or this one is not to be followed. `parent` is the request's `traceparent` (W3C Trace Context).
#[must_use]
pub fn publishing(room: &str, parent: Option<&str>) -> Option<Publishing> {
    let exporting = EXPORTING.get()?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(parent));
    let span = SpanBuilder::from_name("publish")
        .with_kind(SpanKind::Producer)
        .with_attributes([KeyValue::new("tidegate.room", room.to_owned())])
        .start_with_context(&exporting.tracer, &context);
    if !span.span_context().is_sampled() {
        return None;
    }
    let trace = Trace { publish: span.span_context().clone(), left: AtomicU32::new(DELIVERIES_MAX) };
    Some(Publishing { span, trace: Arc::new(trace) })
}

impl Publishing {
    /// What its events carry.
    #[must_use]
    pub fn trace(&self) -> Arc<Trace> {
        Arc::clone(&self.trace)
    }

    /// It was answered: with the first and last number, or with why not.
    pub fn end(mut self, outcome: Result<(u64, u64), String>) {
        match outcome {
            Ok((first, last)) => {
                self.span.set_attribute(KeyValue::new("tidegate.first_seq", first.to_string()));
                self.span.set_attribute(KeyValue::new("tidegate.last_seq", last.to_string()));
            }
            Err(why) => self.span.set_status(Status::error(why)),
        }
        self.span.end();
    }
}

impl Trace {
    /// One of its events was handed to a connection's socket.
    pub fn delivered(&self, seq: u64, numbered_us: u64, connection: u64, transport: &'static str) {
        let Some(exporting) = EXPORTING.get() else { return };
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return;
        }
        let parent = Context::new().with_remote_span_context(self.publish.clone());
        let mut span = SpanBuilder::from_name("deliver")
            .with_kind(SpanKind::Consumer)
            .with_start_time(time(numbered_us))
            .with_attributes([
                KeyValue::new("tidegate.seq", seq.to_string()),
                KeyValue::new("tidegate.connection", connection.to_string()),
                KeyValue::new("tidegate.transport", transport),
            ])
            .start_with_context(&exporting.tracer, &parent);
        span.end_with_timestamp(time(clock::now_us()));
    }
}

fn time(us: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us)
}
