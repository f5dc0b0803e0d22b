//! Logs: for people by default, JSON by flag; filtered as `RUST_LOG` says, `info` without it.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

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
