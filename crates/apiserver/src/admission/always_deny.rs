//! AlwaysDeny: says no to everything that is written or connected, the server's own objects too: a cluster that has it
//! from its first start never becomes ready. Upstream keeps it for tests.

use api_types::status::Status;

use super::{Admit, Attributes, Check, Plugin};

const WHY: &str = "admission control is denying all modifications";

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Now(|_, attributes, _| Err(refusal(attributes))),
    check: Check::Now(|_, attributes, _| Err(refusal(attributes))),
};

fn refusal(attributes: &Attributes<'_>) -> Status {
    attributes.target.forbidden(WHY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Operation;
    use crate::admission::lookup::{self, NODES};
    use crate::call::Call;
    use crate::registry::Target;

    #[test]
    fn everything_is_refused() {
        let (target, call) = (Target::new(lookup::resource(NODES), "", "a"), Call::internal());
        let refused = refusal(&Attributes::new(Operation::Delete, &target, &call));
        assert_eq!(refused.code, 403);
        assert_eq!(
            refused.message,
            "nodes \"a\" is forbidden: admission control is denying all modifications"
        );
    }
}
