//! How long admission takes, plugin by plugin. The end of one plugin is the beginning of the next: the clock is read
//! once for each.

use api_types::status::Status;
use tokio::time::Instant;

use super::Attributes;
use crate::api::Api;
use crate::counters::admission::{Case, Durations, Phase};

/// See the module.
pub(super) struct Timer<'a> {
    api: &'a Api,
    case: Case,
    began: Instant,
    /// The end of the last plugin.
    last: Instant,
}

impl<'a> Timer<'a> {
    pub fn start(api: &'a Api, attributes: &Attributes<'_>, phase: Phase) -> Self {
        let began = api.storage.env.clock.monotonic();
        let case = Case { phase, operation: attributes.operation, is_refused: false };
        Self { api, case, began, last: began }
    }

    fn case(&self, result: &Result<(), Status>) -> Case {
        Case { is_refused: result.is_err(), ..self.case }
    }

    /// A plugin has ended with this.
    pub fn lap(&mut self, durations: Option<&Durations>, result: &Result<(), Status>) {
        let now = self.api.storage.env.clock.monotonic();
        if let Some(durations) = durations {
            durations.note(self.case(result), now.saturating_duration_since(self.last));
        }
        self.last = now;
    }

    /// All have.
    pub fn end(self, result: &Result<(), Status>) {
        let took = self.last.saturating_duration_since(self.began);
        self.api.counts.admission.note(self.case(result), took);
    }
}
