//! Logs and traces.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::EnvFilter;

use super::args::LogFormat;

/// Starts logging to standard error, filtered by RUST_LOG.
pub(crate) fn start_logging(format: LogFormat) {
    let filter = EnvFilter::builder().with_default_directive(Level::INFO.into());
    let text = env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = match find_mistake(&text) {
        Some(mistake) => Err(mistake),
        None => filter.parse(&text).map_err(|error| error.to_string()),
    };
    // An invalid filter is logged as well, once there is a log.
    let (filter, filter_error) = match filter {
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
            "RUST_LOG is ignored: {error}; the log level is info, and RUST_LOG=info,muxs::call=debug is a \
             valid example"
        );
    }
}

/// Finds what the filter would take for a target that does not exist, and so would switch off the log.
fn find_mistake(filter: &str) -> Option<String> {
    // Spans and fields have a syntax of their own.
    if filter.contains('[') {
        return None;
    }
    filter.split(',').map(str::trim).find_map(|directive| {
        let Some((target, _)) = directive.split_once('=') else {
            let is_level = directive.is_empty() || directive.parse::<LevelFilter>().is_ok();
            return (!is_level).then(|| {
                format!("`{directive}` is not a level (error, warn, info, debug, trace, off)")
            });
        };
        target
            .replace("::", "")
            .contains(['.', ':'])
            .then(|| format!("`{target}` is not a target, whose parts are separated by `::`"))
    })
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

#[cfg(test)]
mod tests {
    use super::find_mistake;

    #[test]
    fn filter_that_would_switch_the_log_off_is_a_mistake() {
        for (filter, word) in [
            ("warning", "`warning` is not a level"),
            ("info,muxs", "`muxs` is not a level"),
            ("info,muxs.call=debug", "`muxs.call` is not a target"),
            ("info,muxs:call=debug", "`muxs:call` is not a target"),
        ] {
            let mistake = find_mistake(filter).unwrap();
            assert!(mistake.starts_with(word), "{mistake}");
        }
        for filter in [
            "",
            "info",
            "WARN",
            "off",
            "info, muxs::call=debug",
            "debug,h2=info,",
            "info,muxs[call{code=OK}]=debug",
        ] {
            assert_eq!(find_mistake(filter), None, "{filter}");
        }
    }
}
