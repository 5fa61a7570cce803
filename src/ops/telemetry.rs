//! Sets up the logs: one line an event, as text for people or JSON for machines, on standard error.
//!
//! Standard output stays free for what a command answers. Nothing here may log on its own.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// What is logged unless told otherwise: our own decisions, and only the troubles of the libraries below us.
pub const DEFAULT_FILTER: &str = "info,kube_client=warn,kube_runtime=warn,hyper_util=warn,russh=error";

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, the event's fields at its top level.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is not understood.
    #[error("log filter is not of the form `info,kube_client=debug`: {0}")]
    Filter(#[from] ParseError),
    /// Something in this process set it up before.
    #[error("logging is already set up: {0}")]
    Installed(#[from] TryInitError),
}

/// Makes all later log events of this process go to standard error.
pub fn install(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let ansi = io::stderr().is_terminal();
    subscriber(format, filter, ansi, io::stderr)?.try_init()?;
    Ok(())
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn subscriber<W>(format: LogFormat, filter: &str, ansi: bool, writer: W) -> Result<Subscriber, ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(builder.with_ansi(ansi).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_current_span(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let page = Page::default();
        let sink = page.clone();
        let subscriber = subscriber(format, filter, false, move || sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_and_span() {
        let line = written(LogFormat::Json, "info", || {
            let _span = tracing::info_span!("reconcile", object = "ns/a").entered();
            tracing::info!(count = 3, "done");
        });
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["message"], "done");
        assert_eq!(parsed["count"], 3);
        assert_eq!(parsed["span"]["object"], "ns/a");
    }

    #[test]
    fn text_lines_are_plain_when_not_on_a_terminal() {
        let line = written(LogFormat::Text, "info", || tracing::info!("hello"));
        assert!(line.contains("hello") && !line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn the_filter_is_obeyed() {
        assert_eq!(written(LogFormat::Text, "warn", || tracing::info!("hidden")), "");
    }

    #[test]
    fn a_bad_filter_is_refused_with_an_example() {
        let error = install(LogFormat::Text, "info,=,=").unwrap_err();
        assert!(error.to_string().contains("info,kube_client=debug"), "{error}");
    }
}
