//! Volumes of a pod. Pure: [`plan`] (what each volume is, which files it holds). Drivers: [`atomic`] (files that
//! change all at once), [`mounter`] (directories, tmpfs, ownership).

pub mod atomic;
pub mod mounter;
pub mod plan;
