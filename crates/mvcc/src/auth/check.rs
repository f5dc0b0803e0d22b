//! Who may do what. The rules are etcd's (`auth/store.go`, `etcdserver/apply/auth.go`), with those of its security
//! fixes of 2026: transactions within transactions are checked too, an answer with previous values needs the right to
//! read them, and attaching to a lease needs the right to write every key that hangs on it.

use imbl::OrdMap;

use super::spans::Spans;
use super::state::Auth;
use super::types::{AuthCommand, AuthError, Caller, ROOT, User};
use crate::lease::Lease;
use crate::types::{Command, Compare, DeleteRequest, KeyRange, LeaseId, Op, PutRequest, Txn};
use crate::view::View;

type Leases = OrdMap<LeaseId, std::sync::Arc<Lease>>;

/// The keys that a user may read and those that it may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    pub read: Spans,
    pub write: Spans,
}

/// What a caller may do with keys.
#[derive(Clone, Copy)]
enum Rights<'a> {
    All,
    Some(&'a Grants),
}

impl Rights<'_> {
    fn read(&self, range: &KeyRange) -> Result<(), AuthError> {
        self.check(|grants| grants.read.cover(range))
    }

    fn write(&self, range: &KeyRange) -> Result<(), AuthError> {
        self.check(|grants| grants.write.cover(range))
    }

    fn check(&self, permits: impl FnOnce(&Grants) -> bool) -> Result<(), AuthError> {
        match self {
            Self::Some(grants) if !permits(grants) => Err(AuthError::Denied),
            _ => Ok(()),
        }
    }

    fn lease(&self, lease: Option<&Lease>) -> Result<(), AuthError> {
        lease.into_iter().flat_map(Lease::keys).try_for_each(|key| self.write(&KeyRange::Key(key.clone())))
    }

    fn txn(&self, txn: &Txn, leases: &Leases) -> Result<(), AuthError> {
        txn.compare.iter().try_for_each(|Compare { range, .. }| self.read(range))?;
        txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
            Op::Range(request) => self.read(&request.range),
            Op::Put(request) => self.put(request, leases),
            Op::Delete(request) => self.delete(request),
            Op::Txn(txn) => self.txn(txn, leases),
        })
    }

    fn put(&self, request: &PutRequest, leases: &Leases) -> Result<(), AuthError> {
        let key = KeyRange::Key(request.key.clone());
        self.write(&key)?;
        self.lease(leases.get(&request.lease).map(|lease| &**lease))?;
        if request.prev_kv { self.read(&key) } else { Ok(()) }
    }

    fn delete(&self, request: &DeleteRequest) -> Result<(), AuthError> {
        self.write(&request.range)?;
        if request.prev_kv { self.read(&request.range) } else { Ok(()) }
    }
}

impl Auth {
    /// Whether the caller may do everything.
    ///
    /// # Errors
    /// `UserEmpty`, `UserNotFound`, `Denied`.
    pub fn check_admin(&self, caller: &Caller) -> Result<(), AuthError> {
        if !self.is_enabled() {
            return Ok(());
        }
        self.check_known(caller)?;
        let user = self.user(&caller.user).ok_or(AuthError::UserNotFound)?;
        if user.has_role(ROOT) { Ok(()) } else { Err(AuthError::Denied) }
    }

    /// Whether it is known who the caller is.
    ///
    /// # Errors
    /// `UserEmpty`.
    pub fn check_known(&self, caller: &Caller) -> Result<(), AuthError> {
        if self.is_enabled() && caller.user.is_empty() { Err(AuthError::UserEmpty) } else { Ok(()) }
    }

    /// Whether the caller may read a range.
    ///
    /// # Errors
    /// `UserEmpty`, `OldRevision`, `Denied`; so for all that follow.
    pub fn check_read(&self, caller: &Caller, range: &KeyRange) -> Result<(), AuthError> {
        self.rights(caller)?.read(range)
    }

    /// Whether the caller may see which keys hang on a lease.
    ///
    /// # Errors
    /// See [`Self::check_read`].
    pub fn check_lease_read(&self, caller: &Caller, lease: &Lease) -> Result<(), AuthError> {
        self.check_lease(caller, lease, |rights, key| rights.read(key))
    }

    /// Whether the caller may renew or end a lease: that it may write every key that hangs on it.
    ///
    /// # Errors
    /// See [`Self::check_read`].
    pub fn check_lease_write(&self, caller: &Caller, lease: &Lease) -> Result<(), AuthError> {
        self.check_lease(caller, lease, |rights, key| rights.write(key))
    }

    /// Whether the caller may learn of a user: of itself it may.
    ///
    /// # Errors
    /// See [`Self::check_admin`].
    pub fn check_user_get(&self, caller: &Caller, name: &str) -> Result<(), AuthError> {
        self.check_admin(caller).or_else(|error| if caller.user == name { Ok(()) } else { Err(error) })
    }

    /// Whether the caller may learn of a role: of one that it has it may.
    ///
    /// # Errors
    /// See [`Self::check_admin`].
    pub fn check_role_get(&self, caller: &Caller, role: &str) -> Result<(), AuthError> {
        let has = self.user(&caller.user).is_some_and(|user| user.has_role(role));
        self.check_admin(caller).or_else(|error| if has { Ok(()) } else { Err(error) })
    }

    /// Whether a caller may have a command applied.
    pub(crate) fn check(&self, caller: &Caller, command: &Command, leases: &Leases) -> Result<(), AuthError> {
        if !self.is_enabled() {
            return Ok(());
        }
        match command {
            Command::Txn(txn) => self.rights(caller)?.txn(txn, leases),
            Command::LeaseGrant { .. } => self.check_known(caller),
            Command::LeaseRevoke { id } => {
                self.check_known(caller)?;
                leases.get(id).map_or(Ok(()), |lease| self.check_lease_write(caller, lease))
            }
            Command::Auth(AuthCommand::TokenAssign { .. }) | Command::Noop => Ok(()),
            _ => self.check_admin(caller),
        }
    }

    fn check_lease(
        &self,
        caller: &Caller,
        lease: &Lease,
        check: impl Fn(&Rights<'_>, &KeyRange) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        if self.check_admin(caller).is_ok() || lease.keys().next().is_none() {
            return self.check_known(caller);
        }
        let rights = self.rights(caller)?;
        lease.keys().try_for_each(|key| check(&rights, &KeyRange::Key(key.clone())))
    }

    fn rights(&self, caller: &Caller) -> Result<Rights<'_>, AuthError> {
        if !self.is_enabled() {
            return Ok(Rights::All);
        }
        if caller.revision == 0 {
            return Err(AuthError::UserEmpty);
        }
        if caller.revision < self.revision() {
            return Err(AuthError::OldRevision);
        }
        match (self.user(&caller.user), self.grants(&caller.user)) {
            (Some(user), _) if User::has_role(user, ROOT) => Ok(Rights::All),
            (Some(_), Some(grants)) => Ok(Rights::Some(grants)),
            _ => Err(AuthError::Denied),
        }
    }
}

impl View {
    /// Users, roles and tokens.
    pub fn auth(&self) -> &Auth {
        &self.state.auth
    }

    /// Whether a caller may do a transaction, as far as this view knows.
    ///
    /// # Errors
    /// See [`Auth::check_read`].
    pub fn check_txn(&self, caller: &Caller, txn: &Txn) -> Result<(), AuthError> {
        self.auth().rights(caller)?.txn(txn, &self.state.leases)
    }
}
