//! The flags of admission, as kube-apiserver has them (`apiserver/pkg/server/options/admission.go`).

use std::path::PathBuf;

use apiserver::AdmissionConfig;
use clap::Args;

/// Which plugins decide about what is written.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admission")]
pub struct AdmissionOptions {
    /// Admission plugins that are on besides those that are on by default, in any order
    #[arg(long, value_name = "PLUGINS", value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins that are off although they are on by default, in any order
    #[arg(long, value_name = "PLUGINS", value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// A file of kind AdmissionConfiguration: what admission plugins are configured with
    #[arg(long, value_name = "FILE")]
    admission_control_config_file: Option<PathBuf>,
}

impl AdmissionOptions {
    /// The plugins, as the flags say. A flag without a value names none.
    pub fn config(&self) -> AdmissionConfig {
        let named = |list: &[String]| -> Vec<String> {
            list.iter().filter(|name| !name.is_empty()).cloned().collect()
        };
        AdmissionConfig {
            enable: named(&self.enable_admission_plugins),
            disable: named(&self.disable_admission_plugins),
            file: self.admission_control_config_file.clone(),
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
        admission: AdmissionOptions,
    }

    #[test]
    fn flags_are_read_as_upstream_reads_them() {
        let flags = [
            "x",
            "--enable-admission-plugins=NodeRestriction,EventRateLimit",
            "--enable-admission-plugins=AlwaysPullImages",
            "--disable-admission-plugins=",
            "--admission-control-config-file=/etc/admission.yaml",
        ];
        let config = Cli::try_parse_from(flags).unwrap_or_else(|error| panic!("{error}")).admission.config();
        assert_eq!(config.enable, ["NodeRestriction", "EventRateLimit", "AlwaysPullImages"]);
        assert!(config.disable.is_empty());
        assert_eq!(config.file, Some(PathBuf::from("/etc/admission.yaml")));
        let none = Cli::try_parse_from(["x"]).unwrap_or_else(|error| panic!("{error}")).admission.config();
        assert!(none.enable.is_empty() && none.disable.is_empty() && none.file.is_none());
    }
}
