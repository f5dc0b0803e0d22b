//! Encryption at rest: values of the kinds that an `EncryptionConfiguration` names are sealed before they reach the
//! store, in upstream's format, and opened when they are read (upstream: `apiserver/pkg/storage/value/encrypt`). Nothing
//! but `storage.rs` calls this: whoever reads or writes through it sees plain values.

mod cipher;
mod config;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use env::Env;

use cipher::Provider;
use config::Rule;

use crate::config_file;

/// What sealed values begin with.
const SEALED: &[u8] = b"k8s:enc:";
/// Between two looks at the configuration's file.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// Seals and opens values, as the configuration says now.
pub(crate) struct Sealing {
    file: Option<PathBuf>,
    current: ArcSwap<Current>,
}

#[derive(Default)]
struct Current {
    text: Vec<u8>,
    rules: Vec<Rule>,
}

impl Sealing {
    /// Reads the configuration, if there is one.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(file: Option<PathBuf>) -> Result<Self, String> {
        let current = match &file {
            None => Current::default(),
            Some(path) => {
                let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Current { rules: config::read(&text)?, text }
            }
        };
        Ok(Self { file, current: ArcSwap::from_pointee(current) })
    }

    /// The value as it is stored under a key.
    ///
    /// # Errors
    /// It cannot be sealed; then nothing may be stored.
    pub fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, String> {
        let current = self.current.load();
        match current.providers(key).first() {
            Some(provider) => provider.seal(key, value),
            None => Ok(value),
        }
    }

    /// The value that was stored under a key.
    ///
    /// # Errors
    /// No provider can open it.
    pub fn open(&self, key: &[u8], stored: Bytes) -> Result<Bytes, String> {
        if !stored.starts_with(SEALED) {
            return Ok(stored);
        }
        let current = self.current.load();
        let mut failed = None;
        for provider in current.providers(key) {
            match provider.open(key, &stored) {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => failed = Some(error),
                None => {}
            }
        }
        Err(failed.unwrap_or_else(|| "no matching prefix found".to_owned()))
    }

    /// Whether a value cannot be read as it is.
    pub fn is_sealed(&self, stored: &[u8]) -> bool {
        stored.starts_with(SEALED)
    }

    /// Whether a value is to be written again even if nothing changes: it was not sealed as it would be now.
    pub fn is_stale(&self, key: &[u8], stored: &[u8]) -> bool {
        let current = self.current.load();
        current.providers(key).first().is_some_and(|provider| !provider.is_current(stored))
    }

    /// Follows the file: what it says when it can be used replaces what was.
    pub async fn keep(&self, env: &Env) {
        let Some(file) = &self.file else { return };
        let is_known = |text: &[u8]| text == self.current.load().text;
        let take = |text: Vec<u8>| {
            let rules = config::read(&text)?;
            self.current.store(Arc::new(Current { text, rules }));
            Ok(())
        };
        config_file::follow(&env.clock, "encryption", file, RELOAD_INTERVAL, is_known, take).await;
    }
}

impl Current {
    /// Those for a key, the one that seals first; none for what is stored as it is.
    fn providers(&self, key: &[u8]) -> &[Provider] {
        self.rules.iter().find(|rule| rule.is_about(key)).map_or(&[], |rule| &rule.providers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    fn sealing(providers: &str) -> Sealing {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n{providers}"
        );
        let rules = config::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        Sealing { file: None, current: ArcSwap::from_pointee(Current { text: Vec::new(), rules }) }
    }

    fn provider(kind: &str, key: &str, len: usize) -> String {
        let secret = base64::engine::general_purpose::STANDARD.encode(vec![key.as_bytes()[0]; len]);
        format!("  - {kind}: {{keys: [{{name: {key}, secret: {secret}}}]}}\n")
    }

    const KEY: &[u8] = b"/registry/secrets/n/a";

    #[test]
    fn every_provider_opens_what_it_sealed() {
        for (kind, lens) in [("aesgcm", &[16, 24, 32][..]), ("aescbc", &[16, 24, 32]), ("secretbox", &[32])] {
            for len in lens {
                let sealing = sealing(&provider(kind, "k1", *len));
                let sealed = sealing.seal(KEY, Bytes::from_static(b"plain")).unwrap();
                assert!(sealed.starts_with(format!("k8s:enc:{kind}:v1:k1:").as_bytes()), "{kind}");
                assert!(!sealed.windows(5).any(|part| part == b"plain"), "{kind}");
                assert_eq!(sealing.open(KEY, sealed.clone()).unwrap(), "plain", "{kind}");
                assert_ne!(sealing.seal(KEY, Bytes::from_static(b"plain")).unwrap(), sealed, "{kind}");
                let mut broken = sealed.to_vec();
                *broken.last_mut().unwrap() ^= 1;
                assert!(sealing.open(KEY, broken.into()).is_err() || kind == "aescbc", "{kind}");
            }
        }
    }

    #[test]
    fn a_value_belongs_to_its_key() {
        let sealing = sealing(&provider("aesgcm", "k1", 32));
        let sealed = sealing.seal(KEY, Bytes::from_static(b"plain")).unwrap();
        assert!(sealing.open(b"/registry/secrets/n/b", sealed).is_err());
        let other = b"/registry/configmaps/n/a";
        assert_eq!(sealing.seal(other, Bytes::from_static(b"plain")).unwrap(), "plain");
    }

    #[test]
    fn keys_are_rotated() {
        let old = sealing(&provider("aescbc", "k1", 32));
        let sealed = old.seal(KEY, Bytes::from_static(b"plain")).unwrap();
        let both = sealing(
            &(provider("secretbox", "k2", 32) + &provider("aescbc", "k1", 32) + "  - identity: {}\n"),
        );
        assert_eq!(both.open(KEY, sealed.clone()).unwrap(), "plain");
        assert!(both.is_stale(KEY, &sealed) && !old.is_stale(KEY, &sealed));
        assert_eq!(both.open(KEY, Bytes::from_static(b"plain")).unwrap(), "plain");
        assert!(both.is_stale(KEY, b"plain"));
        // Away from encryption: the first provider stores plain values.
        let away = sealing(&("  - identity: {}\n".to_owned() + &provider("aescbc", "k1", 32)));
        assert_eq!(away.open(KEY, sealed.clone()).unwrap(), "plain");
        assert!(away.is_stale(KEY, &sealed));
        assert_eq!(away.seal(KEY, Bytes::from_static(b"plain")).unwrap(), "plain");
        let without = sealing("  - identity: {}\n");
        assert!(without.open(KEY, sealed).is_err());
    }
}
