//! The audit log's flags, as kube-apiserver has them (`apiserver/pkg/server/options/audit.go`).

use std::path::PathBuf;
use std::time::Duration;

use apiserver::{
    AuditBatchConfig, AuditConfig, AuditFormat, AuditLogConfig, AuditMode, AuditTruncateConfig,
    AuditWebhookConfig,
};
use clap::Args;
use clap::builder::BoolishValueParser;

use crate::server::duration;

/// The only version of events.
const VERSION: &str = "audit.k8s.io/v1";

/// What is audited, and whereto.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Audit log")]
pub struct AuditOptions {
    /// The audit policy (audit.k8s.io/v1); without it nothing is audited
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// The file that events are written to; - is standard output
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// Days that old audit logs are kept; 0: for ever
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    audit_log_maxage: u64,
    /// Old audit logs that are kept; 0: all
    #[arg(long, value_name = "FILES", default_value_t = 100)]
    audit_log_maxbackup: usize,
    /// Megabytes of an audit log after which another is begun; 0: it grows for ever
    #[arg(long, value_name = "MEGABYTES", default_value_t = 100)]
    audit_log_maxsize: u64,
    /// Compress old audit logs
    #[arg(long, default_value = "false", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    audit_log_compress: bool,
    /// How an event is written: json, or legacy for a line of text
    #[arg(long, default_value = "json")]
    audit_log_format: AuditFormat,
    /// The version of events that are written
    #[arg(long, default_value = VERSION, value_parser = [VERSION])]
    audit_log_version: String,
    /// A kubeconfig that names the server that events are sent to
    #[arg(long, value_name = "FILE")]
    audit_webhook_config_file: Option<PathBuf>,
    /// How long the second try of sending events waits; later ones wait longer
    #[arg(long, alias = "audit-webhook-batch-initial-backoff", default_value = "10s", value_parser = duration)]
    audit_webhook_initial_backoff: Duration,
    /// The version of events that are sent
    #[arg(long, default_value = VERSION, value_parser = [VERSION])]
    audit_webhook_version: String,
    #[command(flatten)]
    log: LogBackend,
    #[command(flatten)]
    webhook: WebhookBackend,
}

/// The flags that both backends have, under their names and with their defaults.
macro_rules! backend {
    ($name:ident, $plugin:literal, $mode:literal, $max_size:literal, $max_wait:literal, $throttle:literal, $qps:literal, $burst:literal) => {
        #[derive(Args, Clone, Debug)]
        struct $name {
            /// Whether requests wait for their events: batch, blocking, or blocking-strict to refuse a request whose
            /// arrival cannot be written
            #[arg(long = concat!("audit-", $plugin, "-mode"), id = concat!("audit-", $plugin, "-mode"), default_value = $mode)]
            mode: AuditMode,
            /// Events that wait in mode batch; others are lost
            #[arg(long = concat!("audit-", $plugin, "-batch-buffer-size"), id = concat!("audit-", $plugin, "-batch-buffer-size"), value_name = "EVENTS", default_value_t = 10_000)]
            buffer_size: usize,
            /// Events of a batch
            #[arg(long = concat!("audit-", $plugin, "-batch-max-size"), id = concat!("audit-", $plugin, "-batch-max-size"), value_name = "EVENTS", default_value_t = $max_size)]
            max_size: usize,
            /// How long a batch waits until it is full
            #[arg(long = concat!("audit-", $plugin, "-batch-max-wait"), id = concat!("audit-", $plugin, "-batch-max-wait"), value_name = "DURATION", default_value = $max_wait, value_parser = duration)]
            max_wait: Duration,
            /// Limit the batches
            #[arg(long = concat!("audit-", $plugin, "-batch-throttle-enable"), id = concat!("audit-", $plugin, "-batch-throttle-enable"), default_value = $throttle, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
            throttle: bool,
            /// Batches a second, on average
            #[arg(long = concat!("audit-", $plugin, "-batch-throttle-qps"), id = concat!("audit-", $plugin, "-batch-throttle-qps"), value_name = "BATCHES", default_value_t = $qps)]
            qps: f64,
            /// Batches at once, after a pause
            #[arg(long = concat!("audit-", $plugin, "-batch-throttle-burst"), id = concat!("audit-", $plugin, "-batch-throttle-burst"), value_name = "BATCHES", default_value_t = $burst)]
            burst: u32,
            /// Leave the bodies out of events that are too large, and split batches that are
            #[arg(long = concat!("audit-", $plugin, "-truncate-enabled"), id = concat!("audit-", $plugin, "-truncate-enabled"), default_value = "false", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
            truncate: bool,
            /// Bytes of a batch
            #[arg(long = concat!("audit-", $plugin, "-truncate-max-batch-size"), id = concat!("audit-", $plugin, "-truncate-max-batch-size"), value_name = "BYTES", default_value_t = 10 << 20)]
            max_batch_bytes: usize,
            /// Bytes of an event
            #[arg(long = concat!("audit-", $plugin, "-truncate-max-event-size"), id = concat!("audit-", $plugin, "-truncate-max-event-size"), value_name = "BYTES", default_value_t = 100 << 10)]
            max_event_bytes: usize,
        }

        impl $name {
            fn batch(&self) -> AuditBatchConfig {
                AuditBatchConfig {
                    mode: self.mode,
                    buffer_size: self.buffer_size,
                    max_size: self.max_size,
                    max_wait: self.max_wait,
                    throttle: self.throttle,
                    throttle_qps: self.qps,
                    throttle_burst: self.burst,
                }
            }

            fn truncate(&self) -> AuditTruncateConfig {
                AuditTruncateConfig {
                    enabled: self.truncate,
                    max_batch_bytes: self.max_batch_bytes,
                    max_event_bytes: self.max_event_bytes,
                }
            }
        }
    };
}

backend!(LogBackend, "log", "blocking", 1, "0s", "false", 0.0, 0);
backend!(WebhookBackend, "webhook", "batch", 400, "30s", "true", 10.0, 15);

impl AuditOptions {
    /// The audit log that the flags ask for.
    pub fn config(&self) -> AuditConfig {
        AuditConfig {
            policy_file: self.audit_policy_file.clone(),
            log: AuditLogConfig {
                path: self.audit_log_path.clone(),
                max_age_days: self.audit_log_maxage,
                max_backups: self.audit_log_maxbackup,
                max_bytes: self.audit_log_maxsize << 20,
                compress: self.audit_log_compress,
                format: self.audit_log_format,
                batch: self.log.batch(),
                truncate: self.log.truncate(),
            },
            webhook: AuditWebhookConfig {
                config_file: self.audit_webhook_config_file.clone(),
                initial_backoff: self.audit_webhook_initial_backoff,
                batch: self.webhook.batch(),
                truncate: self.webhook.truncate(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        audit: AuditOptions,
    }

    fn parse(flags: &[&str]) -> Result<AuditConfig, String> {
        let cli = Cli::try_parse_from([&["x"], flags].concat());
        cli.map(|cli| cli.audit.config()).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_upstreams() {
        let (found, wanted) = (parse(&[]).unwrap(), AuditConfig::default());
        assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
    }

    #[test]
    fn flags_are_read_as_upstream_reads_them() {
        let config = parse(&[
            "--audit-log-path=-",
            "--audit-log-compress",
            "--audit-log-maxsize=1",
            "--audit-log-mode=batch",
            "--audit-log-format=legacy",
            "--audit-log-version=audit.k8s.io/v1",
            "--audit-webhook-mode=blocking-strict",
            "--audit-webhook-batch-throttle-enable=false",
            "--audit-webhook-batch-throttle-qps=2.5",
            "--audit-webhook-batch-max-wait=1m30s",
            "--audit-webhook-initial-backoff=1s",
            "--audit-webhook-truncate-enabled=true",
        ])
        .unwrap();
        assert!(config.log.compress && config.log.max_bytes == 1 << 20);
        assert_eq!((config.log.batch.mode, config.log.format), (AuditMode::Batch, AuditFormat::Legacy));
        let webhook = &config.webhook;
        assert_eq!((webhook.batch.mode, webhook.batch.throttle), (AuditMode::BlockingStrict, false));
        assert_eq!(webhook.batch.max_wait, Duration::from_secs(90));
        assert!((webhook.batch.throttle_qps - 2.5).abs() < f64::EPSILON && webhook.truncate.enabled);
        assert_eq!(webhook.initial_backoff, Duration::from_secs(1));
        assert!(parse(&["--audit-log-mode=never"]).unwrap_err().contains("allowed modes are"));
        assert!(parse(&["--audit-log-version=audit.k8s.io/v1beta1"]).is_err());
    }
}
