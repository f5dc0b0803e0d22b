//! The flags by which a command reaches a store: etcdctl's.

use std::path::PathBuf;

use ::backup::ConnectOptions;
use clap::Args;

/// How a store is reached.
#[derive(Args, Clone, Debug)]
pub struct ConnectFlags {
    /// Client URLs of members, of Trierarch or of etcd; the first that answers is used
    #[arg(long, value_delimiter = ',', env = "ETCDCTL_ENDPOINTS", default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// PEM file of those who sign the members' certificates
    #[arg(long, env = "ETCDCTL_CACERT")]
    pub cacert: Option<PathBuf>,
    /// PEM file of this client's certificate
    #[arg(long, env = "ETCDCTL_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, env = "ETCDCTL_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Name and password of a user, as name:password
    #[arg(long, env = "ETCDCTL_USER")]
    pub user: Option<String>,
    /// The password, where --user is the name alone
    #[arg(long, env = "ETCDCTL_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
}

impl ConnectFlags {
    pub fn options(&self) -> ConnectOptions {
        ConnectOptions {
            endpoints: self.endpoints.clone(),
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
        }
    }
}
