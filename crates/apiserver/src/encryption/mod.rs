//! Encryption at rest: values of the kinds that an `EncryptionConfiguration` names are sealed before they reach the
//! store, in upstream's format, and opened when they are read (upstream: `apiserver/pkg/storage/value/encrypt`). Nothing
//! but `storage.rs` calls this: whoever reads or writes through it sees plain values.

mod cipher;
mod config;
mod kms;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use env::{Clock, Env, TaskGroup};

use cipher::Provider;
use config::{Planned, Rule};
use kms::{Kms, Times};

use crate::config_file;

/// What sealed values begin with.
const SEALED: &[u8] = b"k8s:enc:";
/// Between two looks at the configuration's file.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks whether they are.
const GRACE_PAUSE: Duration = Duration::from_millis(100);
/// The check among those of the server's health that asks all plugins.
pub(crate) const HEALTH_CHECK: &str = "kms-providers";

/// Seals and opens values, as the configuration says now.
pub(crate) struct Sealing {
    file: Option<PathBuf>,
    is_followed: bool,
    outside: Outside,
    current: ArcSwap<Current>,
}

/// What plugins need of the world.
struct Outside {
    clock: Clock,
    tasks: TaskGroup,
    times: Times,
}

#[derive(Default)]
struct Current {
    text: Vec<u8>,
    providers: Vec<Provider>,
    rules: Vec<Rule>,
}

impl Sealing {
    /// Reads the configuration, if there is one, which may be one that [`Sealing::keep`] follows. Plugins are asked in
    /// tasks of the group.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn new(
        file: Option<PathBuf>,
        is_followed: bool,
        clock: Clock,
        tasks: TaskGroup,
    ) -> Result<Self, String> {
        let outside = Outside { clock, tasks, times: Times::default() };
        let current = match &file {
            None => Current::default(),
            Some(path) => {
                let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Current::read(text, &outside).await?
            }
        };
        Ok(Self { file, is_followed, outside, current: ArcSwap::from_pointee(current) })
    }

    /// The value as it is stored under a key.
    ///
    /// # Errors
    /// It cannot be sealed; then nothing may be stored.
    pub fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, String> {
        let current = self.current.load();
        match current.providers(key).next() {
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
    pub fn is_stale(&self, key: &[u8], stored: &Bytes) -> bool {
        let current = self.current.load();
        current.providers(key).next().is_some_and(|provider| !provider.is_current(stored))
    }

    /// Whether plugins are part of the server's health: where there are some, or may be some soon.
    pub fn is_checked(&self) -> bool {
        self.file.is_some() && self.is_followed || self.current.load().plugins().next().is_some()
    }

    /// Asks the plugins how they are.
    ///
    /// # Errors
    /// What is wrong with them.
    pub async fn check(&self) -> Result<(), String> {
        self.current.load_full().check().await
    }

    /// Follows the file: what it says when it can be used, and its plugins are well, replaces what was.
    pub async fn keep(&self, env: &Env) {
        let Some(file) = &self.file else { return };
        let is_known = |text: &[u8]| text == self.current.load().text;
        let take = |text: Vec<u8>| self.take(text);
        config_file::follow_slowly(&env.clock, "encryption", file, RELOAD_INTERVAL, is_known, take).await;
    }

    async fn take(&self, text: Vec<u8>) -> Result<(), String> {
        let (new, clock) = (Current::read(text, &self.outside).await?, &self.outside.clock);
        let deadline = clock.monotonic() + new.grace(self.outside.times.grace);
        while let Err(error) = new.check().await {
            if clock.monotonic() >= deadline {
                return Err(format!("health check for new transformers failed: {error}"));
            }
            clock.sleep(GRACE_PAUSE).await;
        }
        self.current.store(Arc::new(new));
        Ok(())
    }
}

impl Current {
    async fn read(text: Vec<u8>, outside: &Outside) -> Result<Self, String> {
        let plan = config::read(&text)?;
        let mut providers = Vec::with_capacity(plan.providers.len());
        for planned in plan.providers {
            providers.push(match planned {
                Planned::Ready(provider) => provider,
                Planned::Kms(config) => {
                    Provider::Kms(Kms::start(config, outside.times, &outside.clock, &outside.tasks).await?)
                }
            });
        }
        Ok(Self { text, providers, rules: plan.rules })
    }

    /// Those for a key, the one that seals first; none for what is stored as it is.
    fn providers<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = &'a Provider> + use<'a> {
        let rule = self.rules.iter().find(|rule| rule.is_about(key));
        rule.into_iter().flat_map(|rule| &rule.providers).filter_map(move |place| self.providers.get(*place))
    }

    fn plugins(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.providers.iter().filter_map(|provider| match provider {
            Provider::Kms(kms) => Some(kms),
            _ => None,
        })
    }

    /// Twice what all calls may take, one after the other.
    fn grace(&self, least: Duration) -> Duration {
        let sum: Duration = self.plugins().map(|kms| kms.timeout()).sum();
        sum.saturating_mul(2).max(least)
    }

    async fn check(&self) -> Result<(), String> {
        let mut errors = Vec::new();
        for (number, kms) in self.plugins().enumerate() {
            errors.extend(kms.check().await.err().map(|error| format!("kms-provider-{number}: {error}")));
        }
        kms::all_of(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use futures::FutureExt as _;

    fn sealing(providers: &str) -> Sealing {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n{providers}"
        );
        of_text(text, Times::default()).now_or_never().unwrap().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A configuration that lies in no file.
    pub(super) async fn of_text(text: String, times: Times) -> Result<Sealing, String> {
        let tasks = TaskGroup::new("test", env::Shutdown::new());
        let outside = Outside { clock: Clock::default(), tasks, times };
        let current = Current::read(text.into_bytes(), &outside).await?;
        Ok(Sealing { file: None, is_followed: false, outside, current: ArcSwap::from_pointee(current) })
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
        assert!(both.is_stale(KEY, &Bytes::from_static(b"plain")));
        // Away from encryption: the first provider stores plain values.
        let away = sealing(&("  - identity: {}\n".to_owned() + &provider("aescbc", "k1", 32)));
        assert_eq!(away.open(KEY, sealed.clone()).unwrap(), "plain");
        assert!(away.is_stale(KEY, &sealed));
        assert_eq!(away.seal(KEY, Bytes::from_static(b"plain")).unwrap(), "plain");
        let without = sealing("  - identity: {}\n");
        assert!(without.open(KEY, sealed).is_err());
    }
}
