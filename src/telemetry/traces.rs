//! What becomes of spans: exported, if the daemon is built with that (feature `otlp`) and told where to, else nothing.

use crate::config::{ConfigError, LogSettings};

/// The daemon's traces, until it stops.
#[derive(Debug)]
#[must_use = "the last spans are sent when it is finished"]
pub struct Traces {
    #[cfg(feature = "otlp")]
    export: Option<super::export::Export>,
}

#[cfg(feature = "otlp")]
impl Traces {
    /// Starts logging to standard error, and exporting traces if the environment names a collector.
    pub fn start(settings: &LogSettings) -> Result<Self, ConfigError> {
        let export = super::export::Export::from_process()?;
        super::start_with(settings, export.as_ref().map(super::export::Export::layer));
        Ok(Self { export })
    }

    /// Sends what is left, as far as it goes in time.
    pub async fn finish(self) {
        if let Some(export) = self.export {
            export.finish().await;
        }
    }
}

#[cfg(not(feature = "otlp"))]
impl Traces {
    /// Starts logging to standard error.
    pub fn start(settings: &LogSettings) -> Result<Self, ConfigError> {
        super::start(settings);
        Ok(Self {})
    }

    /// There is nothing to send.
    pub async fn finish(self) {}
}
