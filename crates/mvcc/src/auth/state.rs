//! The state of authentication and its changes (etcd's `auth/store.go`).

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use super::check::Grants;
use super::codec;
use super::spans::Spans;
use super::types::{Access, AuthCommand, AuthError, Permission, ROOT, Role, Token, TokenUse, User};
use crate::engine::{Batch, Engine, EngineError, Table};
use crate::types::Response;

/// Tokens that are known at a time; when there are more, the one that was not used for the longest time goes.
pub const MAX_TOKENS: usize = 100_000;

/// Where the state lies in [`Table::Meta`].
const STATUS: &[u8] = b"auth/status";
const USERS: &[u8] = b"auth/user/";
const ROLES: &[u8] = b"auth/role/";
const TOKENS: &[u8] = b"auth/token/";

/// Users, roles and tokens, and whether they matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: OrdMap<Arc<str>, Arc<User>>,
    roles: OrdMap<Arc<str>, Arc<Role>>,
    tokens: OrdMap<Bytes, Token>,
    /// Tokens by their last use; made of `tokens`.
    by_use: OrdSet<(u64, Bytes)>,
    /// What the users' roles permit together; made of `users` and `roles`.
    grants: OrdMap<Arc<str>, Arc<Grants>>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: 1,
            users: OrdMap::new(),
            roles: OrdMap::new(),
            tokens: OrdMap::new(),
            by_use: OrdSet::new(),
            grants: OrdMap::new(),
        }
    }
}

/// Reading.
impl Auth {
    /// Whether requests are checked.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes of users and roles, from 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    /// The users' names, in order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(|name| &**name)
    }

    /// A role. The role `root` permits everything, whatever is written in it.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// The roles' names, in order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(|name| &**name)
    }

    /// A token by its digest.
    pub fn token(&self, digest: &[u8]) -> Option<&Token> {
        self.tokens.get(digest)
    }

    /// All tokens by their digests.
    pub fn tokens(&self) -> impl Iterator<Item = (&Bytes, &Token)> {
        self.tokens.iter()
    }

    pub(super) fn grants(&self, user: &str) -> Option<&Grants> {
        self.grants.get(user).map(|grants| &**grants)
    }
}

/// Changing.
impl Auth {
    /// Applies a command of log entry `index`; nothing is changed by one that is refused.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        command: &AuthCommand,
        batch: &mut Batch,
    ) -> Result<Response, AuthError> {
        match command {
            AuthCommand::Enable => self.enable(batch)?,
            AuthCommand::Disable => self.disable(batch),
            AuthCommand::UserAdd { name, password, no_password } => {
                self.user_add(name, password, *no_password, batch)?;
            }
            AuthCommand::UserDelete { name } => self.user_delete(name, batch)?,
            AuthCommand::UserChangePassword { name, password } => {
                self.user_change_password(name, password, batch)?;
            }
            AuthCommand::UserGrantRole { user, role } => self.user_grant_role(user, role, batch)?,
            AuthCommand::UserRevokeRole { user, role } => self.user_revoke_role(user, role, batch)?,
            AuthCommand::RoleAdd { name } => self.role_add(name, batch)?,
            AuthCommand::RoleDelete { name } => self.role_delete(name, batch)?,
            AuthCommand::RoleGrantPermission { role, permission } => {
                self.role_grant(role, permission, batch)?;
            }
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                self.role_revoke(role, key, range_end, batch)?;
            }
            AuthCommand::TokenAssign { user, revision, digest } => {
                self.token_assign(index, user, *revision, digest, batch)?;
                return Ok(Response::TokenAssigned { index });
            }
            AuthCommand::TokensUsed { digests } => self.tokens_used(index, digests, batch),
            AuthCommand::TokensForget { tokens } => self.tokens_forget(tokens, batch),
        }
        Ok(Response::None)
    }

    fn enable(&mut self, batch: &mut Batch) -> Result<(), AuthError> {
        if self.enabled {
            return Ok(());
        }
        let root = self.user(ROOT).ok_or(AuthError::RootUserMissing)?;
        if !root.has_role(ROOT) {
            return Err(AuthError::RootRoleMissing);
        }
        self.enabled = true;
        self.write_status(batch);
        Ok(())
    }

    fn disable(&mut self, batch: &mut Batch) {
        if !self.enabled {
            return;
        }
        self.enabled = false;
        let all: Vec<Bytes> = self.tokens.keys().cloned().collect();
        all.iter().for_each(|digest| self.drop_token(digest, batch));
        self.next_revision(batch);
    }

    fn user_add(
        &mut self,
        name: &str,
        password: &Bytes,
        no_password: bool,
        batch: &mut Batch,
    ) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(AuthError::UserExists);
        }
        let password = if no_password { Bytes::new() } else { password.clone() };
        self.set_user(name.into(), User { password, no_password, roles: Vec::new() }, batch);
        self.next_revision(batch);
        Ok(())
    }

    fn user_delete(&mut self, name: &str, batch: &mut Batch) -> Result<(), AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.users.remove(name).ok_or(AuthError::UserNotFound)?;
        self.grants.remove(name);
        batch.delete(Table::Meta, key_of(USERS, name.as_bytes()));
        self.drop_tokens_of(name, batch);
        self.next_revision(batch);
        Ok(())
    }

    fn user_change_password(
        &mut self,
        name: &str,
        password: &Bytes,
        batch: &mut Batch,
    ) -> Result<(), AuthError> {
        let mut user = self.user(name).cloned().ok_or(AuthError::UserNotFound)?;
        user.password = if user.no_password { Bytes::new() } else { password.clone() };
        self.set_user(name.into(), user, batch);
        self.drop_tokens_of(name, batch);
        self.next_revision(batch);
        Ok(())
    }

    fn user_grant_role(&mut self, name: &str, role: &str, batch: &mut Batch) -> Result<(), AuthError> {
        let mut user = self.user(name).cloned().ok_or(AuthError::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(AuthError::RoleNotFound);
        }
        if let Err(place) = user.roles.binary_search_by(|held| (**held).cmp(role)) {
            user.roles.insert(place, role.into());
            self.set_user(name.into(), user, batch);
            self.next_revision(batch);
        }
        Ok(())
    }

    fn user_revoke_role(&mut self, name: &str, role: &str, batch: &mut Batch) -> Result<(), AuthError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let mut user = self.user(name).cloned().ok_or(AuthError::UserNotFound)?;
        if !user.has_role(role) {
            return Err(AuthError::RoleNotGranted);
        }
        user.roles.retain(|held| **held != *role);
        self.set_user(name.into(), user, batch);
        self.next_revision(batch);
        Ok(())
    }

    fn role_add(&mut self, name: &str, batch: &mut Batch) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleExists);
        }
        self.set_role(name, Role::default(), batch);
        self.next_revision(batch);
        Ok(())
    }

    fn role_delete(&mut self, name: &str, batch: &mut Batch) -> Result<(), AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        batch.delete(Table::Meta, key_of(ROLES, name.as_bytes()));
        for holder in self.holders(name) {
            let mut user = self.user(&holder).cloned().expect("invariant: a holder is a user");
            user.roles.retain(|held| **held != *name);
            self.set_user(holder, user, batch);
        }
        self.next_revision(batch);
        Ok(())
    }

    fn role_grant(&mut self, name: &str, given: &Permission, batch: &mut Batch) -> Result<(), AuthError> {
        if !given.is_valid() {
            return Err(AuthError::InvalidManagement);
        }
        let mut role = self.role(name).cloned().ok_or(AuthError::RoleNotFound)?;
        let order = |held: &Permission| (&held.key, &held.range_end).cmp(&(&given.key, &given.range_end));
        match role.permissions.binary_search_by(order) {
            Ok(place) => role.permissions[place].access = given.access,
            Err(place) => role.permissions.insert(place, given.clone()),
        }
        self.set_role(name, role, batch);
        self.next_revision(batch);
        Ok(())
    }

    fn role_revoke(
        &mut self,
        name: &str,
        key: &Bytes,
        range_end: &Bytes,
        batch: &mut Batch,
    ) -> Result<(), AuthError> {
        let mut role = self.role(name).cloned().ok_or(AuthError::RoleNotFound)?;
        let before = role.permissions.len();
        role.permissions.retain(|held| held.key != key || held.range_end != range_end);
        if role.permissions.len() == before {
            return Err(AuthError::PermissionNotGranted);
        }
        self.set_role(name, role, batch);
        self.next_revision(batch);
        Ok(())
    }

    fn token_assign(
        &mut self,
        index: u64,
        name: &str,
        revision: u64,
        digest: &Bytes,
        batch: &mut Batch,
    ) -> Result<(), AuthError> {
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        // The password was compared with what stood there then.
        if revision != self.revision {
            return Err(AuthError::OldRevision);
        }
        let (user, _) = self.users.get_key_value(name).ok_or(AuthError::Failed)?;
        let token = Token { user: user.clone(), index, used: index };
        if self.tokens.len() >= MAX_TOKENS
            && let Some((_, oldest)) = self.by_use.get_min().cloned()
        {
            self.drop_token(&oldest, batch);
        }
        self.set_token(digest.clone(), token, batch);
        Ok(())
    }

    fn tokens_used(&mut self, index: u64, digests: &[Bytes], batch: &mut Batch) {
        for digest in digests {
            if let Some(token) = self.tokens.get(digest).cloned() {
                self.by_use.remove(&(token.used, digest.clone()));
                self.set_token(digest.clone(), Token { used: index, ..token }, batch);
            }
        }
    }

    fn tokens_forget(&mut self, tokens: &[TokenUse], batch: &mut Batch) {
        for TokenUse { digest, used } in tokens {
            if self.tokens.get(digest).is_some_and(|token| token.used == *used) {
                self.drop_token(digest, batch);
            }
        }
    }

    fn drop_tokens_of(&mut self, name: &str, batch: &mut Batch) {
        let of_user = |(digest, token): (&Bytes, &Token)| (*token.user == *name).then(|| digest.clone());
        let digests: Vec<Bytes> = self.tokens.iter().filter_map(of_user).collect();
        digests.iter().for_each(|digest| self.drop_token(digest, batch));
    }

    fn drop_token(&mut self, digest: &Bytes, batch: &mut Batch) {
        if let Some(token) = self.tokens.remove(digest) {
            self.by_use.remove(&(token.used, digest.clone()));
            batch.delete(Table::Meta, key_of(TOKENS, digest));
        }
    }

    fn set_token(&mut self, digest: Bytes, token: Token, batch: &mut Batch) {
        batch.put(Table::Meta, key_of(TOKENS, &digest), codec::encode_token(&token));
        self.by_use.insert((token.used, digest.clone()));
        self.tokens.insert(digest, token);
    }

    fn set_user(&mut self, name: Arc<str>, user: User, batch: &mut Batch) {
        batch.put(Table::Meta, key_of(USERS, name.as_bytes()), codec::encode_user(&user));
        self.users.insert(name.clone(), Arc::new(user));
        self.merge_grants(name);
    }

    fn set_role(&mut self, name: &str, role: Role, batch: &mut Batch) {
        batch.put(Table::Meta, key_of(ROLES, name.as_bytes()), codec::encode_role(&role));
        self.roles.insert(name.into(), Arc::new(role));
        self.holders(name).into_iter().for_each(|holder| self.merge_grants(holder));
    }

    /// Who has a role.
    fn holders(&self, role: &str) -> Vec<Arc<str>> {
        let holds = |(name, user): (&Arc<str>, &Arc<User>)| user.has_role(role).then(|| name.clone());
        self.users.iter().filter_map(holds).collect()
    }

    fn merge_grants(&mut self, name: Arc<str>) {
        let roles = self.users.get(&name).into_iter().flat_map(|user| &user.roles);
        let held: Vec<&Permission> =
            roles.filter_map(|role| self.roles.get(role)).flat_map(|role| &role.permissions).collect();
        let spans = |but: Access| {
            Spans::new(held.iter().filter(|held| held.access != but).map(|permission| permission.range()))
        };
        let grants = Grants { read: spans(Access::Write), write: spans(Access::Read) };
        self.grants.insert(name, Arc::new(grants));
    }

    fn next_revision(&mut self, batch: &mut Batch) {
        self.revision += 1;
        self.write_status(batch);
    }

    fn write_status(&self, batch: &mut Batch) {
        batch.put(Table::Meta, STATUS, codec::encode_status(self.enabled, self.revision));
    }
}

/// On disk.
impl Auth {
    /// Users and roles that were made elsewhere; lists are brought into their order. Nobody has a token.
    pub fn from_tables(
        enabled: bool,
        revision: u64,
        users: impl IntoIterator<Item = (String, User)>,
        roles: impl IntoIterator<Item = (String, Role)>,
    ) -> Self {
        let mut auth = Self { enabled, revision: revision.max(1), ..Self::default() };
        for (name, mut role) in roles {
            role.permissions.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
            auth.roles.insert(name.into(), Arc::new(role));
        }
        for (name, mut user) in users {
            user.roles.sort();
            user.roles.dedup();
            let name: Arc<str> = name.into();
            auth.users.insert(name.clone(), Arc::new(user));
            auth.merge_grants(name);
        }
        auth
    }

    /// Writes users and roles, but no tokens.
    pub(crate) fn write_all(&self, batch: &mut Batch) {
        self.write_status(batch);
        for (name, user) in &self.users {
            batch.put(Table::Meta, key_of(USERS, name.as_bytes()), codec::encode_user(user));
        }
        for (name, role) in &self.roles {
            batch.put(Table::Meta, key_of(ROLES, name.as_bytes()), codec::encode_role(role));
        }
    }

    /// Reads what an engine holds.
    pub(crate) fn open<E: Engine + ?Sized>(engine: &E) -> Result<Self, EngineError> {
        let mut auth = Self::default();
        if let Some(bytes) = engine.get(Table::Meta, STATUS)? {
            (auth.enabled, auth.revision) = codec::decode_status(bytes)?;
        }
        for (name, bytes) in entries(engine, ROLES)? {
            auth.roles.insert(codec::name(&name)?, Arc::new(codec::decode_role(bytes)?));
        }
        for (name, bytes) in entries(engine, USERS)? {
            let name = codec::name(&name)?;
            auth.users.insert(name.clone(), Arc::new(codec::decode_user(bytes)?));
            auth.merge_grants(name);
        }
        for (digest, bytes) in entries(engine, TOKENS)? {
            let token = codec::decode_token(bytes)?;
            auth.by_use.insert((token.used, digest.clone()));
            auth.tokens.insert(digest, token);
        }
        Ok(auth)
    }
}

fn key_of(prefix: &[u8], name: &[u8]) -> Bytes {
    [prefix, name].concat().into()
}

/// What lies below a prefix, the keys without it.
fn entries<E: Engine + ?Sized>(engine: &E, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    let mut found = Vec::new();
    engine.scan(Table::Meta, prefix, None, &mut |key, value| match key.strip_prefix(prefix) {
        Some(name) => {
            found.push((Bytes::copy_from_slice(name), value));
            ControlFlow::Continue(())
        }
        None => ControlFlow::Break(()),
    })?;
    Ok(found)
}
