//! Moving in, moving out and backups as their users do them: the program that is shipped, etcd's own tools,
//! and etcd itself.

mod backups;
mod clusters;
mod folders;
mod following;
mod imports;
mod interruptions;
mod member;
mod restores;
mod s3;
#[path = "../shared/mod.rs"]
mod shared;
mod snapshots;
