//! Commands, users, roles and tokens as bytes.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::types::{Access, AuthCommand, Permission, Role, Token, TokenUse, User};
use crate::codec::{DecodeError, Reader, put_bytes, put_list, put_uint, unknown};
use crate::engine::EngineError;

fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_permission(out: &mut BytesMut, permission: &Permission) {
    out.put_u8(match permission.access {
        Access::Read => 0,
        Access::Write => 1,
        Access::ReadWrite => 2,
    });
    put_bytes(out, &permission.key);
    put_bytes(out, &permission.range_end);
}

fn take_permission(reader: &mut Reader) -> Result<Permission, DecodeError> {
    let access = match reader.byte()? {
        0 => Access::Read,
        1 => Access::Write,
        2 => Access::ReadWrite,
        other => return Err(unknown("access", other)),
    };
    Ok(Permission { access, key: reader.bytes()?, range_end: reader.bytes()? })
}

pub(crate) fn put_command(out: &mut BytesMut, command: &AuthCommand) {
    match command {
        AuthCommand::Enable => out.put_u8(0),
        AuthCommand::Disable => out.put_u8(1),
        AuthCommand::UserAdd { name, password, no_password } => {
            out.put_u8(2);
            put_text(out, name);
            put_bytes(out, password);
            out.put_u8(u8::from(*no_password));
        }
        AuthCommand::UserDelete { name } => put_names(out, 3, [name]),
        AuthCommand::UserChangePassword { name, password } => {
            put_names(out, 4, [name]);
            put_bytes(out, password);
        }
        AuthCommand::UserGrantRole { user, role } => put_names(out, 5, [user, role]),
        AuthCommand::UserRevokeRole { user, role } => put_names(out, 6, [user, role]),
        AuthCommand::RoleAdd { name } => put_names(out, 7, [name]),
        AuthCommand::RoleDelete { name } => put_names(out, 8, [name]),
        AuthCommand::RoleGrantPermission { role, permission } => {
            put_names(out, 9, [role]);
            put_permission(out, permission);
        }
        AuthCommand::RoleRevokePermission { role, key, range_end } => {
            put_names(out, 10, [role]);
            put_bytes(out, key);
            put_bytes(out, range_end);
        }
        AuthCommand::TokenAssign { user, revision, digest } => {
            put_names(out, 11, [user]);
            put_uint(out, *revision);
            put_bytes(out, digest);
        }
        AuthCommand::TokensUsed { digests } => {
            out.put_u8(12);
            put_list(out, digests, |out, digest| put_bytes(out, digest));
        }
        AuthCommand::TokensForget { tokens } => {
            out.put_u8(13);
            put_list(out, tokens, |out, token| {
                put_bytes(out, &token.digest);
                put_uint(out, token.used);
            });
        }
    }
}

fn put_names<const N: usize>(out: &mut BytesMut, kind: u8, names: [&String; N]) {
    out.put_u8(kind);
    names.into_iter().for_each(|name| put_text(out, name));
}

pub(crate) fn take_command(reader: &mut Reader) -> Result<AuthCommand, DecodeError> {
    Ok(match reader.byte()? {
        0 => AuthCommand::Enable,
        1 => AuthCommand::Disable,
        2 => AuthCommand::UserAdd {
            name: reader.text()?,
            password: reader.bytes()?,
            no_password: reader.byte()? != 0,
        },
        3 => AuthCommand::UserDelete { name: reader.text()? },
        4 => AuthCommand::UserChangePassword { name: reader.text()?, password: reader.bytes()? },
        5 => AuthCommand::UserGrantRole { user: reader.text()?, role: reader.text()? },
        6 => AuthCommand::UserRevokeRole { user: reader.text()?, role: reader.text()? },
        7 => AuthCommand::RoleAdd { name: reader.text()? },
        8 => AuthCommand::RoleDelete { name: reader.text()? },
        9 => AuthCommand::RoleGrantPermission { role: reader.text()?, permission: take_permission(reader)? },
        10 => AuthCommand::RoleRevokePermission {
            role: reader.text()?,
            key: reader.bytes()?,
            range_end: reader.bytes()?,
        },
        11 => AuthCommand::TokenAssign {
            user: reader.text()?,
            revision: reader.uint()?,
            digest: reader.bytes()?,
        },
        12 => AuthCommand::TokensUsed { digests: reader.list(Reader::bytes)? },
        13 => {
            let take = |reader: &mut Reader| Ok(TokenUse { digest: reader.bytes()?, used: reader.uint()? });
            AuthCommand::TokensForget { tokens: reader.list(take)? }
        }
        other => return Err(unknown("auth command", other)),
    })
}

fn damaged(error: DecodeError) -> EngineError {
    EngineError(format!("users and roles: {error}"))
}

/// A name out of a key of the engine.
pub(super) fn name(bytes: &Bytes) -> Result<Arc<str>, EngineError> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| damaged(DecodeError::Utf8))
}

pub(super) fn encode_status(enabled: bool, revision: u64) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(u8::from(enabled));
    put_uint(&mut out, revision);
    out.freeze()
}

pub(super) fn decode_status(bytes: Bytes) -> Result<(bool, u64), EngineError> {
    let mut reader = Reader(bytes);
    let mut take = || Ok((reader.byte()? != 0, reader.uint()?));
    take().map_err(damaged)
}

pub(super) fn encode_user(user: &User) -> Bytes {
    let mut out = BytesMut::new();
    put_bytes(&mut out, &user.password);
    out.put_u8(u8::from(user.no_password));
    put_list(&mut out, &user.roles, |out, role| put_text(out, role));
    out.freeze()
}

pub(super) fn decode_user(bytes: Bytes) -> Result<User, EngineError> {
    let mut reader = Reader(bytes);
    let mut take = || {
        Ok(User {
            password: reader.bytes()?,
            no_password: reader.byte()? != 0,
            roles: reader.list(|reader| reader.text().map(Arc::from))?,
        })
    };
    take().map_err(damaged)
}

pub(super) fn encode_role(role: &Role) -> Bytes {
    let mut out = BytesMut::new();
    put_list(&mut out, &role.permissions, put_permission);
    out.freeze()
}

pub(super) fn decode_role(bytes: Bytes) -> Result<Role, EngineError> {
    let permissions = Reader(bytes).list(take_permission).map_err(damaged)?;
    Ok(Role { permissions })
}

pub(super) fn encode_token(token: &Token) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, &token.user);
    put_uint(&mut out, token.index);
    put_uint(&mut out, token.used);
    out.freeze()
}

pub(super) fn decode_token(bytes: Bytes) -> Result<Token, EngineError> {
    let mut reader = Reader(bytes);
    let mut take = || Ok(Token { user: reader.text()?.into(), index: reader.uint()?, used: reader.uint()? });
    take().map_err(damaged)
}
