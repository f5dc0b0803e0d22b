//! Compiles `proto/` with protox: no protoc is needed.

use std::error::Error;
use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    // Where the script runs, not where it was compiled: a target folder may have moved.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed=../../proto");
    peer(&root)?;
    etcd(&root)?;
    cri(&root)?;
    kms(&root)
}

/// What members say to each other. Entries and chunks share the bytes they came in.
fn peer(root: &Path) -> Result<(), Box<dyn Error>> {
    let files = protox::compile([root.join("peer/peer.proto")], [root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}

/// The etcd v3 API. Keys and values are shared, not copied.
fn etcd(root: &Path) -> Result<(), Box<dyn Error>> {
    let files = ["etcd/rpc.proto", "etcd/lock.proto", "etcd/election.proto"].map(|file| root.join(file));
    let files = protox::compile(files, [root])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("etcd.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}

/// The container runtime interface: the agent only calls it.
fn cri(root: &Path) -> Result<(), Box<dyn Error>> {
    let files = protox::compile([root.join("cri/api.proto")], [root])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}

/// What a key management plugin is asked. The same bytes come out of the same message: maps are ordered.
fn kms(root: &Path) -> Result<(), Box<dyn Error>> {
    let files = protox::compile([root.join("kms/v2.proto")], [root])?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(files)?;
    Ok(())
}
