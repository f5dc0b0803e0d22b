//! The words of authentication, as etcd's `auth.proto` and `rpc.proto` say them.

use std::sync::Arc;

use bytes::Bytes;

use crate::types::KeyRange;

/// The user without whom authentication cannot be enabled, and the role that may everything.
pub const ROOT: &str = "root";

/// On whose behalf something is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user's name; empty for nobody.
    pub user: String,
    /// The auth revision at which the caller was known; 0 for nobody.
    pub revision: u64,
}

/// What a permission permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and watching.
    Read,
    /// Writing and deleting.
    Write,
    /// Both.
    ReadWrite,
}

/// Some access to some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Which access.
    pub access: Access,
    /// The first key.
    pub key: Bytes,
    /// As in a request: empty for one key, one zero byte for all keys from `key` on.
    pub range_end: Bytes,
}

impl Permission {
    /// The keys.
    pub fn range(&self) -> KeyRange {
        KeyRange::from_etcd(self.key.clone(), self.range_end.clone())
    }

    /// Whether the permission is about any key at all.
    pub fn is_valid(&self) -> bool {
        !self.key.is_empty() && !self.range().is_empty()
    }
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The password's hash; empty without a password.
    pub password: Bytes,
    /// The user has no password and is known by a certificate only.
    pub no_password: bool,
    /// Names of roles, in order.
    pub roles: Vec<Arc<str>>,
}

impl User {
    /// Whether the user has a role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| **held == *role)
    }
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// What it permits, by key.
    pub permissions: Vec<Permission>,
}

/// A token that was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose.
    pub user: Arc<str>,
    /// The log entry that made it.
    pub index: u64,
    /// The log entry that last said that it is in use.
    pub used: u64,
}

/// A token as it was seen: what is to be forgotten must not have been used since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// The token's digest.
    pub digest: Bytes,
    /// [`Token::used`] when it was seen.
    pub used: u64,
}

/// A change of users, roles and tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthCommand {
    /// From now on requests are checked.
    Enable,
    /// From now on they are not; all tokens end.
    Disable,
    /// A new user.
    UserAdd {
        /// Its name.
        name: String,
        /// The password's hash, made before it is proposed.
        password: Bytes,
        /// The user has none.
        no_password: bool,
    },
    /// A user goes, and its tokens.
    UserDelete {
        /// Its name.
        name: String,
    },
    /// Another password; the user's tokens end.
    UserChangePassword {
        /// The user's name.
        name: String,
        /// The new password's hash.
        password: Bytes,
    },
    /// A user gets a role.
    UserGrantRole {
        /// The user's name.
        user: String,
        /// The role's name.
        role: String,
    },
    /// A user loses a role.
    UserRevokeRole {
        /// The user's name.
        user: String,
        /// The role's name.
        role: String,
    },
    /// A new role.
    RoleAdd {
        /// Its name.
        name: String,
    },
    /// A role goes, from its users too.
    RoleDelete {
        /// Its name.
        name: String,
    },
    /// A role permits more, or some keys otherwise.
    RoleGrantPermission {
        /// The role's name.
        role: String,
        /// What it permits.
        permission: Permission,
    },
    /// A role permits less.
    RoleRevokePermission {
        /// The role's name.
        role: String,
        /// [`Permission::key`] of what goes.
        key: Bytes,
        /// [`Permission::range_end`] of what goes.
        range_end: Bytes,
    },
    /// A user has shown its password and gets a token.
    TokenAssign {
        /// The user's name.
        user: String,
        /// The auth revision at which the password was compared.
        revision: u64,
        /// The token's digest.
        digest: Bytes,
    },
    /// Some tokens are in use.
    TokensUsed {
        /// Their digests.
        digests: Vec<Bytes>,
    },
    /// Some tokens were not used for too long.
    TokensForget {
        /// Which, as they were seen.
        tokens: Vec<TokenUse>,
    },
}

/// Why authentication or a change of it failed. The texts are etcd's (`rpctypes/error.go`), without `etcdserver: `.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no user `root`.
    #[error("root user does not exist")]
    RootUserMissing,
    /// The user `root` has not the role `root`.
    #[error("root user does not have root role")]
    RootRoleMissing,
    /// A user of that name exists.
    #[error("user name already exists")]
    UserExists,
    /// Nobody asks, or a user without a name is to be made.
    #[error("user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("user name not found")]
    UserNotFound,
    /// A role of that name exists.
    #[error("role name already exists")]
    RoleExists,
    /// No such role.
    #[error("role name not found")]
    RoleNotFound,
    /// A role without a name is to be made.
    #[error("role name is empty")]
    RoleEmpty,
    /// The user is not there or the password is another.
    #[error("authentication failed, invalid user ID or password")]
    Failed,
    /// A grant without a permission.
    #[error("permission not given")]
    PermissionNotGiven,
    /// The caller may not.
    #[error("permission denied")]
    Denied,
    /// The user has not the role.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role has not the permission.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// There are no tokens while authentication is off.
    #[error("authentication is not enabled")]
    NotEnabled,
    /// The token is unknown, ended or forged.
    #[error("invalid auth token")]
    InvalidToken,
    /// What must not be done while authentication is on, or a permission for no key.
    #[error("invalid auth management")]
    InvalidManagement,
    /// Users or roles have changed since the caller was known.
    #[error("revision of auth store is old")]
    OldRevision,
}
