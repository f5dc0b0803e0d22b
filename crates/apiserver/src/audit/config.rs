//! What the audit log is built from: upstream's `--audit-*` flags, their defaults and what is wrong with them
//! (`apiserver/pkg/server/options/audit.go`).

use std::path::PathBuf;
use std::time::Duration;

/// The audit log to be; by default there is none.
#[derive(Clone, Debug, Default)]
pub struct AuditConfig {
    /// The policy; without it nothing is written.
    pub policy_file: Option<PathBuf>,
    /// Events as lines of a file.
    pub log: AuditLogConfig,
    /// Events sent to a server.
    pub webhook: AuditWebhookConfig,
}

/// Whether requests wait for the events about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// No: events are kept in a buffer, and lost when it is full.
    Batch,
    /// Requests wait; a failure does not count.
    Blocking,
    /// Requests wait, and are refused when the event of their arrival cannot be written.
    BlockingStrict,
}

/// Modes by their names.
const MODES: [(&str, AuditMode); 3] = [
    ("batch", AuditMode::Batch),
    ("blocking", AuditMode::Blocking),
    ("blocking-strict", AuditMode::BlockingStrict),
];

impl std::str::FromStr for AuditMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = MODES.map(|(name, _)| name).join(",");
        let found = MODES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        found.ok_or_else(|| format!("invalid audit mode {text}, allowed modes are {names:?}"))
    }
}

/// How events are put together; of mode [`AuditMode::Batch`].
#[derive(Clone, Debug)]
pub struct AuditBatchConfig {
    /// Whether requests wait.
    pub mode: AuditMode,
    /// Events that wait to be written, at most; others are lost.
    pub buffer_size: usize,
    /// Events that are written at once, at most.
    pub max_size: usize,
    /// How long the first event of a batch waits for others.
    pub max_wait: Duration,
    /// Whether batches are limited.
    pub throttle: bool,
    /// Batches a second, on average.
    pub throttle_qps: f64,
    /// Batches at once, after a pause.
    pub throttle_burst: u32,
}

/// What happens to large events.
#[derive(Clone, Debug)]
pub struct AuditTruncateConfig {
    /// Whether anything does.
    pub enabled: bool,
    /// Bytes of a batch, at most.
    pub max_batch_bytes: usize,
    /// Bytes of an event, at most: a larger one loses its bodies, and is lost when it is still too large.
    pub max_event_bytes: usize,
}

/// The forms of an event in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditFormat {
    /// An object a line.
    Json,
    /// A line of text, without bodies and annotations.
    Legacy,
}

impl std::str::FromStr for AuditFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "legacy" => Ok(Self::Legacy),
            other => Err(format!("invalid audit log format {other}, allowed formats are \"legacy,json\"")),
        }
    }
}

/// Events as lines of a file.
#[derive(Clone, Debug)]
pub struct AuditLogConfig {
    /// The file; `-` is standard output.
    pub path: Option<PathBuf>,
    /// Days that old files are kept; 0: for ever.
    pub max_age_days: u64,
    /// Old files that are kept; 0: all.
    pub max_backups: usize,
    /// Bytes of the file after which another is begun; 0: it grows for ever.
    pub max_bytes: u64,
    /// Whether old files are compressed.
    pub compress: bool,
    /// The form of a line.
    pub format: AuditFormat,
    /// How events are put together.
    pub batch: AuditBatchConfig,
    /// What happens to large events.
    pub truncate: AuditTruncateConfig,
}

/// Events sent to a server.
#[derive(Clone, Debug)]
pub struct AuditWebhookConfig {
    /// A kubeconfig that names the server and who is calling.
    pub config_file: Option<PathBuf>,
    /// Before the second try; later ones wait longer.
    pub initial_backoff: Duration,
    /// How events are put together.
    pub batch: AuditBatchConfig,
    /// What happens to large events.
    pub truncate: AuditTruncateConfig,
}

impl Default for AuditTruncateConfig {
    fn default() -> Self {
        Self { enabled: false, max_batch_bytes: 10 << 20, max_event_bytes: 100 << 10 }
    }
}

impl Default for AuditLogConfig {
    fn default() -> Self {
        Self {
            path: None,
            max_age_days: 366,
            max_backups: 100,
            max_bytes: 100 << 20,
            compress: false,
            format: AuditFormat::Json,
            batch: AuditBatchConfig {
                mode: AuditMode::Blocking,
                buffer_size: 10_000,
                max_size: 1,
                max_wait: Duration::ZERO,
                throttle: false,
                throttle_qps: 0.0,
                throttle_burst: 0,
            },
            truncate: AuditTruncateConfig::default(),
        }
    }
}

impl Default for AuditWebhookConfig {
    fn default() -> Self {
        Self {
            config_file: None,
            initial_backoff: Duration::from_secs(10),
            batch: AuditBatchConfig {
                mode: AuditMode::Batch,
                buffer_size: 10_000,
                max_size: 400,
                max_wait: Duration::from_secs(30),
                throttle: true,
                throttle_qps: 10.0,
                throttle_burst: 15,
            },
            truncate: AuditTruncateConfig::default(),
        }
    }
}

impl AuditConfig {
    /// What is wrong with the flags, in upstream's words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut faults = Vec::new();
        if self.log.path.is_some() {
            self.log.batch.check("log", &mut faults);
            self.log.truncate.check("log", &mut faults);
        }
        if self.webhook.config_file.is_some() {
            self.webhook.batch.check("webhook", &mut faults);
            self.webhook.truncate.check("webhook", &mut faults);
        }
        match faults.as_slice() {
            [] => Ok(()),
            [fault] => Err(fault.clone()),
            faults => Err(format!("[{}]", faults.join(", "))),
        }
    }
}

impl AuditBatchConfig {
    fn check(&self, plugin: &str, faults: &mut Vec<String>) {
        if self.mode != AuditMode::Batch {
            return;
        }
        let mut fault = |what: &str, value: &dyn std::fmt::Display| {
            faults.push(format!("invalid audit batch {plugin} {what} {value}, must be a positive number"));
        };
        if self.buffer_size == 0 {
            fault("buffer size", &0);
        } else if self.max_size == 0 {
            fault("max batch size", &0);
        } else if self.throttle && self.throttle_qps <= 0.0 {
            fault("throttle QPS", &self.throttle_qps);
        } else if self.throttle && self.throttle_burst == 0 {
            fault("throttle burst", &0);
        }
    }
}

impl AuditTruncateConfig {
    fn check(&self, plugin: &str, faults: &mut Vec<String>) {
        let (event, batch) = (self.max_event_bytes, self.max_batch_bytes);
        if event == 0 {
            faults.push(format!(
                "invalid audit truncate {plugin} max event size {event}, must be a positive number"
            ));
        } else if batch < event {
            faults.push(format!(
                "invalid audit truncate {plugin} max batch size {batch}, must be greater than max event size ({event})"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_defaults_are_good_and_nothing_is_checked_that_is_not_used() {
        let mut config = AuditConfig::default();
        config.webhook.batch.buffer_size = 0;
        assert_eq!(config.check(), Ok(()));
        config.log.path = Some("-".into());
        assert_eq!(config.check(), Ok(()));
        config.webhook.config_file = Some("x".into());
        assert_eq!(
            config.check().unwrap_err(),
            "invalid audit batch webhook buffer size 0, must be a positive number"
        );
        config.log.truncate.max_batch_bytes = 1;
        assert_eq!(
            config.check().unwrap_err(),
            "[invalid audit truncate log max batch size 1, must be greater than max event size (102400), \
             invalid audit batch webhook buffer size 0, must be a positive number]"
        );
    }

    #[test]
    fn names_that_are_none_are_refused() {
        assert_eq!("batch".parse(), Ok(AuditMode::Batch));
        let error = "sometimes".parse::<AuditMode>().unwrap_err();
        assert_eq!(
            error,
            "invalid audit mode sometimes, allowed modes are \"batch,blocking,blocking-strict\""
        );
        assert!("xml".parse::<AuditFormat>().unwrap_err().starts_with("invalid audit log format xml"));
    }
}
