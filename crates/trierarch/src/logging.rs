//! Logs: for people by default, JSON by flag; filtered as `RUST_LOG` says, `info` without it.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::rotate::{Limits, Rotating};
use crate::zap::{Look, Zap};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Format {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags that every long-running command has.
#[derive(Args, Clone, Debug)]
pub struct LogOptions {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: Format,
    /// What is logged, in the syntax of RUST_LOG, e.g. info,store=debug
    #[arg(long, env = "RUST_LOG", default_value = "info,openraft=error")]
    pub log_filter: String,
}

/// Starts logging to standard error. A second call changes nothing.
pub fn start(options: &LogOptions) {
    let filter = EnvFilter::new(&options.log_filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only when logging was started before, which is what a second call asks for.
    let _ = match options.log_format {
        Format::Text => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
}

/// Starts logging as etcd does (`--log-level`, `--log-format`, `--log-outputs`, and with rotation its
/// `--log-rotation-config-json`). A second call changes nothing.
///
/// # Errors
/// A value is none of etcd's, or a file cannot be opened.
pub fn start_zap(level: &str, format: &str, outputs: &[String], rotation: Option<&str>) -> Result<()> {
    let level = match level {
        "debug" | "info" | "warn" | "error" => level,
        // What remains at these levels ends the process and is printed anyway.
        "dpanic" | "panic" | "fatal" => "off",
        other => bail!("unrecognized level: {other:?}"),
    };
    let look = match format {
        "json" => Look::Json,
        "console" => Look::Console,
        other => bail!("unknown log format: {other:?}"),
    };
    let zap = Zap { look, now };
    let filter = EnvFilter::new(format!("{level},openraft=off"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).event_format(zap);
    // Fails only when logging was started before.
    let _ = builder.with_writer(Outputs::open(outputs, rotation)?).try_init();
    Ok(())
}

fn now() -> i64 {
    env::Env::real().clock.now().millis()
}

/// Where lines go: each to all of them.
#[derive(Clone)]
struct Outputs(Arc<Vec<Output>>);

enum Output {
    Stdout,
    Stderr,
    File(std::fs::File),
    Rotating(Rotating),
}

impl Outputs {
    fn open(names: &[String], rotation: Option<&str>) -> Result<Self> {
        let is_file = |name: &&String| !matches!(name.as_str(), "default" | "stderr" | "stdout");
        let files = names.iter().filter(is_file).count();
        if rotation.is_some() && (files > 1 || files == 0 && names.len() == 1) {
            bail!("--log-outputs requires a single file path when --log-rotate-config-json is defined");
        }
        let limits = rotation.map(Limits::parse).transpose()?;
        let open = |name: &String| match name.as_str() {
            "default" | "stderr" | "/dev/stderr" => Ok(Output::Stderr),
            "stdout" | "/dev/stdout" => Ok(Output::Stdout),
            path if limits.is_some() => {
                Ok(Output::Rotating(Rotating::open(path, limits.unwrap_or_default())?))
            }
            path => {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                Ok(Output::File(file.with_context(|| format!("cannot log to {path}"))?))
            }
        };
        Ok(Self(Arc::new(names.iter().map(open).collect::<Result<_>>()?)))
    }
}

impl Write for Outputs {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        for output in self.0.iter() {
            match output {
                Output::Stdout => std::io::stdout().write_all(line)?,
                Output::Stderr => std::io::stderr().write_all(line)?,
                Output::File(file) => (&*file).write_all(line)?,
                Output::Rotating(file) => file.write(line)?,
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Outputs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
