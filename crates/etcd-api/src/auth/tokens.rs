//! Tokens: made for who has shown a password, and known again on every member.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use env::{Env, Timestamp};
use mvcc::{AuthCommand, AuthError, Caller, Command, Response as Answer, View};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use store::Store;
use tonic::Status;

use super::jwt::Jwt;
use super::options::{AuthOptions, AuthOptionsError, TokenOptions};
use super::password::Passwords;
use crate::error::{auth_status, mvcc_status, status};

/// Letters of a simple token before the dot: 26^22 are more than 2^100.
const LETTERS: usize = 22;
/// Tokens whose use is remembered until it is told to all members, at most.
const MAX_USES: usize = 65_536;

/// Knows callers by what they show.
pub(crate) struct Tokens {
    pub kind: Kind,
    pub passwords: Passwords,
    pub certificates: bool,
}

pub(crate) enum Kind {
    None,
    Simple(Simple),
    Jwt(Box<Jwt>),
}

/// Random tokens. The replicated state holds their digests.
pub(crate) struct Simple {
    pub ttl: Duration,
    /// Digests of tokens that were used here since it was told last.
    used: Mutex<HashSet<Bytes>>,
}

impl Simple {
    /// Takes what was used since it was asked last.
    pub fn take_used(&self) -> Vec<Bytes> {
        self.used.lock().drain().collect()
    }

    fn known(&self, view: &View, prefix: &str, index: u64) -> Option<Caller> {
        let digest = digest(prefix);
        let token = view.auth().token(&digest).filter(|token| token.index == index)?;
        let caller = Caller { user: token.user.to_string(), revision: view.auth().revision() };
        let mut used = self.used.lock();
        if used.len() < MAX_USES {
            used.insert(digest);
        }
        Some(caller)
    }
}

fn digest(prefix: &str) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(prefix.as_bytes()))
}

impl Tokens {
    pub fn new(options: AuthOptions) -> Result<Self, AuthOptionsError> {
        let kind = match options.tokens {
            TokenOptions::None => Kind::None,
            TokenOptions::Simple { ttl } => Kind::Simple(Simple { ttl, used: Mutex::default() }),
            TokenOptions::Jwt(options) => Kind::Jwt(Box::new(Jwt::open(options)?)),
        };
        let passwords = Passwords::new(options.bcrypt_cost);
        Ok(Self { kind, passwords, certificates: options.certificates })
    }

    /// Whose a token is.
    pub async fn caller(&self, store: &Store, token: &str, now: Timestamp) -> Result<Caller, AuthError> {
        match &self.kind {
            Kind::None => None,
            Kind::Jwt(jwt) => jwt.verify(token, now),
            Kind::Simple(simple) => {
                let (prefix, index) = token.rsplit_once('.').ok_or(AuthError::InvalidToken)?;
                let index: u64 = index.parse().map_err(|_| AuthError::InvalidToken)?;
                let mut view = store.view();
                if index > view.applied_index() && store.read_barrier().await.is_ok() {
                    // Another member made it a moment ago.
                    view = store.view();
                }
                simple.known(&view, prefix, index)
            }
        }
        .ok_or(AuthError::InvalidToken)
    }

    /// A token for a user whose password was compared at an auth revision. `OldRevision` asks to compare again.
    pub async fn assign(
        &self,
        env: &Env,
        store: &Store,
        user: &str,
        revision: u64,
    ) -> Result<String, Assign> {
        match &self.kind {
            Kind::None => Err(Assign::Refused(auth_status(AuthError::Failed))),
            Kind::Jwt(_) if store.view().auth().revision() != revision => Err(Assign::Again),
            Kind::Jwt(jwt) => jwt.sign(user, revision, env.clock.now()).ok_or_else(|| {
                Assign::Refused(Status::unknown("auth: token signing attempted with verify-only key"))
            }),
            Kind::Simple(_) => {
                let prefix = random_letters(env);
                let digest = digest(&prefix);
                let command = AuthCommand::TokenAssign { user: user.to_owned(), revision, digest };
                let applied = store.propose(Command::Auth(command)).await;
                match applied.map_err(|error| Assign::Refused(status(error)))?.response {
                    Ok(Answer::TokenAssigned { index }) => Ok(format!("{prefix}.{index}")),
                    Err(mvcc::MvccError::Auth(AuthError::OldRevision)) => Err(Assign::Again),
                    Err(error) => Err(Assign::Refused(mvcc_status(&error))),
                    Ok(other) => {
                        Err(Assign::Refused(Status::internal(format!("a token was answered by {other:?}"))))
                    }
                }
            }
        }
    }
}

/// Why there is no token.
pub(crate) enum Assign {
    /// Users have changed meanwhile.
    Again,
    Refused(Status),
}

fn random_letters(env: &Env) -> String {
    (0..LETTERS).map(|_| char::from(b'a' + env.rng.below(26) as u8)).collect()
}
