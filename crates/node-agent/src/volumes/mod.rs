//! Volumes of a pod. Pure: [`plan`] (what each volume is, which files it holds). Drivers: [`atomic`] (files that
//! change all at once), [`mounter`] (directories, tmpfs, ownership), [`sub_path`] (parts of volumes).

pub mod atomic;
pub mod mounter;
pub mod plan;
pub mod sub_path;
