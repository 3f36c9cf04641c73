//! Traces for a collector, by OTLP over HTTP: spans leave in batches from a thread of their own, within bounds.
//!
//! The variables are the usual ones of OpenTelemetry, read from the environment by its own library. A collector that
//! cannot be reached costs the spans and nothing else: their queue is bounded, and what does not fit is dropped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Key, KeyValue, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::runtime::Handle;
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

use super::{
    collector::{collector, wrong},
    spans::SPANS,
};
use crate::config::ConfigError;

/// How long the last spans may take when the daemon stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Traces that are exported until the daemon stops.
#[derive(Debug)]
pub(super) struct Export(SdkTracerProvider);

impl Export {
    /// Exports to where the environment says; `None` where it names no collector. Sends nothing yet.
    pub(super) fn from_process() -> Result<Option<Self>, ConfigError> {
        let Some(variable) = collector(|name| std::env::var(name).ok())? else { return Ok(None) };
        // The process may have a provider already; either is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build();
        let exporter = exporter.map_err(|_| wrong(variable, "no exporter can be made with it"))?;
        let processor = BatchSpanProcessor::builder(Guarded::new(exporter)).build();
        let provider = SdkTracerProvider::builder().with_resource(resource()).with_span_processor(processor).build();
        Ok(Some(Self(provider)))
    }

    /// Takes our spans and nothing else: neither those of libraries nor lines of the log, which may name keys.
    pub(super) fn layer(&self) -> impl Layer<Registry> + Send + Sync + 'static {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_context_activation(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == SPANS))
    }

    /// Sends what is left, as far as it goes in time.
    pub(super) async fn finish(self) {
        let done = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        if !matches!(done, Ok(Ok(()))) {
            tracing::warn!("the last traces were not exported in time");
        }
    }
}

/// Whose traces they are: as the environment says, or this program's name.
fn resource() -> Resource {
    let from_environment = Resource::builder().build();
    let name = from_environment.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { resource } else { resource.with_service_name(env!("CARGO_PKG_NAME")) }.build()
}

/// An exporter that works on the daemon's runtime, because the thread that calls it has none, and that tells when the
/// collector is lost and when it is back.
#[derive(Debug)]
struct Guarded<E> {
    exporter: Arc<E>,
    runtime: Handle,
    is_lost: AtomicBool,
}

impl<E> Guarded<E> {
    fn new(exporter: E) -> Self {
        Self { exporter: Arc::new(exporter), runtime: Handle::current(), is_lost: AtomicBool::new(false) }
    }

    fn tell(&self, result: &OTelSdkResult) {
        let was_lost = self.is_lost.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_lost => {
                tracing::warn!(%error, "traces cannot be exported, they are dropped until the collector takes them");
            }
            Ok(()) if was_lost => tracing::info!("traces are exported again"),
            _ => {}
        }
    }
}

impl<E: SpanExporter + 'static> SpanExporter for Guarded<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let exported = self.runtime.spawn(async move { exporter.export(batch).await }).await;
        let result = exported.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())));
        self.tell(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Shared only while a batch is under way.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}
