//! Users with passwords, and one right that is taken and given again while they make use of it. It has two conditions: a
//! role's permission, and that the user has the role.

use std::time::Duration;

use anyhow::{Context as _, Result};
use env::{Env, Rng, Shutdown};
use protos::etcd::authpb::{Permission, permission};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::auth_client::AuthClient;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use tonic::Status;

use super::traffic::{Caller, DRAIN};
use super::wire::{self, Connection, Token};
use crate::history::{Act, Attempt};
use crate::poll::until;

/// The user who may do everything.
pub const ROOT: &str = "root";
/// The user whose right it is, and the role that it comes from.
const USER: &str = "user";
const ROLE: &str = "writer";
const PASSWORD: &str = "p";
/// The key that the right is about.
const KEY: &str = "x/right";
/// Between two changes at most, and between two uses.
const CHANGE: Duration = Duration::from_millis(150);
const USE: Duration = Duration::from_millis(20);

/// Has everybody say who they are from now on.
///
/// # Errors
/// The member does not agree.
pub async fn enable(env: &Env, endpoint: &str) -> Result<()> {
    let mut auth = client(endpoint, &Token::default()).await?;
    add_user(&mut auth, ROOT).await?;
    auth.role_add(pb::AuthRoleAddRequest { name: ROOT.to_owned() }).await?;
    let grant = pb::AuthUserGrantRoleRequest { user: ROOT.to_owned(), role: ROOT.to_owned() };
    auth.user_grant_role(grant).await?;
    auth.auth_enable(pb::AuthEnableRequest {}).await?;
    token(env, endpoint, ROOT).await.map(drop)
}

/// Makes the user and the right.
///
/// # Errors
/// The member does not.
pub async fn prepare(env: &Env, endpoint: &str, root: &Token) -> Result<()> {
    let mut auth = client(endpoint, root).await?;
    add_user(&mut auth, USER).await?;
    auth.role_add(pb::AuthRoleAddRequest { name: ROLE.to_owned() }).await?;
    let connection = wire::connect(endpoint, root).await.context("no connection")?;
    for condition in 0..2 {
        set(connection.clone(), condition, true).await?;
    }
    token(env, endpoint, USER).await.map(drop)
}

/// A token of a user.
///
/// # Errors
/// None is given.
pub async fn token(env: &Env, endpoint: &str, name: &str) -> Result<Token> {
    until(env, DRAIN, async || {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: PASSWORD.to_owned() };
        let answer = client(endpoint, &Token::default()).await?.authenticate(request).await?;
        Ok(Token::new(&answer.into_inner().token))
    })
    .await
}

async fn client(endpoint: &str, token: &Token) -> Result<AuthClient<Connection>> {
    Ok(AuthClient::new(wire::connect(endpoint, token).await.context("no connection")?))
}

async fn add_user(auth: &mut AuthClient<Connection>, name: &str) -> Result<()> {
    let (name, password) = (name.to_owned(), PASSWORD.to_owned());
    auth.user_add(pb::AuthUserAddRequest { name, password, ..Default::default() }).await?;
    Ok(())
}

/// Makes a condition true or false.
async fn set(connection: Connection, condition: usize, to: bool) -> Result<(), Status> {
    let mut auth = AuthClient::new(connection);
    let (user, role) = (USER.to_owned(), ROLE.to_owned());
    let key = wire::bytes(KEY);
    match (condition, to) {
        (0, true) => {
            let perm_type = permission::Type::Readwrite.into();
            let perm = Some(Permission { perm_type, key, ..Default::default() });
            auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: role, perm })
                .await
                .map(drop)
        }
        (0, false) => {
            let request = pb::AuthRoleRevokePermissionRequest { role, key, ..Default::default() };
            auth.role_revoke_permission(request).await.map(drop)
        }
        (_, true) => auth.user_grant_role(pb::AuthUserGrantRoleRequest { user, role }).await.map(drop),
        (_, false) => {
            auth.user_revoke_role(pb::AuthUserRevokeRoleRequest { name: user, role }).await.map(drop)
        }
    }
}

/// Takes the right and gives it again, one way or the other. It is there at the end.
pub async fn give_and_take(mut caller: Caller, seed: u64, stop: Shutdown) {
    let rng = Rng::seeded(seed);
    while !stop.is_triggered() {
        let condition = usize::try_from(rng.below(2)).unwrap_or(0);
        for to in [false, true] {
            caller.pause(rng.jittered(CHANGE / 2, 1.0)).await;
            let mut done = false;
            while !done {
                let (call, answer) =
                    caller.ask(async |connection| set(connection, condition, to).await).await;
                let at = caller.recorder.now();
                // What was lost may have been done; then it is refused now, or done once more.
                done = answer.is_some();
                let answer = answer.map(|answer| (at, answer.is_ok()));
                record(&caller, call, Act::Set { condition, to }, answer);
                if !done && stop.is_triggered() {
                    return;
                }
            }
        }
    }
}

/// Makes use of the right, whether it is there or not: writes, and reads.
pub async fn make_use(mut caller: Caller, stop: Shutdown) {
    let mut known = false;
    let mut count = 0_u64;
    while !stop.is_triggered() {
        if !known {
            let (name, password) = (USER.to_owned(), PASSWORD.to_owned());
            let request = pb::AuthenticateRequest { name, password };
            let asking = async |connection| AuthClient::new(connection).authenticate(request).await;
            let (_, Some(Ok(answer))) = caller.ask(asking).await else { continue };
            caller.become_user(Token::new(&answer.into_inner().token));
            known = true;
        }
        count += 1;
        let (call, answer) =
            caller.ask(async |connection| attempt(connection, count.is_multiple_of(2)).await).await;
        let at = caller.recorder.now();
        match answer {
            Some(Ok(())) => record(&caller, call, Act::Use, Some((at, true))),
            Some(Err(status)) if status.message().contains("permission denied") => {
                record(&caller, call, Act::Use, Some((at, false)));
            }
            Some(Err(_)) => {
                // The token is known no more.
                caller.become_user(Token::default());
                known = false;
            }
            None => {}
        }
        caller.pause(USE).await;
    }
}

async fn attempt(connection: Connection, writes: bool) -> Result<(), Status> {
    let (mut kv, key) = (KvClient::new(connection), wire::bytes(KEY));
    if writes {
        let value = wire::bytes("x");
        kv.put(pb::PutRequest { key, value, ..Default::default() }).await.map(drop)
    } else {
        kv.range(pb::RangeRequest { key, ..Default::default() }).await.map(drop)
    }
}

fn record(caller: &Caller, call: u64, act: Act, answer: Option<(u64, bool)>) {
    caller.recorder.attempts.lock().push(Attempt { client: caller.number, call, act, answer });
}
