//! Generated code from `proto/`.

/// What members of the store say to each other.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod peer {
    tonic::include_proto!("trierarch.peer.v1");
}

/// The descriptors of the etcd v3 API, encoded.
pub const ETCD_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/etcd.bin"));

/// The etcd v3 API, in its packages.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod etcd {
    /// Users and roles.
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    /// Keys and events.
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    /// Services, requests and answers.
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    /// Locks.
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }
    /// Elections.
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }
}

/// The container runtime interface, v1.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// Key management plugins, v2, and what is stored of values that were sealed with their help.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod kms {
    tonic::include_proto!("v2");
}
