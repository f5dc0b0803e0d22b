//! What is counted, under upstream's names. `table.rs` lists the metrics; `requests.rs`, `access.rs`, `admission.rs` and
//! `kinds.rs` count; `readings.rs` is what is looked at when somebody asks. Priority and fairness counts in `flow/`.
//!
//! Handles are kept where they are used again (`few.rs`), so that counting takes no text and no lock; whoever counts
//! what is rare makes them anew.

mod access;
pub(crate) mod admission;
mod few;
mod kinds;
mod readings;
mod requests;
mod table;

use std::sync::Arc;

use metrics::{Counter, counter};

pub(crate) use access::Access;
pub(crate) use few::Few;
pub(crate) use kinds::{KindCounts, Watched, operation};
pub(crate) use readings::of_health;
pub(crate) use requests::{Asked, Counted, DryRun, Series, Way};
pub use table::METRICS;

use crate::catalog::Kind;
use kinds::AllKinds;
use requests::Requests;

/// Everything that is counted of a server's requests.
pub(crate) struct Counts {
    pub requests: Requests,
    pub access: Access,
    /// Of the phases of admission.
    pub admission: admission::Durations,
    kinds: AllKinds,
    /// Connections that ended before anybody had said who it is.
    pub handshake_errors: Counter,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            requests: Requests::default(),
            access: Access::default(),
            admission: admission::Durations::default(),
            kinds: AllKinds::default(),
            handshake_errors: counter!("apiserver_tls_handshake_errors_total"),
        }
    }
}

impl Counts {
    /// What is counted of a kind.
    pub fn of<'a>(&'a self, kind: &'a Kind) -> &'a KindCounts {
        self.kinds.of(kind)
    }

    /// What is counted of requests that ask the same; `kind`: what they are about, if that is served.
    pub fn series(&self, kind: Option<&Kind>, asked: Asked) -> Arc<Series> {
        match kind {
            Some(kind) => self.of(kind).series(kind, asked),
            None => self.requests.series(asked),
        }
    }
}
