//! The one registry of every kind: what a request names, and the ways to read and write it.
//!
//! Reading order: `read.rs`, `pages.rs`, `write.rs`, `update.rs`, `patch.rs`, `delete.rs`, `rights.rs`,
//! `hooks.rs`.

mod delete;
mod hooks;
mod ownership;
mod pages;
mod patch;
mod read;
mod rights;
mod update;
mod write;

use api_types::status::Status;
use bytes::Bytes;

use crate::catalog::Kind;

pub(crate) use hooks::{EventLeases, Extra};
pub(crate) use patch::{APPLY_PATCH, Patch};
pub(crate) use read::revision;
pub(crate) use update::{Change, Update, UpdateKind, check_name};
pub(crate) use write::Written;

/// For who changes what may be gone by then.
pub(crate) fn gone_is_fine(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// An object, or a collection when the name is empty.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub resource: Kind,
    pub namespace: String,
    pub name: String,
}

impl Target {
    pub fn new(resource: impl Into<Kind>, namespace: &str, name: &str) -> Self {
        let resource = resource.into();
        let namespace = if resource.namespaced { namespace } else { "" };
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The store's key of the object.
    pub fn key(&self) -> Bytes {
        Bytes::from(self.resource.key(&self.namespace, &self.name))
    }

    /// What all keys of the collection begin with.
    pub fn prefix(&self) -> String {
        match self.namespace.as_str() {
            "" => self.resource.storage_prefix.as_str().to_owned(),
            namespace => format!("{}{namespace}/", self.resource.storage_prefix),
        }
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(&self.resource.group, &self.resource.resource, &self.name)
    }

    pub fn modified(&self) -> Status {
        Status::modified(&self.resource.group, &self.resource.resource, &self.name)
    }

    pub fn already_exists(&self) -> Status {
        Status::already_exists(&self.resource.group, &self.resource.resource, &self.name)
    }

    pub fn conflict(&self, why: &str) -> Status {
        Status::conflict(&self.resource.group, &self.resource.resource, &self.name, why)
    }

    pub fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.resource, &self.name, why)
    }

    pub fn invalid(&self, errors: &[api_types::field::FieldError]) -> Status {
        Status::invalid(&self.resource.group, &self.resource.kind, &self.name, errors)
    }

    /// 409 when the client meant another object of this name, of an update: the words of upstream's storage.
    pub fn check_updated_uid(&self, wanted: &str, found: &str) -> Result<(), Status> {
        if wanted.is_empty() || wanted == found {
            return Ok(());
        }
        let key = String::from_utf8_lossy(&self.key()).into_owned();
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        );
        Err(self.conflict(&why))
    }

    /// 409 when the client meant another object of this name.
    pub fn check_uid(&self, wanted: &str, found: &str) -> Result<(), Status> {
        if wanted.is_empty() || wanted == found {
            return Ok(());
        }
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        Err(self.conflict(&why))
    }
}
