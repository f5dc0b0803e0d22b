//! `AdmissionConfiguration`: what the plugins are configured with, in the file or in files that it names (upstream:
//! `apiserver/pkg/admission/config.go`). It is read at the start.

use std::path::{Path, PathBuf};

use api_rules::look::Look;
use api_types::field::quote;
use api_types::{Value, codec};

use crate::config_file;

const KIND: &str = "AdmissionConfiguration";
/// The groups that the kind is in, each with its version.
const GROUPS: [(&str, &str); 2] = [("apiserver.config.k8s.io", "v1"), ("apiserver.k8s.io", "v1alpha1")];
const FIELDS: [&str; 3] = ["apiVersion", "kind", "plugins"];
const FIELDS_OF_PLUGIN: [&str; 3] = ["name", "path", "configuration"];
/// A document of one plugin that needs no kind: the whole file is its configuration.
const WITHOUT_KIND: (&str, &str) = ("PodNodeSelector", "podNodeSelectorPluginConfig");

/// What a file says.
#[derive(Default)]
pub(super) struct Configurations(Vec<(String, Content)>);

enum Content {
    Nothing,
    Here(Value),
    In(PathBuf),
}

impl Configurations {
    /// Reads a file, YAML or JSON.
    ///
    /// # Errors
    /// What is wrong with it, as far as it can be in upstream's words.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read(file).map_err(|error| {
            let name = quote(&file.display().to_string());
            format!("unable to read admission control configuration from {name} [{error}]")
        })?;
        let document = codec::decode_yaml(&text).map_err(|error| error.to_string())?.value;
        let of_kind =
            |(group, version): (&str, &str)| config_file::check_kind(&document, group, KIND, &[version]);
        if let Err(why) = of_kind(GROUPS[1]).or_else(|_| of_kind(GROUPS[0])) {
            let (plugin, field) = WITHOUT_KIND;
            return match document.has(field) {
                true => Ok(Self(vec![(plugin.to_owned(), Content::Here(document))])),
                false => Err(why),
            };
        }
        check_fields(&document)?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let one = |plugin: &Value| (plugin.text("name").to_owned(), Content::of(plugin, folder));
        Ok(Self(document.items("plugins").iter().map(one).collect()))
    }

    /// The configuration of a plugin.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn of(&self, plugin: &str) -> Result<Option<Value>, String> {
        match self.0.iter().find(|(name, _)| name == plugin) {
            None | Some((_, Content::Nothing)) => Ok(None),
            Some((_, Content::Here(value))) => Ok(Some(value.clone())),
            Some((_, Content::In(file))) => {
                let text = std::fs::read(file).map_err(|error| {
                    format!("Couldn't open admission plugin configuration {}: {error}", file.display())
                })?;
                let decoded = codec::decode_yaml(&text).map_err(|error| error.to_string())?;
                Ok(Some(decoded.value))
            }
        }
    }
}

impl Content {
    /// Paths are below the folder of the file that names them.
    fn of(plugin: &Value, folder: &Path) -> Self {
        match (plugin.at("configuration"), plugin.text("path")) {
            (Value::Null, "") => Self::Nothing,
            (Value::Null, path) => Self::In(folder.join(path)),
            (configuration, _) => Self::Here(configuration.clone()),
        }
    }
}

/// Unknown fields are mistakes.
fn check_fields(document: &Value) -> Result<(), String> {
    let own = document.entries("").map(|(field, _)| field);
    let mut unknown: Vec<String> = own.filter(|field| !FIELDS.contains(field)).map(str::to_owned).collect();
    for (index, plugin) in document.items("plugins").iter().enumerate() {
        let own = plugin.entries("").map(|(field, _)| field);
        let strange = own.filter(|field| !FIELDS_OF_PLUGIN.contains(field));
        unknown.extend(strange.map(|field| format!("plugins[{index}].{field}")));
    }
    config_file::unknown(&unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a file of this text says.
    fn of(folder: &Path, text: &str) -> Result<Configurations, String> {
        let file = folder.join("admission.yaml");
        std::fs::write(&file, text).unwrap();
        Configurations::read(&file)
    }

    #[test]
    fn plugins_find_their_configurations() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b.yaml"), "limits: []\n").unwrap();
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: A\n  configuration: {kind: X}\n  path: b.yaml\n- name: B\n  path: b.yaml\n- name: C\n- name: D\n  path: none.yaml\n- name: A\n";
        let found = of(folder.path(), text).ok().unwrap();
        assert_eq!(found.of("A").unwrap(), Some(json!({"kind": "X"})));
        assert_eq!(found.of("B").unwrap(), Some(json!({"limits": []})));
        assert_eq!(found.of("C").unwrap(), None);
        assert_eq!(found.of("E").unwrap(), None);
        assert!(found.of("D").is_err());
        let older = text.replace("apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1");
        assert!(of(folder.path(), &older).is_ok());
    }

    #[test]
    fn a_file_of_before_there_were_kinds_is_that_of_node_selectors() {
        let folder = tempfile::tempdir().unwrap();
        let found = of(folder.path(), "podNodeSelectorPluginConfig: {a: b=c}\n").ok().unwrap();
        let wanted = json!({"podNodeSelectorPluginConfig": {"a": "b=c"}});
        assert_eq!(found.of("PodNodeSelector").unwrap(), Some(wanted));
        assert_eq!(found.of("EventRateLimit").unwrap(), None);
    }

    #[test]
    fn mistakes_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let fault = |text: &str| of(folder.path(), text).err().unwrap();
        assert!(fault("kind: Pod\n").starts_with("no kind \"Pod\" is registered for version \"\""));
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugin: []\nplugins:\n- nam: A\n";
        assert_eq!(
            fault(text),
            "strict decoding error: unknown field \"plugin\", unknown field \"plugins[0].nam\""
        );
        let missing = Configurations::read(&folder.path().join("none")).err().unwrap();
        assert!(missing.starts_with("unable to read admission control configuration from \"/"), "{missing}");
    }
}
