//! AlwaysAdmit: says yes to everything, as if it were not there. Upstream keeps the name for old flags.

use super::{Admit, Check, Plugin};

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Never };
