//! Logs and traces.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::EnvFilter;

use super::args::LogFormat;

/// Starts logging to standard error, filtered by RUST_LOG.
pub(crate) fn start_logging(format: LogFormat) {
    let filter = EnvFilter::builder().with_default_directive(Level::INFO.into());
    // An invalid filter is logged as well, once there is a log.
    let (filter, filter_error) = match filter.from_env() {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(Level::INFO.as_str()), Some(error)),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => {
            logs.json().init();
            // Every line is JSON, so that programs can parse the log.
            std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        }
    }
    if let Some(error) = filter_error {
        tracing::warn!(
            %error,
            "RUST_LOG is invalid and ignored, so the log level is info; an example of a valid one: \
             RUST_LOG=info,muxs::call=debug"
        );
    }
}

#[cfg(feature = "otel")]
pub(crate) use self::traces::Traces;

#[cfg(feature = "otel")]
mod traces {
    use anyhow::Context;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_otlp::{
        SpanExporter, WithExportConfig, WithTonicConfig, tonic_types::transport::ClientTlsConfig,
    };
    use opentelemetry_sdk::{
        Resource,
        trace::{SdkTracer, SdkTracerProvider},
    };

    /// Exports spans by OTLP until the program ends.
    pub(crate) struct Traces(Option<SdkTracerProvider>);

    impl Traces {
        /// Starts the export to `endpoint`, if there is one. Must be called within a Tokio runtime.
        ///
        /// OpenTelemetry's environment variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER,
        /// OTEL_EXPORTER_OTLP_HEADERS and so on) determine the other settings.
        pub(crate) fn start(endpoint: Option<&str>) -> anyhow::Result<Self> {
            let Some(endpoint) = endpoint else {
                return Ok(Self(None));
            };
            let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
            if endpoint.starts_with("https://") {
                exporter = exporter.with_tls_config(ClientTlsConfig::new().with_native_roots());
            }
            let exporter = exporter
                .build()
                .with_context(|| format!("cannot export traces to {endpoint}"))?;
            let mut resource = Resource::builder();
            if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
                resource = resource.with_service_name(env!("CARGO_PKG_NAME"));
            }
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource.build())
                .build();
            Ok(Self(Some(provider)))
        }

        pub(crate) fn tracer(&self) -> Option<SdkTracer> {
            let provider = self.0.as_ref()?;
            Some(provider.tracer(env!("CARGO_PKG_NAME")))
        }

        /// Exports the remaining spans, within the exporter's timeout.
        pub(crate) async fn finish(self) {
            let Some(provider) = self.0 else { return };
            let finished = tokio::task::spawn_blocking(move || provider.shutdown()).await;
            if let Ok(Err(error)) = finished {
                tracing::warn!(%error, "cannot export the last traces");
            }
        }
    }
}
