//! Log lines as etcd's logger (zap) writes them: one JSON object a line, or columns between tabs.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// A field with an object in it, whose fields become the line's own: what is not known when the program is built.
const SPREAD: &str = "spread";

/// The two looks of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// `{"level":"info","ts":"…","caller":"store/leadership.rs:42","msg":"…", fields}`
    Json,
    /// Time, level, caller, message and fields with tabs between them.
    Console,
}

/// Formats events.
pub struct Zap {
    /// How lines look.
    pub look: Look,
    /// Wall-clock time, milliseconds since 1970.
    pub now: fn() -> i64,
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (SPREAD, Value::String(text)) => {
                self.others.extend(serde_json::from_str::<Map<String, Value>>(&text).unwrap_or_default());
            }
            (name, value) => drop(self.others.insert(name.replace('_', "-"), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// zap's names; a trace is a debug line to it.
fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// The file below its package, and the line.
fn caller(metadata: &tracing::Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("unknown").replace("/src/", "/");
    let mut parts = file.rsplitn(3, '/');
    let (name, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("etcd"));
    format!("{folder}/{name}:{}", metadata.line().unwrap_or(0))
}

impl<S, N> FormatEvent<S, N> for Zap
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let at = api_types::time::micro_from_millis((self.now)());
        let (level, caller) = (level(*metadata.level()), caller(metadata));
        match self.look {
            Look::Json => {
                let text = |text: &str| Value::String(text.to_owned()).to_string();
                write!(
                    writer,
                    "{{\"level\":\"{level}\",\"ts\":\"{at}\",\"caller\":{},\"msg\":{}",
                    text(&caller),
                    text(&fields.message)
                )?;
                for (name, value) in &fields.others {
                    write!(writer, ",{}:{value}", text(name))?;
                }
                writeln!(writer, "}}")
            }
            Look::Console if fields.others.is_empty() => {
                writeln!(writer, "{at}\t{level}\t{caller}\t{}", fields.message)
            }
            Look::Console => {
                let others = Value::Object(fields.others);
                writeln!(writer, "{at}\t{level}\t{caller}\t{}\t{others}", fields.message)
            }
        }
    }
}
