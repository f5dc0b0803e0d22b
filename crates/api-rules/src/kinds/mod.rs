//! What is particular about single kinds: one file a kind or a family, found through one table.

mod apps;
mod batch;
#[cfg(test)]
mod bench;
mod client_config;
mod cluster;
mod config;
mod csi;
mod declared;
mod discovery;
mod events;
mod extensions;
pub mod flow;
mod migration;
mod networking;
pub mod pod;
pub mod pod_certificate;
mod rbac;
pub mod resource;
mod scaling;
mod security;
mod selector;
mod service;
mod shared;
mod storage;
mod webhooks;

use crate::errors::Errors;
use crate::index::Index;
use crate::meta::NameFormat;
use serde_json::Value;
use std::sync::LazyLock;

type Check = fn(&Value, &mut Errors);
type UpdateCheck = fn(&Value, &Value, &mut Errors);

/// The own rules of a kind, on top of those for every object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    group: &'static str,
    kind: &'static str,
    pub names: NameFormat,
    pub prepare_create: fn(&mut Value),
    /// (new, old), after status and generation are settled: may not change what raises the generation.
    pub prepare_update: fn(&mut Value, &Value),
    pub prepare_status_update: fn(&mut Value, &Value),
    pub validate: Check,
    pub validate_update: UpdateCheck,
    pub validate_status: UpdateCheck,
}

impl Kind {
    /// A kind with nothing but its name's format.
    pub(crate) const fn new(group: &'static str, kind: &'static str) -> Kind {
        Kind {
            group,
            kind,
            names: NameFormat::Subdomain,
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            prepare_status_update: |_, _| {},
            validate: |_, _| {},
            validate_update: |_, _, _| {},
            validate_status: |_, _, _| {},
        }
    }

    pub(crate) const fn names(mut self, names: NameFormat) -> Kind {
        self.names = names;
        self
    }

    pub(crate) const fn create(mut self, check: Check) -> Kind {
        self.validate = check;
        self
    }

    pub(crate) const fn update(mut self, check: UpdateCheck) -> Kind {
        self.validate_update = check;
        self
    }

    pub(crate) const fn status(mut self, check: UpdateCheck) -> Kind {
        self.validate_status = check;
        self
    }
}

/// For kinds without rules of their own.
static GENERIC: Kind = Kind::new("", "");

static TABLE: LazyLock<Index<2, Kind>> = LazyLock::new(|| {
    let all = [
        apps::KINDS,
        batch::KINDS,
        cluster::KINDS,
        config::KINDS,
        csi::KINDS,
        discovery::KINDS,
        events::KINDS,
        extensions::KINDS,
        flow::KINDS,
        security::KINDS,
        webhooks::KINDS,
        migration::KINDS,
        networking::KINDS,
        pod::KINDS,
        pod_certificate::KINDS,
        rbac::KINDS,
        resource::KINDS,
        scaling::KINDS,
        service::KINDS,
        storage::KINDS,
    ];
    all.into_iter().flatten().map(|k| ([k.group, k.kind], *k)).collect()
});

/// The own rules of a kind, the generic ones when it has none.
pub(crate) fn find(group: &str, kind: &str) -> &'static Kind {
    TABLE.get([group, kind]).unwrap_or(&GENERIC)
}
