//! Which points there are, and what is set at each.

use std::collections::BTreeMap;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::http;
use super::term::{Action, Chain};
use crate::Rng;

/// What is set at a point: as it was written, and what is left of it.
type Set = Option<(String, Chain)>;

static POINTS: LazyLock<Mutex<BTreeMap<String, Set>>> = LazyLock::new(Mutex::default);
/// At how many points something is set: mostly none, and passing costs one load.
static ARMED: AtomicUsize = AtomicUsize::new(0);
static RNG: LazyLock<Rng> = LazyLock::new(Rng::from_os);

/// Passes a point. The process may end here or wait; a text is what the point was told to return.
pub fn hit(point: &str) -> Option<String> {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let action = POINTS.lock().get_mut(point)?.as_mut()?.1.pass(&RNG);
    match action {
        Action::Off => None,
        Action::Panic => {
            eprintln!("panic: failpoint panic: {point}");
            std::process::abort()
        }
        Action::Sleep(duration) => {
            wait(duration);
            None
        }
        Action::Return(text) => Some(text),
        Action::Print => {
            eprintln!("failpoint print: {point}");
            None
        }
    }
}

/// Holds up the code that passes, and nobody else.
fn wait(duration: Duration) {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| std::thread::sleep(duration));
        }
        _ => std::thread::sleep(duration),
    }
}

/// Makes points known, sets those that `GOFAIL_FAILPOINTS` names (`name=term;name=term`), and serves at the address that
/// `GOFAIL_HTTP` says.
///
/// # Errors
/// A term that cannot be read, an address that cannot be listened on.
pub fn start(points: &[&str]) -> io::Result<()> {
    POINTS.lock().extend(points.iter().map(|point| ((*point).to_owned(), None)));
    if let Ok(terms) = std::env::var("GOFAIL_FAILPOINTS") {
        set_all(&terms).map_err(io::Error::other)?;
    }
    match std::env::var("GOFAIL_HTTP") {
        Ok(address) => http::serve(&address),
        Err(_) => Ok(()),
    }
}

/// Sets several points: `name=term;name=term`.
pub fn set_all(terms: &str) -> Result<(), String> {
    for one in terms.split(';').filter(|one| !one.is_empty()) {
        let (point, term) = one.split_once('=').ok_or_else(|| format!("bad failpoint {one:?}"))?;
        set(point, term)?;
    }
    Ok(())
}

/// Sets a point.
pub fn set(point: &str, term: &str) -> Result<(), String> {
    let chain = Chain::parse(term)?;
    change(point, Some((term.to_owned(), chain))).map(drop)
}

/// Clears a point.
pub fn clear(point: &str) -> Result<(), String> {
    match change(point, None)? {
        Some(_) => Ok(()),
        None => Err("failpoint: failpoint is disabled".to_owned()),
    }
}

fn change(point: &str, now: Set) -> Result<Set, String> {
    let mut points = POINTS.lock();
    let there = points.get_mut(point).ok_or("failpoint: failpoint does not exist")?;
    let before = std::mem::replace(there, now);
    ARMED.store(points.values().flatten().count(), Ordering::Relaxed);
    Ok(before)
}

/// All points, each with what is set there.
pub fn list() -> Vec<(String, String)> {
    let term = |set: &Set| set.as_ref().map_or(String::new(), |(term, _)| term.clone());
    POINTS.lock().iter().map(|(point, set)| (point.clone(), term(set))).collect()
}
