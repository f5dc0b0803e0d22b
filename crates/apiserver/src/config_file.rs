//! Files of group `apiserver.config.k8s.io`: read and checked when the server is built, and followed afterwards.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use api_rules::errors::Errors;
use api_rules::look::Look;
use api_types::field::quote;
use api_types::{Value, codec};
use env::Clock;

const GROUP: &str = "apiserver.config.k8s.io";

/// The document of a kind in one of these versions, YAML or JSON.
///
/// # Errors
/// It cannot be read, or is of another kind.
pub(crate) fn read(text: &[u8], wanted: &str, versions: &[&str]) -> Result<Value, String> {
    let document = codec::decode_yaml(text).map_err(|error| error.to_string())?.value;
    check_kind(&document, GROUP, wanted, versions)?;
    Ok(document)
}

/// Whether a document is of a kind, in one of these versions of its group.
///
/// # Errors
/// It is of another kind.
pub(crate) fn check_kind(
    document: &Value,
    group: &str,
    wanted: &str,
    versions: &[&str],
) -> Result<(), String> {
    let (version, kind) = (document.text("apiVersion"), document.text("kind"));
    if versions.iter().any(|known| version == format!("{group}/{known}")) && kind == wanted {
        return Ok(());
    }
    let first = versions.first().copied().unwrap_or_default();
    Err(format!("no kind {kind:?} is registered for version {version:?}: {group}/{first} {wanted} is wanted"))
}

/// Fields that a document may not have, by their paths, as upstream says it.
pub(crate) fn unknown(paths: &[String]) -> Result<(), String> {
    if paths.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = paths.iter().map(|path| format!("unknown field {}", quote(path))).collect();
    Err(format!("strict decoding error: {}", told.join(", ")))
}

/// What is wrong with a document, with the paths of fields, as upstream says it.
pub(crate) fn told(errors: Errors) -> Result<(), String> {
    let errors: Vec<String> = errors.done().iter().map(ToString::to_string).collect();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// Reads the file of the `what` configuration again and again, and has `take` take what is new in it; what cannot
/// be used is told of.
pub(crate) async fn follow(
    clock: &Clock,
    what: &str,
    file: &Path,
    interval: Duration,
    is_known: impl Fn(&[u8]) -> bool,
    take: impl Fn(Vec<u8>) -> Result<(), String>,
) {
    follow_slowly(clock, what, file, interval, is_known, |text| std::future::ready(take(text))).await;
}

/// As [`follow`], where it takes time to take what is new.
pub(crate) async fn follow_slowly<T: Future<Output = Result<(), String>>>(
    clock: &Clock,
    what: &str,
    file: &Path,
    interval: Duration,
    is_known: impl Fn(&[u8]) -> bool,
    take: impl Fn(Vec<u8>) -> T,
) {
    loop {
        clock.sleep(interval).await;
        let Ok(text) = tokio::fs::read(file).await else { continue };
        if is_known(&text) {
            continue;
        }
        match take(text).await {
            Ok(()) => tracing::info!(file = %file.display(), "the {what} configuration changed"),
            Err(error) => {
                tracing::error!(file = %file.display(), error, "the {what} configuration cannot be used");
            }
        }
    }
}
