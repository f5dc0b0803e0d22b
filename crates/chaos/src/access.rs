//! Callers of the Kubernetes API of a cluster.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api_types::{Resource, table};
use client::{Client, MastersConfig};
use env::{Env, Shutdown, TaskGroup};

/// How long a client waits for the answer to a write before it goes to another master.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(3);

/// An administrator's credentials. Connections end when it is dropped.
pub struct Access {
    ca: Vec<u8>,
    identity: (Vec<u8>, Vec<u8>),
    connections: TaskGroup,
    env: Env,
}

impl Access {
    /// Reads the folder that `trierarch pki` wrote.
    ///
    /// # Errors
    /// A file is missing.
    pub fn read(env: &Env, pki: &Path) -> Result<Self> {
        // Whoever came first has installed the same one.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let read = |file: &str| fs::read(pki.join(file)).with_context(|| format!("cannot read {file}"));
        Ok(Self {
            ca: read("ca.crt")?,
            identity: (read("apiserver-kubelet-client.crt")?, read("apiserver-kubelet-client.key")?),
            connections: TaskGroup::new("connections", Shutdown::new()),
            env: env.clone(),
        })
    }

    /// A caller of these masters, with connections of its own.
    ///
    /// # Errors
    /// No master, or credentials that cannot be used.
    pub fn client(&self, servers: Vec<String>) -> Result<Client> {
        let identity = Some(self.identity.clone());
        let config = MastersConfig { servers, ca: self.ca.clone(), identity };
        Ok(Client::new(config.build(self.env.clone(), self.connections.clone())?, "chaos"))
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.connections.shutdown().trigger();
    }
}

/// A kind of the API.
pub fn kind(group: &str, resource: &str) -> &'static Resource {
    table::find(group, "v1", resource).expect("invariant: only built-in kinds are asked for")
}
