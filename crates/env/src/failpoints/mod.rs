//! Places in the code at which a test may have the process end, wait, or fail: gofail's failpoints, driven by its HTTP
//! protocol. Without the feature `failpoints` all of it is nothing: [`hit`] is an empty function.
//!
//! Read `term.rs` (what happens at a point), `registry.rs` (which points there are), `http.rs` (who sets them).

#[cfg(feature = "failpoints")]
mod http;
#[cfg(feature = "failpoints")]
mod registry;
#[cfg(feature = "failpoints")]
mod term;

#[cfg(feature = "failpoints")]
pub use self::registry::{hit, start};

/// The point of this crate: the wall clock is wrong by the milliseconds that are returned there.
pub const POINTS: &[&str] = &["clockStep"];

/// Whether this build has failpoints.
pub const ENABLED: bool = cfg!(feature = "failpoints");

/// Passes a point. In a build with failpoints the process may end here or wait; a text is what the point was told to
/// return.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_point: &str) -> Option<String> {
    None
}

/// In a build with failpoints: makes these points known, sets those that `GOFAIL_FAILPOINTS` names
/// (`name=term;name=term`), and serves at the address that `GOFAIL_HTTP` says.
///
/// # Errors
/// In a build with failpoints: a term that cannot be read, an address that cannot be listened on.
#[cfg(not(feature = "failpoints"))]
pub fn start(_points: &[&str]) -> std::io::Result<()> {
    Ok(())
}
