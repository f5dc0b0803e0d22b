//! etcd's flags, read as Go's `flag` package reads them: `-x v`, `--x v`, `--x=v`, bare booleans; the last one wins.
//!
//! What is not on the command line comes from `ETCD_<NAME>`; a `--config-file` stands for both.

use std::collections::BTreeMap;

use api_types::time;
use transport::Address;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `false`, or nothing for `true`.
    Bool,
    /// Anything.
    Text,
    /// A whole number from 0.
    Unsigned,
    /// A whole number.
    Signed,
    /// As Go prints durations: `1m30s`.
    Duration,
    /// URLs with commas between them.
    Urls,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Names of gates, each with `=true` or `=false`.
    Gates,
    /// Nothing that is looked at: the flag is known from older versions.
    Ignored,
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What it does in etcd.
    Works,
    /// Nothing: it tunes what this engine does not have or need, or what is fixed here at etcd's default.
    Moot,
    /// Known from older versions, without effect in etcd too. Not shown.
    Old,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// etcd's default; empty where this store has one of its own.
    pub default: &'static str,
    /// What it does.
    pub effect: Effect,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, effect: Effect) -> Flag {
    Flag { name, kind, default, effect }
}

/// The flags of etcd 3.7 (`embed/config.go`), and those that only this store has.
pub const FLAGS: &[Flag] = &[
    flag("data-dir", Kind::Text, "", Effect::Works),
    flag("wal-dir", Kind::Text, "", Effect::Works),
    flag("listen-peer-urls", Kind::Urls, "http://localhost:2380", Effect::Works),
    flag("listen-client-urls", Kind::Urls, "http://localhost:2379", Effect::Works),
    flag("listen-client-http-urls", Kind::Urls, "", Effect::Works),
    flag("listen-metrics-urls", Kind::Urls, "", Effect::Works),
    flag("max-snapshots", Kind::Unsigned, "5", Effect::Moot),
    flag("max-wals", Kind::Unsigned, "5", Effect::Moot),
    flag("name", Kind::Text, "default", Effect::Works),
    flag("snapshot-count", Kind::Unsigned, "10000", Effect::Works),
    flag("snapshot-catchup-entries", Kind::Unsigned, "5000", Effect::Works),
    flag("heartbeat-interval", Kind::Unsigned, "", Effect::Works),
    flag("election-timeout", Kind::Unsigned, "", Effect::Works),
    flag("initial-election-tick-advance", Kind::Bool, "true", Effect::Moot),
    flag("quota-backend-bytes", Kind::Signed, "0", Effect::Works),
    flag("backend-bbolt-freelist-type", Kind::Text, "map", Effect::Moot),
    flag("backend-batch-interval", Kind::Duration, "0s", Effect::Moot),
    flag("backend-batch-limit", Kind::Signed, "0", Effect::Moot),
    flag("max-txn-ops", Kind::Unsigned, "128", Effect::Works),
    flag("max-request-bytes", Kind::Unsigned, "1572864", Effect::Works),
    flag("grpc-keepalive-min-time", Kind::Duration, "5s", Effect::Works),
    flag("grpc-keepalive-interval", Kind::Duration, "2h0m0s", Effect::Works),
    flag("grpc-keepalive-timeout", Kind::Duration, "20s", Effect::Works),
    flag("socket-reuse-port", Kind::Bool, "false", Effect::Works),
    flag("socket-reuse-address", Kind::Bool, "false", Effect::Works),
    flag("max-concurrent-streams", Kind::Unsigned, "4294967295", Effect::Works),
    flag("raft-read-timeout", Kind::Duration, "5s", Effect::Moot),
    flag("raft-write-timeout", Kind::Duration, "5s", Effect::Moot),
    flag("initial-advertise-peer-urls", Kind::Urls, "http://localhost:2380", Effect::Works),
    flag("advertise-client-urls", Kind::Urls, "http://localhost:2379", Effect::Works),
    flag("discovery-endpoints", Kind::Text, "", Effect::Works),
    flag("discovery-token", Kind::Text, "", Effect::Works),
    flag("discovery-dial-timeout", Kind::Duration, "2s", Effect::Works),
    flag("discovery-request-timeout", Kind::Duration, "5s", Effect::Works),
    flag("discovery-keepalive-time", Kind::Duration, "2s", Effect::Works),
    flag("discovery-keepalive-timeout", Kind::Duration, "6s", Effect::Works),
    flag("discovery-insecure-transport", Kind::Bool, "true", Effect::Works),
    flag("discovery-insecure-skip-tls-verify", Kind::Bool, "false", Effect::Works),
    flag("discovery-cert", Kind::Text, "", Effect::Works),
    flag("discovery-key", Kind::Text, "", Effect::Works),
    flag("discovery-cacert", Kind::Text, "", Effect::Works),
    flag("discovery-user", Kind::Text, "", Effect::Works),
    flag("discovery-password", Kind::Text, "", Effect::Works),
    flag("discovery-srv", Kind::Text, "", Effect::Works),
    flag("discovery-srv-name", Kind::Text, "", Effect::Works),
    flag("initial-cluster", Kind::Text, "", Effect::Works),
    flag("initial-cluster-token", Kind::Text, "etcd-cluster", Effect::Works),
    flag("initial-cluster-state", Kind::Choice(&["new", "existing"]), "new", Effect::Works),
    flag("strict-reconfig-check", Kind::Bool, "true", Effect::Works),
    flag("pre-vote", Kind::Bool, "true", Effect::Moot),
    flag("cert-file", Kind::Text, "", Effect::Works),
    flag("key-file", Kind::Text, "", Effect::Works),
    flag("client-cert-file", Kind::Text, "", Effect::Works),
    flag("client-key-file", Kind::Text, "", Effect::Works),
    flag("client-cert-auth", Kind::Bool, "false", Effect::Works),
    flag("client-crl-file", Kind::Text, "", Effect::Works),
    flag("client-cert-allowed-hostname", Kind::Text, "", Effect::Works),
    flag("trusted-ca-file", Kind::Text, "", Effect::Works),
    flag("auto-tls", Kind::Bool, "false", Effect::Works),
    flag("peer-cert-file", Kind::Text, "", Effect::Works),
    flag("peer-key-file", Kind::Text, "", Effect::Works),
    flag("peer-client-cert-file", Kind::Text, "", Effect::Works),
    flag("peer-client-key-file", Kind::Text, "", Effect::Works),
    flag("peer-client-cert-auth", Kind::Bool, "false", Effect::Works),
    flag("peer-trusted-ca-file", Kind::Text, "", Effect::Works),
    flag("peer-auto-tls", Kind::Bool, "false", Effect::Works),
    flag("self-signed-cert-validity", Kind::Unsigned, "1", Effect::Works),
    flag("peer-crl-file", Kind::Text, "", Effect::Works),
    flag("peer-cert-allowed-cn", Kind::Text, "", Effect::Works),
    flag("peer-cert-allowed-hostname", Kind::Text, "", Effect::Works),
    flag("peer-skip-client-san-verification", Kind::Bool, "false", Effect::Works),
    flag("cipher-suites", Kind::Text, "", Effect::Works),
    flag("tls-min-version", Kind::Text, "TLS1.2", Effect::Works),
    flag("tls-max-version", Kind::Text, "", Effect::Works),
    flag("cors", Kind::Text, "*", Effect::Works),
    flag("host-whitelist", Kind::Text, "*", Effect::Works),
    flag("logger", Kind::Text, "zap", Effect::Works),
    flag("log-outputs", Kind::Text, "default", Effect::Works),
    flag("log-level", Kind::Text, "info", Effect::Works),
    flag("log-format", Kind::Text, "json", Effect::Works),
    flag("enable-log-rotation", Kind::Bool, "false", Effect::Works),
    flag("log-rotation-config-json", Kind::Text, "{\"maxsize\": 100}", Effect::Works),
    flag("auto-compaction-retention", Kind::Text, "0", Effect::Works),
    flag("auto-compaction-mode", Kind::Text, "periodic", Effect::Works),
    flag("enable-pprof", Kind::Bool, "false", Effect::Moot),
    flag("metrics", Kind::Text, "basic", Effect::Works),
    flag("enable-distributed-tracing", Kind::Bool, "false", Effect::Moot),
    flag("distributed-tracing-address", Kind::Text, "localhost:4317", Effect::Moot),
    flag("distributed-tracing-service-name", Kind::Text, "etcd", Effect::Moot),
    flag("distributed-tracing-instance-id", Kind::Text, "", Effect::Moot),
    flag("distributed-tracing-sampling-rate", Kind::Signed, "0", Effect::Moot),
    flag("auth-token", Kind::Text, "simple", Effect::Works),
    flag("bcrypt-cost", Kind::Unsigned, "10", Effect::Works),
    flag("auth-token-ttl", Kind::Unsigned, "300", Effect::Works),
    flag("enable-grpc-gateway", Kind::Bool, "true", Effect::Works),
    flag("corrupt-check-time", Kind::Duration, "0s", Effect::Works),
    flag("compact-hash-check-time", Kind::Duration, "1m0s", Effect::Works),
    flag("compaction-batch-limit", Kind::Signed, "1000", Effect::Works),
    flag("compaction-sleep-interval", Kind::Duration, "10ms", Effect::Works),
    flag("watch-progress-notify-interval", Kind::Duration, "10m0s", Effect::Works),
    flag("downgrade-check-time", Kind::Duration, "5s", Effect::Moot),
    flag("warning-apply-duration", Kind::Duration, "100ms", Effect::Works),
    flag("warning-unary-request-duration", Kind::Duration, "300ms", Effect::Works),
    flag("memory-mlock", Kind::Bool, "false", Effect::Works),
    flag("bootstrap-defrag-threshold-megabytes", Kind::Unsigned, "0", Effect::Moot),
    flag("max-learners", Kind::Signed, "1", Effect::Works),
    flag("unsafe-no-fsync", Kind::Bool, "false", Effect::Works),
    flag("force-new-cluster", Kind::Bool, "false", Effect::Works),
    flag("feature-gates", Kind::Gates, "", Effect::Works),
    flag("config-file", Kind::Text, "", Effect::Works),
    flag("version", Kind::Bool, "false", Effect::Works),
    // Of this store alone.
    flag("client-memory-bytes", Kind::Unsigned, "0", Effect::Works),
    flag("max-leases", Kind::Unsigned, "4000000", Effect::Works),
    // Of older versions.
    flag("discovery-fallback", Kind::Choice(&["exit", "proxy"]), "exit", Effect::Old),
    flag("v2-deprecation", Kind::Choice(V2_STAGES), "write-only", Effect::Old),
    flag("cluster-active-size", Kind::Ignored, "", Effect::Old),
    flag("cluster-remove-delay", Kind::Ignored, "", Effect::Old),
    flag("cluster-sync-interval", Kind::Ignored, "", Effect::Old),
    flag("config", Kind::Ignored, "", Effect::Old),
    flag("force", Kind::Ignored, "", Effect::Old),
    flag("max-result-buffer", Kind::Ignored, "", Effect::Old),
    flag("max-retry-attempts", Kind::Ignored, "", Effect::Old),
    flag("peer-heartbeat-interval", Kind::Ignored, "", Effect::Old),
    flag("peer-election-timeout", Kind::Ignored, "", Effect::Old),
    flag("retry-interval", Kind::Ignored, "", Effect::Old),
    flag("snapshot", Kind::Ignored, "", Effect::Old),
    flag("v", Kind::Ignored, "", Effect::Old),
    flag("vv", Kind::Ignored, "", Effect::Old),
];

/// Stages of the end of etcd's second version. None of them means anything here; etcd 3.7 ignores the choice too.
const V2_STAGES: &[&str] = &["write-only", "write-only-skip-check", "write-only-drop-data", "gone"];

/// Flags whose use earns a warning, and the warning.
pub const DEPRECATED: &[(&str, &str)] = &[
    ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.",
    ),
];

/// etcd's feature gates, with what they are by default.
pub const GATES: &[(&str, bool)] = &[
    ("AllAlpha", false),
    ("AllBeta", false),
    ("CompactHashCheck", false),
    ("FastLeaseKeepAlive", true),
    ("InitialCorruptCheck", false),
    ("LeaseCheckpoint", false),
    ("LeaseCheckpointPersist", false),
    ("PriorityRequest", false),
    ("SetMemberLocalAddr", false),
    ("StopGRPCServiceOnDefrag", false),
    ("TxnModeWriteWithSharedBuffer", true),
];

/// Why flags cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Somebody asked for help.
    #[error("help was asked for")]
    Help,
    /// There is no such flag.
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    /// The last word is a flag that wants a value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A word that is no flag.
    #[error("{0:?} is not a valid flag")]
    NotAFlag(String),
    /// The value is not of the flag's kind.
    #[error("invalid value {value:?} for flag -{name}: {cause}")]
    Value {
        /// Whose.
        name: &'static str,
        /// The value.
        value: String,
        /// Why not.
        cause: String,
    },
    /// The same, of a value in the environment.
    #[error("invalid value {value:?} for {variable}: {cause}")]
    Environment {
        /// Whose.
        variable: String,
        /// The value.
        value: String,
        /// Why not.
        cause: String,
    },
    /// A flag is in the environment too.
    #[error(
        "conflicting environment variable {0:?} is shadowed by corresponding command-line flag (either unset \
         environment variable or disable flag)"
    )]
    Shadowed(String),
    /// The file cannot be read.
    #[error("error loading config file: {0}")]
    File(String),
}

impl FlagError {
    /// The same of a value that the environment gave.
    fn of_variable(self, variable: String) -> Self {
        match self {
            Self::Value { value, cause, .. } => Self::Environment { variable, value, cause },
            other => other,
        }
    }

    /// The same of a value that the file gave.
    fn of_file(self) -> Self {
        match self {
            Self::Value { name, value, cause } => {
                Self::File(format!("invalid value {value:?} for {name}: {cause}"))
            }
            other => other,
        }
    }
}

/// The flags that were set, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    values: BTreeMap<&'static str, String>,
}

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

fn checked(flag: &'static Flag, value: String) -> Result<String, FlagError> {
    let number = |good: bool| if good { Ok(()) } else { Err("parse error".to_owned()) };
    let good = match flag.kind {
        Kind::Bool => number(boolean(&value).is_some()),
        Kind::Text | Kind::Ignored => Ok(()),
        Kind::Urls => urls(&value),
        Kind::Unsigned => number(value.parse::<u64>().is_ok()),
        Kind::Signed => number(value.parse::<i64>().is_ok()),
        Kind::Duration => number(time::parse_duration(&value).is_some()),
        Kind::Choice(choices) if choices.contains(&value.as_str()) => Ok(()),
        Kind::Choice(_) => Err(format!("invalid value {value:?}")),
        Kind::Gates => gates(&value).map(drop),
    };
    match good {
        Ok(()) => Ok(value),
        Err(cause) => Err(FlagError::Value { name: flag.name, value, cause }),
    }
}

fn urls(text: &str) -> Result<(), String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::parse::<Address>).try_for_each(|url| url.map(drop)).map_err(|error| error.to_string())
}

fn gates(text: &str) -> Result<Vec<(&'static str, bool)>, String> {
    let mut set = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("missing bool value for {part}"))?;
        let known = GATES.iter().find(|(known, _)| *known == name.trim());
        let (name, _) = known.ok_or_else(|| format!("unrecognized feature gate: {}", name.trim()))?;
        let value = boolean(value.trim()).ok_or_else(|| {
            format!("invalid value of {name}={value}, err: parsing {value:?}: invalid syntax")
        })?;
        set.push((*name, value));
    }
    Ok(set)
}

/// A number of a file: a whole one without point and exponent, as Go's decoder takes it (`1e9`).
fn plain(number: &serde_json::Number) -> String {
    let whole = number.as_f64().filter(|value| number.is_f64() && value.fract() == 0.0);
    match whole.filter(|value| value.abs() < i64::MAX as f64) {
        Some(value) => (value as i64).to_string(),
        None => number.to_string(),
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

impl Flags {
    /// Reads a command line.
    ///
    /// # Errors
    /// See [`FlagError`].
    pub fn parse(words: &[String]) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let Some(name) = name.filter(|name| !name.is_empty() && !name.starts_with(['-', '='])) else {
                return Err(FlagError::NotAFlag(word.clone()));
            };
            let (name, value) =
                name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
            if matches!(name, "h" | "help") {
                return Err(FlagError::Help);
            }
            let flag = find(name).ok_or_else(|| FlagError::Undefined(name.to_owned()))?;
            let value = match (value, flag.kind) {
                (Some(value), _) => value.to_owned(),
                (None, Kind::Bool | Kind::Ignored) => "true".to_owned(),
                (None, _) => words.next().cloned().ok_or_else(|| FlagError::NoValue(name.to_owned()))?,
            };
            flags.values.insert(flag.name, checked(flag, value)?);
        }
        Ok(flags)
    }

    /// Adds what the environment says; the names of `ETCD_` variables that say nothing.
    ///
    /// # Errors
    /// A value is not of its flag's kind, or the flag is set already.
    pub fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Vec<String>, FlagError> {
        let (mut unknown, mut invalid, given) = (Vec::new(), None, self.values.clone());
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix("ETCD_") else { continue };
            let name = name.to_ascii_lowercase().replace('_', "-");
            match find(&name) {
                Some(flag) if given.contains_key(flag.name) => return Err(FlagError::Shadowed(variable)),
                Some(_) if value.is_empty() => {}
                Some(flag) => match checked(flag, value) {
                    Ok(value) => drop(self.values.insert(flag.name, value)),
                    Err(error) => invalid = Some(error.of_variable(variable)),
                },
                None => unknown.push(variable),
            }
        }
        invalid.map_or(Ok(unknown), Err)
    }

    /// Reads a configuration file: the flags' names as keys, those of TLS below `client-transport-security` and
    /// `peer-transport-security`. Keys that are no flags are passed over, as etcd does.
    ///
    /// # Errors
    /// It is no YAML mapping, or a value is not of its flag's kind.
    pub fn from_yaml(text: &str) -> Result<Self, FlagError> {
        // Of a key that stands there twice the last value holds, as with Go's decoder.
        let options = serde_saphyr::options! {
            duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        };
        let document: BTreeMap<String, serde_json::Value> =
            serde_saphyr::from_str_with_options(text, options)
                .map_err(|error| FlagError::File(error.to_string()))?;
        let mut flags = Self::default();
        for (key, value) in &document {
            let prefix = match key.as_str() {
                "client-transport-security" => "",
                "peer-transport-security" => "peer-",
                "socket-options" => "socket-",
                // A nested file of discovery, as etcd's decoder takes it.
                "discovery-config" => {
                    flags.set_discovery(value)?;
                    continue;
                }
                _ => {
                    flags.set_yaml(key, value)?;
                    continue;
                }
            };
            for (key, value) in value.as_object().into_iter().flatten() {
                // The two sides name some of their flags each in its own way.
                let name = match (prefix, key.as_str()) {
                    ("peer-", "client-cert-auth") => "peer-client-cert-auth".to_owned(),
                    ("peer-", "skip-client-san-verification") => {
                        "peer-skip-client-san-verification".to_owned()
                    }
                    ("peer-", "allowed-cn") => "peer-cert-allowed-cn".to_owned(),
                    ("peer-", "allowed-hostname") => "peer-cert-allowed-hostname".to_owned(),
                    ("", "allowed-hostname") => "client-cert-allowed-hostname".to_owned(),
                    (prefix, key) => format!("{prefix}{key}"),
                };
                flags.set_yaml(&name, value)?;
            }
        }
        Ok(flags)
    }

    /// `discovery-config`: a token, and how its cluster is called.
    fn set_discovery(&mut self, value: &serde_json::Value) -> Result<(), FlagError> {
        let client = &value["client"];
        let parts = [
            ("discovery-token", &value["token"]),
            ("discovery-endpoints", &client["endpoints"]),
            ("discovery-dial-timeout", &client["dial-timeout"]),
            ("discovery-request-timeout", &client["request-timeout"]),
            ("discovery-keepalive-time", &client["keepalive-time"]),
            ("discovery-keepalive-timeout", &client["keepalive-timeout"]),
            ("discovery-insecure-transport", &client["secure"]["insecure-transport"]),
            ("discovery-insecure-skip-tls-verify", &client["secure"]["insecure-skip-tls-verify"]),
            ("discovery-cert", &client["secure"]["cert"]),
            ("discovery-key", &client["secure"]["key"]),
            ("discovery-cacert", &client["secure"]["cacert"]),
            ("discovery-user", &client["auth"]["username"]),
            ("discovery-password", &client["auth"]["password"]),
        ];
        parts.into_iter().try_for_each(|(name, value)| self.set_yaml(name, value))
    }

    fn set_yaml(&mut self, name: &str, value: &serde_json::Value) -> Result<(), FlagError> {
        // Files of etcd's users hold keys of flags that are long gone.
        let known = find(name).filter(|flag| flag.effect != Effect::Old || flag.name == "v2-deprecation");
        let Some(flag) = known else { return Ok(()) };
        let text = match value {
            serde_json::Value::Null => return Ok(()),
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(items) => {
                let items =
                    items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
                items.collect::<Vec<_>>().join(",")
            }
            // In files durations may be numbers of nanoseconds, as Go's decoder takes them.
            serde_json::Value::Number(number) if flag.kind == Kind::Duration => {
                format!("{}ns", plain(number))
            }
            serde_json::Value::Number(number) => plain(number),
            other => other.to_string(),
        };
        if !text.is_empty() {
            self.values.insert(flag.name, checked(flag, text).map_err(FlagError::of_file)?);
        }
        Ok(())
    }

    /// Whether a flag was set, to whatever.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether a feature gate is open.
    pub fn gate(&self, name: &str) -> bool {
        let set = gates(self.get("feature-gates")).unwrap_or_default();
        let chosen = |name| set.iter().rev().find(|(known, _)| *known == name).map(|(_, open)| *open);
        let default = GATES.iter().find(|(known, _)| *known == name).is_some_and(|(_, open)| *open);
        // Those that are closed by default are of the stage alpha.
        let stage = chosen(if default { "AllBeta" } else { "AllAlpha" });
        chosen(name).or(stage).unwrap_or(default)
    }

    /// URLs.
    pub fn addresses(&self, name: &str) -> Vec<Address> {
        self.list(name).iter().filter_map(|url| url.parse().ok()).collect()
    }

    /// A flag's value, or its default.
    ///
    /// # Panics
    /// If the table has no such flag.
    pub fn get(&self, name: &str) -> &str {
        let flag = find(name).expect("invariant: only flags of the table are asked for");
        self.values.get(flag.name).map_or(flag.default, String::as_str)
    }

    /// A flag's value, if it is not empty.
    pub fn some(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }

    /// A boolean.
    pub fn on(&self, name: &str) -> bool {
        boolean(self.get(name)).unwrap_or(false)
    }

    /// A number, if one is set or the default.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }

    /// A whole number that has a default.
    pub fn signed(&self, name: &str) -> i64 {
        self.get(name).parse().unwrap_or(0)
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> std::time::Duration {
        let nanos = time::parse_duration(self.get(name)).and_then(|nanos| u64::try_from(nanos).ok());
        std::time::Duration::from_nanos(nanos.unwrap_or(0))
    }

    /// The parts between commas.
    pub fn list(&self, name: &str) -> Vec<String> {
        let parts = self.get(name).split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Flags, FlagError> {
        Flags::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_table_is_sound() {
        for flag in FLAGS {
            assert!(FLAGS.iter().filter(|other| other.name == flag.name).count() == 1, "{}", flag.name);
            if !flag.default.is_empty() {
                checked(flag, flag.default.to_owned()).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let flags =
            parse(&["--name=a", "-name", "b", "--snapshot-count", "7", "-client-cert-auth", "--pre-vote=F"]);
        let flags = flags.expect("flags");
        assert_eq!((flags.get("name"), flags.number("snapshot-count")), ("b", Some(7)));
        assert!(flags.on("client-cert-auth") && !flags.on("pre-vote"));
        assert_eq!(flags.get("initial-cluster-state"), "new");
        let fails = |words: &[&str]| parse(words).expect_err("refused").to_string();
        assert_eq!(fails(&["--nme=a"]), "flag provided but not defined: -nme");
        assert_eq!(fails(&["--name"]), "flag needs an argument: -name");
        assert_eq!(fails(&["name"]), "\"name\" is not a valid flag");
        assert_eq!(
            fails(&["--v2-deprecation=not-yet"]),
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\""
        );
        assert_eq!(
            fails(&["--feature-gates=Nonsense=true"]),
            "invalid value \"Nonsense=true\" for flag -feature-gates: unrecognized feature gate: Nonsense"
        );
        assert_eq!(
            fails(&["--listen-client-urls=h:1"]),
            "invalid value \"h:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: h:1"
        );
        assert_eq!(
            fails(&["--snapshot-count=x"]),
            "invalid value \"x\" for flag -snapshot-count: parse error"
        );
        assert_eq!(parse(&["-h"]), Err(FlagError::Help));
    }

    #[test]
    fn gates_are_open_by_default_or_by_choice() {
        let flags =
            parse(&["--feature-gates=SetMemberLocalAddr=true,FastLeaseKeepAlive=false"]).expect("flags");
        assert!(flags.gate("SetMemberLocalAddr") && flags.gate("TxnModeWriteWithSharedBuffer"));
        assert!(!flags.gate("FastLeaseKeepAlive") && !flags.gate("LeaseCheckpoint"));
    }

    #[test]
    fn the_environment_fills_in() {
        let mut flags = parse(&["--name=a"]).expect("flags");
        let mut add = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            flags.add_environment(variables)
        };
        let variables = [("ETCD_METRICS", ""), ("ETCD_DATA_DIR", "d"), ("ETCD_NONSENSE", "x"), ("PATH", "p")];
        assert_eq!(add(&variables).expect("variables"), ["ETCD_NONSENSE"]);
        let refused = add(&[("ETCD_SNAPSHOT_COUNT", "x")]).expect_err("no number").to_string();
        assert_eq!(refused, "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error");
        for value in ["a", "b", ""] {
            let refused = add(&[("ETCD_SNAPSHOT_COUNT", "x"), ("ETCD_NAME", value)]).expect_err("a flag too");
            assert_eq!(refused, FlagError::Shadowed("ETCD_NAME".to_owned()));
        }
        assert_eq!((flags.get("name"), flags.get("data-dir"), flags.get("metrics")), ("a", "d", "basic"));
    }

    #[test]
    fn a_file_has_tls_in_its_own_sections() {
        let text = "name: m\nsnapshot-count: 50\nlisten-client-urls: http://a:1,http://b:2\nunknown: 1\n\
                    watch-progress-notify-interval: 5s\ninitial-cluster:\n\
                    client-transport-security:\n  cert-file: c\n  client-cert-auth: true\n\
                    peer-transport-security:\n  trusted-ca-file: p\n  client-cert-auth: true\n";
        let flags = Flags::from_yaml(text).expect("a file");
        assert_eq!((flags.get("name"), flags.number("snapshot-count")), ("m", Some(50)));
        assert_eq!(flags.list("listen-client-urls"), ["http://a:1", "http://b:2"]);
        assert_eq!((flags.get("cert-file"), flags.get("peer-trusted-ca-file")), ("c", "p"));
        assert!(flags.on("client-cert-auth") && flags.on("peer-client-cert-auth"));
        assert!(Flags::from_yaml("- a\n").is_err());
        let flags = Flags::from_yaml("name: a\nquota-backend-bytes: 1e9\nname: b\n").expect("a file");
        assert_eq!((flags.get("name"), flags.get("quota-backend-bytes")), ("b", "1000000000"));
        for wrong in ["quota-backend-bytes: 1.5", "snapshot-count: x", "pre-vote: maybe"] {
            assert!(matches!(Flags::from_yaml(wrong), Err(FlagError::File(_))), "{wrong}");
        }
    }
}
