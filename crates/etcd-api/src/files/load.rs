//! Reads a snapshot of etcd's into a data folder.

use std::io;
use std::ops::ControlFlow;

use etcd_files::bolt::ReadAt;
use etcd_files::{AuthTables, Database, SchemaError, Version};
use mvcc::{Auth, Contents, Engine, Loader, MemberAttributes, Role, StoredLease, StoredVersion, User};

use crate::convert;

/// Why a state cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is damaged.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The data folder cannot be written.
    #[error("cannot write the data folder: {0}")]
    Write(String),
    /// A change number that no request can make.
    #[error("revision {0} has too many changes")]
    Sub(i64),
}

impl From<LoadError> for io::Error {
    fn from(error: LoadError) -> Self {
        io::Error::other(error)
    }
}

/// A database's versions were loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The last revision that it speaks of.
    pub revision: i64,
    /// The last compaction.
    pub compact_revision: i64,
}

/// How a snapshot becomes the beginning of a new cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    /// What the revision is raised by, so that clients never see one twice.
    pub bump_revision: i64,
    /// Whether everything up to there is compacted, so that watches of old revisions end.
    pub mark_compacted: bool,
}

/// A version as the store has it.
///
/// # Errors
/// When it has a change number that no request can make.
pub fn stored_version(version: Version) -> Result<StoredVersion, LoadError> {
    let Version { at, kv } = version;
    let sub = u32::try_from(at.sub).map_err(|_| LoadError::Sub(at.main))?;
    let mut kv = convert::kv_of(kv);
    kv.mod_revision = at.main;
    Ok(StoredVersion { main: at.main, sub, tombstone: at.tombstone, kv })
}

impl Loaded {
    /// Loads all versions of a database.
    ///
    /// # Errors
    /// When it is damaged or the engine cannot write.
    pub fn versions<R: ReadAt, E: Engine + ?Sized>(
        database: &Database<R>,
        loader: &mut Loader<'_, E>,
    ) -> Result<Self, LoadError> {
        let (mut revision, mut failed) = (0, None);
        database.versions(&mut |version| {
            revision = version.at.main;
            // A restore that raised the revision left a version of nothing there.
            if version.kv.key.is_empty() {
                return ControlFlow::Continue(());
            }
            let loaded = stored_version(version).and_then(|version| {
                loader.version(&version).map_err(|error| LoadError::Write(error.to_string()))
            });
            match loaded {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let compact_revision = database.meta()?.compact_revision;
        // The last versions may all be gone by the compaction.
        Ok(Self { revision: revision.max(compact_revision).max(1), compact_revision })
    }

    /// The same as the beginning of a new cluster.
    #[must_use]
    pub fn restored(mut self, how: Restore) -> Self {
        self.revision += how.bump_revision;
        if how.mark_compacted {
            self.compact_revision = self.revision;
        }
        self
    }

    /// What there is beside keys, for members that are named anew.
    ///
    /// # Errors
    /// When the database is damaged.
    pub fn contents<R: ReadAt>(
        self,
        database: &Database<R>,
        members: Vec<MemberAttributes>,
    ) -> Result<Contents, LoadError> {
        let mut leases = Vec::new();
        database.leases(&mut |lease| {
            leases.push(StoredLease { id: lease.id, ttl: lease.ttl, remaining: lease.remaining_ttl });
        })?;
        Ok(Contents {
            revision: self.revision,
            compact_revision: self.compact_revision,
            applied_index: 0,
            applied_term: 0,
            leases,
            alarms: database.alarms()?.iter().filter_map(convert::alarm_of).collect(),
            members,
            cluster_version: database.cluster_version()?,
            auth: stored_auth(database.auth()?),
        })
    }
}

/// Users and roles as the store has them.
pub fn stored_auth(tables: AuthTables) -> Auth {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let users = tables.users.into_iter().map(|user| {
        let no_password = user.options.is_some_and(|options| options.no_password);
        let roles = user.roles.into_iter().map(Into::into).collect();
        (text(&user.name), User { password: user.password, no_password, roles })
    });
    let roles = tables.roles.into_iter().map(|role| {
        let permissions = role.key_permission.into_iter().map(convert::permission_of).collect();
        (text(&role.name), Role { permissions })
    });
    Auth::from_tables(tables.enabled, tables.revision, users, roles)
}
