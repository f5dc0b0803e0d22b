//! Provider `kms`, version 2: values are sealed with keys that are made from a seed, and the seed is sealed by a plugin
//! (upstream: `apiserver/pkg/server/options/encryptionconfig` and `storage/value/encrypt/envelope/kmsv2`).
//!
//! - A seed is made when the plugin first says which key it uses, and again when it says another one; all that is
//!   written meanwhile is sealed with it, without a call.
//! - The plugin is asked how it is again and again. While it does not answer, writes go on for [`Times::writes`], reads
//!   of what is known for ever.
//! - A seed of another server, or of an earlier life, is opened by the plugin once and remembered.
//!
//! `envelope.rs` is the format, `plugin.rs` the calls.

mod envelope;
mod plugin;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::rand;
use bytes::Bytes;
use env::{Clock, Lane, TaskGroup};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use protos::kms::{EncryptedObject, StatusResponse};
use quick_cache::sync::Cache;
use tokio::time::Instant;

use self::envelope::SourceId;
use self::plugin::Plugin;
use super::cipher::Cipher;

/// Bytes of a seed.
const SEED: usize = 32;
/// Seeds that are remembered: as many as keys of the plugin and starts of servers whose values are still there.
const MAX_SOURCES: usize = 10_000;
/// Requests that wait for the plugin at the same time: each takes a thread.
const MAX_WAITING: usize = 128;
/// Versions of the protocol that are understood.
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];

/// What the configuration says of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KmsConfig {
    pub name: String,
    /// A path, or `@` and a name.
    pub socket: PathBuf,
    /// Of one call.
    pub timeout: Duration,
}

/// When the plugin is asked how it is, and how long its last answer holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Between two questions to a plugin that is well.
    pub healthy: Duration,
    /// Between two questions to one that is not.
    pub unhealthy: Duration,
    /// How long a good answer stands for others who ask.
    pub good: Duration,
    /// How long a bad answer stands.
    pub bad: Duration,
    /// How long is written with a seed since the plugin last said that its key is still the one.
    pub writes: Duration,
    /// How long plugins of a changed configuration may take to be well, at least; otherwise the old one stays.
    pub grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            healthy: Duration::from_secs(60),
            unhealthy: Duration::from_secs(10),
            good: Duration::from_secs(20),
            bad: Duration::from_secs(3),
            writes: Duration::from_secs(180),
            grace: Duration::from_secs(10),
        }
    }
}

/// A plugin, and the keys that it opened.
pub(super) struct Kms {
    name: String,
    prefix: String,
    timeout: Duration,
    times: Times,
    clock: Clock,
    plugin: Plugin,
    /// What is written with; none before the plugin first answered.
    current: ArcSwapOption<Current>,
    known: Cache<SourceId, Arc<Cipher>>,
    /// Sources that the plugin opens just now.
    opening: Mutex<HashMap<SourceId, Opening>>,
    waiting: AtomicUsize,
    health: tokio::sync::Mutex<Health>,
    /// Where the plugin's connection lives, so that a caller may wait for it wherever it is.
    lane: Lane,
}

type Opening = Shared<BoxFuture<'static, Result<Arc<Cipher>, String>>>;

/// A seed, and what the plugin made of it.
struct Current {
    cipher: Arc<Cipher>,
    source: EncryptedObject,
    /// Nothing is written with it afterwards.
    expires: Instant,
}

#[derive(Default)]
struct Health {
    /// When the plugin was last asked, and how long that holds.
    until: Option<Instant>,
    failed: Option<String>,
    /// Of the protocol, as the plugin first said it.
    version: Option<String>,
}

impl Kms {
    /// Asks the plugin once, and from then on as `times` say, in a task that ends with what is returned. A plugin that
    /// does not answer is no error: it may be started later.
    ///
    /// # Errors
    /// The system gives no thread.
    pub async fn start(
        config: KmsConfig,
        times: Times,
        clock: &Clock,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>, String> {
        let KmsConfig { name, socket, timeout } = config;
        let failed = |error| format!("could not configure KMSv2-Plugin's probe {name:?}, error: {error}");
        let lane = Lane::start("kms").map_err(failed)?;
        let (its_name, its_clock) = (name.clone(), clock.clone());
        let plugin = lane.run(async move { Plugin::new(&its_name, socket, timeout, its_clock) }).await;
        let kms = Arc::new(Self {
            prefix: format!("k8s:enc:kms:v2:{name}:"),
            name,
            timeout,
            times,
            clock: clock.clone(),
            plugin,
            current: ArcSwapOption::empty(),
            known: Cache::new(MAX_SOURCES),
            opening: Mutex::default(),
            waiting: AtomicUsize::new(0),
            health: tokio::sync::Mutex::default(),
            lane,
        });
        let well = kms.check_and_tell().await;
        tasks
            .spawn_detached("kms", keep(Arc::downgrade(&kms), well, clock.clone(), tasks.shutdown().clone()));
        Ok(kms)
    }

    /// How long requests may be under way to the plugin.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Seals a value for a key.
    pub fn seal(&self, key: &[u8], value: &[u8]) -> Result<Bytes, String> {
        let current = self.current.load();
        let current = current.as_ref().ok_or("got unexpected nil transformer")?;
        let late = self.clock.monotonic().saturating_duration_since(current.expires);
        if !late.is_zero() {
            return Err(self.expired(current, late));
        }
        let mut data = Vec::with_capacity(value.len() + 64);
        current.cipher.seal(key, value, &mut data).ok_or("the value cannot be sealed")?;
        Ok(envelope::encode(&self.prefix, &current.source, data))
    }

    fn expired(&self, current: &Current, late: Duration) -> String {
        let now = self.clock.now().millis();
        let then = now - i64::try_from(late.as_millis()).unwrap_or(i64::MAX);
        let shown = |millis: i64| api_types::time::from_millis(millis);
        let hash = envelope::key_id_hash(&current.source.key_id);
        format!(
            "encryptedDEKSource with keyID hash {hash:?} expired at {} (current time is {})",
            shown(then),
            shown(now)
        )
    }

    /// Opens a value of a key; none for what another provider sealed. It may take a call, for which the thread waits.
    pub fn open(&self, key: &[u8], stored: &Bytes) -> Option<Result<Bytes, String>> {
        let object = self.envelope(stored)?;
        Some(object.and_then(|object| {
            if self.current.load().is_none() {
                return Err("got unexpected nil transformer".to_owned());
            }
            let cipher = self.cipher_of(&object)?;
            cipher
                .open(key, &object.encrypted_data)
                .ok_or_else(|| "cipher: message authentication failed".to_owned())
        }))
    }

    /// Whether a value is stored as it would be now. Before the plugin first answered nobody knows, and nothing is.
    pub fn is_current(&self, stored: &Bytes) -> bool {
        let Some(Ok(object)) = self.envelope(stored) else { return false };
        let current = self.current.load();
        current.as_ref().is_none_or(|current| envelope::is_current(&object, &current.source))
    }

    fn envelope(&self, stored: &Bytes) -> Option<Result<EncryptedObject, String>> {
        stored
            .starts_with(self.prefix.as_bytes())
            .then(|| envelope::decode(stored.slice(self.prefix.len()..)))
    }

    fn cipher_of(&self, object: &EncryptedObject) -> Result<Arc<Cipher>, String> {
        let id = envelope::source_id(object);
        if let Some(cipher) = self.known.get(&id) {
            return Ok(cipher);
        }
        let _place = self.place().ok_or("too many requests wait for the KMS plugin")?;
        let opening = self.opening.lock().entry(id).or_insert_with(|| self.ask(object.clone())).clone();
        let opened = self.lane.wait_for(opening);
        // Known first, so that nobody asks again.
        if let Ok(cipher) = &opened {
            self.known.insert(id, cipher.clone());
        }
        self.opening.lock().remove(&id);
        opened
    }

    fn ask(&self, object: EncryptedObject) -> Opening {
        let plugin = self.plugin.clone();
        let opening = async move {
            let uid = uuid::Uuid::new_v4().to_string();
            let plain = plugin.decrypt(&uid, object.clone()).await;
            let plain = plain.map_err(|error| format!("failed to decrypt DEK, error: {error}"))?;
            envelope::cipher(&object, &plain).map(Arc::new)
        };
        opening.boxed().shared()
    }

    /// A place among those who wait; none if there are too many.
    fn place(&self) -> Option<Place<'_>> {
        let place = Place(&self.waiting);
        (self.waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }

    /// How the plugin is; what it last said, if that is not long ago.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn check(&self) -> Result<(), String> {
        let mut health = self.health.lock().await;
        let holds = health.until.is_some_and(|until| self.clock.monotonic() < until);
        if !holds {
            let asked = match self.plugin.status().await {
                Ok(answer) => self.take(&mut health, &answer).await,
                Err(error) => Err(format!(
                    "failed to perform status section of the healthz check for KMS Provider {}, error: {error}",
                    self.name
                )),
            };
            let holds = if asked.is_ok() { self.times.good } else { self.times.bad };
            health.until = Some(self.clock.monotonic() + holds);
            health.failed = asked.err();
        }
        health.failed.clone().map_or(Ok(()), Err)
    }

    async fn check_and_tell(&self) -> bool {
        let checked = self.check().await;
        if let Err(error) = &checked {
            tracing::warn!(provider = self.name, error, "the KMS plugin is not well");
        }
        checked.is_ok()
    }

    /// Judges what the plugin says of itself, and makes another seed if its key is another.
    async fn take(&self, health: &mut Health, answer: &StatusResponse) -> Result<(), String> {
        let StatusResponse { version, healthz, key_id } = answer;
        let mut errors = Vec::new();
        if healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {healthz}"));
        }
        if VERSIONS.contains(&version.as_str()) {
            let first: &String = health.version.get_or_insert_with(|| version.clone());
            if first != version {
                errors.push(format!("KMSv2 API version should not change after the initial status response version {first}, got {version}"));
            }
        } else {
            errors.push(format!("expected KMSv2 API version v2, got {version}"));
        }
        match envelope::check_key_id(key_id) {
            Ok(()) => {
                self.count_key(key_id);
                errors.extend(self.rotate(key_id).await.err());
            }
            Err(error) => {
                let fault = if key_id.is_empty() { "empty" } else { "too_long" };
                metrics::counter!(
                    "apiserver_envelope_encryption_invalid_key_id_from_status_total",
                    "provider_name" => self.name.clone(), "error" => fault
                )
                .increment(1);
                let hash = envelope::key_id_hash(key_id);
                errors.push(format!("got invalid KMSv2 KeyID hash {hash:?}: {error}"));
            }
        }
        all_of(errors).map_err(|error| format!("kmsv2 Provider {} is not healthy, error: {error}", self.name))
    }

    /// Counts that the plugin named its key.
    fn count_key(&self, key_id: &str) {
        let seconds = self.clock.now().millis() as f64 / 1000.0;
        metrics::gauge!(
            "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
            "provider_name" => self.name.clone(), "key_id_hash" => envelope::key_id_hash(key_id),
            "apiserver_id_hash" => ""
        )
        .set(seconds);
    }

    /// Goes on with the seed if the plugin's key is still the one, otherwise with another. On failure with the old one,
    /// until it expires.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // Counted from before the call.
        let expires = self.clock.monotonic() + self.times.writes;
        let old = self.current.load_full();
        if let Some(old) = old.as_ref().filter(|old| old.source.key_id == key_id) {
            let (cipher, source) = (old.cipher.clone(), old.source.clone());
            self.current.store(Some(Arc::new(Current { cipher, source, expires })));
            return Ok(());
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let made = self.seed(&uid).await;
        let (fault, theirs) = match made {
            Ok((cipher, source)) if source.key_id == key_id => {
                self.known.insert(envelope::source_id(&source), cipher.clone());
                self.current.store(Some(Arc::new(Current { cipher, source, expires })));
                tracing::info!(provider = self.name, "sealing with another key of the KMS plugin");
                return Ok(());
            }
            Ok((_, source)) => ("<nil>".to_owned(), source.key_id),
            Err(error) => (error, String::new()),
        };
        let state = if old.is_some() { "<nil>" } else { "got unexpected nil transformer" };
        let hash = envelope::key_id_hash;
        Err(format!(
            "failed to rotate DEK uid={uid:?}, useSeed=true, errState={state}, errGen={fault}, statusKeyIDHash={:?}, encryptKeyIDHash={:?}, stateKeyIDHash={:?}",
            hash(key_id),
            hash(&theirs),
            hash(old.as_ref().map_or("", |old| &old.source.key_id)),
        ))
    }

    async fn seed(&self, uid: &str) -> Result<(Arc<Cipher>, EncryptedObject), String> {
        let mut seed = vec![0; SEED];
        rand::fill(&mut seed).map_err(|_| "there is no randomness".to_owned())?;
        let cipher = Cipher::seed(&seed).ok_or("invalid seed")?;
        let answer = self.plugin.encrypt(uid, seed).await;
        let answer = answer.map_err(|error| format!("failed to encrypt DEK, error: {error}"))?;
        Ok((Arc::new(cipher), envelope::of_answer(answer)?))
    }
}

/// Asks the plugin again and again, until nobody uses it any more.
async fn keep(kms: Weak<Kms>, mut well: bool, clock: Clock, shutdown: env::Shutdown) {
    loop {
        let Some(times) = kms.upgrade().map(|kms| kms.times) else { return };
        tokio::select! {
            () = clock.sleep(if well { times.healthy } else { times.unhealthy }) => {}
            () = shutdown.wait() => return,
        }
        let Some(kms) = kms.upgrade() else { return };
        tokio::select! {
            checked = kms.check_and_tell() => well = checked,
            () = shutdown.wait() => return,
        }
    }
}

/// One of those who wait for the plugin.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Several errors as one, as upstream shows them.
pub(super) fn all_of(errors: Vec<String>) -> Result<(), String> {
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}
