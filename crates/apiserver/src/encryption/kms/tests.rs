//! A server's sealing with a plugin on a socket: well, away, deaf, changed and lying.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::super::{Sealing, tests::of_text};
use super::{Times, envelope};

#[path = "../../../tests/it/kms_plugin.rs"]
mod plugin;
use plugin::Plugin;

const KEY: &[u8] = b"/registry/secrets/n/a";
const PREFIX: &str = "k8s:enc:kms:v2:p:";
/// Of one call, where it is answered.
const PATIENT: &str = "60s";
/// Of one call, where it is not.
const SHORT: &str = "300ms";
const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The plugin is asked all the time, and no answer stands for another.
const EAGER: Times = Times {
    healthy: PAUSE,
    unhealthy: PAUSE,
    good: Duration::ZERO,
    bad: Duration::ZERO,
    writes: Duration::from_secs(3600),
    grace: Duration::from_millis(200),
};
/// The plugin is asked only by the test.
const STILL: Times =
    Times { healthy: Duration::from_secs(3600), unhealthy: Duration::from_secs(3600), ..EAGER };

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("kms.sock")
    }

    fn plugin(&self) -> Plugin {
        Plugin::start(&self.socket())
    }

    /// A server that has just started.
    async fn server(&self, timeout: &str, times: Times) -> Sealing {
        of_text(text(&self.socket(), timeout), times).await.unwrap()
    }
}

fn text(socket: &Path, timeout: &str) -> String {
    let socket = socket.display();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['*.*']\n  providers:\n  - kms: {{apiVersion: v2, name: p, endpoint: 'unix://{socket}', timeout: {timeout}}}\n  - identity: {{}}\n"
    )
}

fn plain() -> Bytes {
    Bytes::from_static(b"plain")
}

fn key_id(stored: &Bytes) -> String {
    envelope::decode(stored.slice(PREFIX.len()..)).unwrap().key_id
}

/// Waits for something.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !done().await {
            env::Clock::default().sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn values_are_sealed_without_calls_and_opened_with_one() {
    let place = Place::new();
    let plugin = place.plugin();
    let server = place.server(PATIENT, STILL).await;
    let sealed: Vec<Bytes> = (0..3).map(|_| server.seal(KEY, plain()).unwrap()).collect();
    assert_eq!(plugin.manner().encrypted, 1);
    assert!(sealed[0].starts_with(PREFIX.as_bytes()) && key_id(&sealed[0]) == "key-1");
    assert!(!sealed[0].windows(5).any(|part| part == b"plain") && sealed[0] != sealed[1]);
    assert_eq!(server.open(KEY, sealed[0].clone()).unwrap(), "plain");
    assert!(server.open(b"/registry/secrets/n/b", sealed[0].clone()).is_err());
    assert!(!server.is_stale(KEY, &sealed[0]) && server.is_stale(KEY, &plain()));
    assert_eq!(plugin.manner().decrypted, 0);
    // Another server asks once, however many want to know.
    let other = place.server(PATIENT, STILL).await;
    let opening = &other;
    std::thread::scope(|scope| {
        for value in sealed.iter().cycle().take(12) {
            scope.spawn(move || assert_eq!(opening.open(KEY, value.clone()).unwrap(), "plain"));
        }
    });
    assert_eq!(plugin.manner().decrypted, 1);
    assert_ne!(other.seal(KEY, plain()).unwrap(), sealed[0]);
    assert!(!other.is_stale(KEY, &sealed[0]));
}

#[tokio::test]
async fn a_plugin_that_is_away_is_missed_by_what_needs_it_only() {
    let place = Place::new();
    let mut plugin = place.plugin();
    let (one, other) = (place.server(PATIENT, STILL).await, place.server(SHORT, EAGER).await);
    until("a start", async || other.check().await.is_ok()).await;
    let (mine, theirs) = (other.seal(KEY, plain()).unwrap(), one.seal(KEY, plain()).unwrap());
    let seeds = plugin.manner().encrypted;
    plugin.end();
    assert_eq!(other.open(KEY, mine.clone()).unwrap(), "plain");
    assert!(other.seal(KEY, plain()).is_ok());
    let error = other.open(KEY, theirs.clone()).unwrap_err();
    assert!(error.starts_with("failed to decrypt DEK, error: rpc error: code = "), "{error}");
    until("a bad check", async || other.check().await.is_err()).await;
    let error = other.check().await.unwrap_err();
    assert!(error.starts_with("kms-provider-0: failed to perform status section"), "{error}");
    plugin.again();
    until("a good check", async || other.check().await.is_ok()).await;
    until("an opened value", async || other.open(KEY, theirs.clone()).is_ok()).await;
    assert_eq!(plugin.manner().encrypted, seeds, "its seed is still good");
}

#[tokio::test]
async fn nothing_is_written_with_a_seed_that_nobody_confirmed_for_long() {
    let place = Place::new();
    let _plugin = place.plugin();
    let times = Times { writes: Duration::ZERO, ..STILL };
    let server = place.server(PATIENT, times).await;
    let error = server.seal(KEY, plain()).unwrap_err();
    assert!(error.starts_with("encryptedDEKSource with keyID hash \"sha256:"), "{error}");
    assert!(error.contains(" expired at 2") && error.contains("Z (current time is 2"), "{error}");
}

#[tokio::test]
async fn a_plugin_may_come_later() {
    let place = Place::new();
    let server = place.server(SHORT, EAGER).await;
    assert_eq!(server.seal(KEY, plain()).unwrap_err(), "got unexpected nil transformer");
    let _plugin = place.plugin();
    until("a seed", async || server.seal(KEY, plain()).is_ok()).await;
}

#[tokio::test]
async fn a_plugin_that_hangs_is_given_up() {
    let place = Place::new();
    let plugin = place.plugin();
    let (one, other) = (place.server(PATIENT, STILL).await, place.server(SHORT, EAGER).await);
    until("a start", async || other.check().await.is_ok()).await;
    let theirs = one.seal(KEY, plain()).unwrap();
    plugin.manner().hangs = true;
    let error = other.open(KEY, theirs.clone()).unwrap_err();
    let late =
        "failed to decrypt DEK, error: rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    assert_eq!(error, late);
    assert!(other.seal(KEY, plain()).is_ok());
    until("a bad check", async || other.check().await.is_err()).await;
    plugin.manner().hangs = false;
    until("an opened value", async || other.open(KEY, theirs.clone()).is_ok()).await;
}

#[tokio::test]
async fn another_key_makes_another_seed_and_what_was_written_stale() {
    let place = Place::new();
    let plugin = place.plugin();
    let server = place.server(PATIENT, EAGER).await;
    let old = server.seal(KEY, plain()).unwrap();
    plugin.manner().key_id = "key-2".into();
    until("another seed", async || key_id(&server.seal(KEY, plain()).unwrap()) == "key-2").await;
    assert_eq!(plugin.manner().encrypted, 2);
    let new = server.seal(KEY, plain()).unwrap();
    assert!(server.is_stale(KEY, &old) && !server.is_stale(KEY, &new));
    assert_eq!(server.open(KEY, old).unwrap(), "plain");
    assert_eq!(plugin.manner().decrypted, 0);
}

#[tokio::test]
async fn lies_are_told_of_and_not_followed() {
    let place = Place::new();
    let plugin = place.plugin();
    let server = place.server(PATIENT, STILL).await;
    let fault = async || server.check().await.err().unwrap_or_default();
    assert_eq!(fault().await, "");
    // It says that it has another key, and seals with a third.
    plugin.manner().key_id = "key-2".into();
    plugin.manner().sealed_by = Some("key-3".into());
    let error = fault().await;
    assert!(error.contains("kmsv2 Provider p is not healthy, error: failed to rotate DEK uid="), "{error}");
    assert_eq!(key_id(&server.seal(KEY, plain()).unwrap()), "key-1");
    // What it seals with has no name.
    plugin.manner().sealed_by = Some(String::new());
    assert!(fault().await.contains("errGen=failed to validate key id: keyID is empty"));
    plugin.manner().sealed_by = None;
    assert_eq!(fault().await, "");
    assert_eq!(key_id(&server.seal(KEY, plain()).unwrap()), "key-2");
    plugin.manner().key_id = String::new();
    assert!(fault().await.contains("got invalid KMSv2 KeyID hash \"\": keyID is empty"));
    plugin.manner().key_id = "key-2".into();
    plugin.manner().healthz = "tired".into();
    assert!(fault().await.contains("got unexpected healthz status: tired"));
    plugin.manner().healthz = "ok".into();
    plugin.manner().version = "v2beta1".into();
    assert!(fault().await.contains("should not change after the initial status response version v2"));
    plugin.manner().version = "v1".into();
    assert!(fault().await.contains("expected KMSv2 API version v2, got v1"));
}

#[tokio::test]
async fn what_is_opened_wrongly_is_no_value() {
    let place = Place::new();
    let plugin = place.plugin();
    let sealed = place.server(PATIENT, STILL).await.seal(KEY, plain()).unwrap();
    for (given, expected) in [
        (vec![1; 32], "message authentication failed"),
        (vec![1; 31], "invalid seed length 31 used for key generation"),
        (vec![], "invalid seed length 0"),
        (vec![1; 1000], "message authentication failed"),
    ] {
        plugin.manner().opened = Some(given);
        let server = place.server(PATIENT, STILL).await;
        let error = server.open(KEY, sealed.clone()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let server = place.server(PATIENT, STILL).await;
    plugin.manner().opened = None;
    for length in PREFIX.len()..sealed.len() {
        assert!(server.open(KEY, sealed.slice(..length)).is_err(), "{length}");
    }
    assert_eq!(server.open(KEY, sealed).unwrap(), "plain");
}

#[tokio::test]
async fn a_configuration_is_taken_when_its_plugins_are_well() {
    let place = Place::new();
    let server = of_text("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{identity: {}}]}]".into(), EAGER);
    let server = server.await.unwrap();
    let configuration = || text(&place.socket(), SHORT).into_bytes();
    let error = server.take(configuration()).await.unwrap_err();
    assert!(error.starts_with("health check for new transformers failed: kms-provider-0: "), "{error}");
    assert_eq!(server.seal(KEY, plain()).unwrap(), "plain");
    let plugin = place.plugin();
    until("the new one", async || server.take(configuration()).await.is_ok()).await;
    assert!(server.seal(KEY, plain()).unwrap().starts_with(PREFIX.as_bytes()));
    assert_eq!(server.open(KEY, plain()).unwrap(), "plain");
    assert!(server.is_checked() && plugin.manner().encrypted > 0);
}

/// Written by upstream's own code (v1.37.2) with a plugin like the tests', for [`KEY`]: with a seed, and with a key as
/// servers before v1.29 could.
const OF_UPSTREAM: [&str; 2] = [
    concat!(
        "6b38733a656e633a6b6d733a76323a703a0a4137b270d3d4740438291545cb5be4cdeec01cd85e2889042f7de16c1e4804d3",
        "8c7895b2fec25db1895b95a6684c373f94411a8cbae8964d6c16d23b0ed2ddf4c2ba12056b65792d311a20ff7ea6dc32ee63",
        "61bb4da7f95f75607d38f50ce76d5515be9d26ea2603533210221d0a14636865636b2e706c7567696e2e6578616d706c6512",
        "056b65792d312801",
    ),
    concat!(
        "6b38733a656e633a6b6d733a76323a703a0a2148855f8301ca9a3b00000000b9bfe85a9cf44c3199dad54e1bdeaa9a83bfa3",
        "17fa12056b65792d311a20e7d814831d71844444bce1ce03c0646e3bb24b66feb7c7324d00639ba1f2b4c9221d0a14636865",
        "636b2e706c7567696e2e6578616d706c6512056b65792d31",
    ),
];

#[tokio::test]
async fn what_upstream_wrote_is_read() {
    let place = Place::new();
    let _plugin = place.plugin();
    let server = place.server(PATIENT, STILL).await;
    let [seed, key] = OF_UPSTREAM.map(|hex| {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        hex.as_bytes().chunks(2).map(byte).collect::<Bytes>()
    });
    assert_eq!(server.open(KEY, seed.clone()).unwrap(), "plain");
    assert_eq!(server.open(KEY, key.clone()).unwrap(), "plain");
    assert!(!server.is_stale(KEY, &seed) && server.is_stale(KEY, &key));
}
