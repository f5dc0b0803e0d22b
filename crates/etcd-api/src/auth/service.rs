//! The RPCs of the service `Auth`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mvcc::{Access, AuthCommand, AuthError, Caller, Command, Permission, ROOT};
use protos::etcd::authpb;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::tokens::Assign;
use crate::context::Context;
use crate::convert;
use crate::error::auth_status;

/// How often a password is compared again because users have changed meanwhile.
const ATTEMPTS: usize = 10;

pub(crate) struct AuthService(pub Context);

impl AuthService {
    /// Has a change made on behalf of who asks.
    async fn change(
        &self,
        caller: Caller,
        command: AuthCommand,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let (revision, _) = self.0.propose(caller, Command::Auth(command)).await?;
        Ok(self.0.header(revision))
    }

    /// Who asks for a change, if that is not too large to be one.
    async fn changer<T: prost::Message>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.0.caller(request).await?;
        self.0.check_size(request.get_ref())?;
        Ok(caller)
    }

    /// The state of authentication, with all that was acknowledged, for who asks.
    async fn view<T>(&self, request: &Request<T>) -> Result<(std::sync::Arc<mvcc::View>, Caller), Status> {
        self.0.barrier(false).await?;
        let caller = self.0.caller(request).await?;
        Ok((self.0.store.view(), caller))
    }

    /// The auth revision at which a user's password is this one.
    async fn compare(&self, name: &str, password: &str) -> Result<u64, Status> {
        let view = self.0.store.view();
        let auth = view.auth();
        if !auth.is_enabled() {
            return Err(auth_status(AuthError::NotEnabled));
        }
        let user = auth.user(name).ok_or_else(|| auth_status(AuthError::Failed))?;
        if user.no_password {
            let text = "auth: authentication failed, password was given for no password user";
            return Err(Status::unknown(text));
        }
        let (revision, hash) = (auth.revision(), user.password.clone());
        if self.0.tokens.passwords.matches(password.to_owned(), hash).await? {
            return Ok(revision);
        }
        tracing::warn!(user = name, "invalid authentication was requested");
        Err(auth_status(AuthError::Failed))
    }
}

/// What the role `root` permits: everything.
fn everything() -> Vec<authpb::Permission> {
    let range_end = Bytes::from_static(&[0]);
    vec![convert::permission(&Permission { access: Access::ReadWrite, key: Bytes::new(), range_end })]
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let caller = self.changer(&request).await?;
        let header = self.change(caller, AuthCommand::Enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let caller = self.changer(&request).await?;
        let header = self.change(caller, AuthCommand::Disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let (view, _) = self.view(&request).await?;
        let (enabled, auth_revision) = (view.auth().is_enabled(), view.auth().revision());
        let header = self.0.header(view.revision());
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        self.0.barrier(false).await?;
        for _ in 0..ATTEMPTS {
            let revision = self.compare(&name, &password).await?;
            match self.0.tokens.assign(&self.0.env, &self.0.store, &name, revision).await {
                Ok(token) => {
                    let header = self.0.header_now();
                    return Ok(Response::new(pb::AuthenticateResponse { header, token }));
                }
                Err(Assign::Again) => {}
                Err(Assign::Refused(status)) => return Err(status),
            }
        }
        Err(auth_status(AuthError::OldRevision))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let caller = self.0.check_admin(&request).await?;
        self.0.check_size(request.get_ref())?;
        let pb::AuthUserAddRequest { name, password, options, .. } = request.into_inner();
        let no_password = options.is_some_and(|options| options.no_password);
        let password =
            if no_password { Bytes::new() } else { self.0.tokens.passwords.hash(password).await? };
        let header = self.change(caller, AuthCommand::UserAdd { name, password, no_password }).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let (view, caller) = self.view(&request).await?;
        let (auth, name) = (view.auth(), request.into_inner().name);
        auth.check_user_get(&caller, &name).map_err(auth_status)?;
        let user = auth.user(&name).ok_or_else(|| auth_status(AuthError::UserNotFound))?;
        let roles = user.roles.iter().map(|role| role.to_string()).collect();
        Ok(Response::new(pb::AuthUserGetResponse { header: self.0.header(view.revision()), roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let (view, caller) = self.view(&request).await?;
        view.auth().check_admin(&caller).map_err(auth_status)?;
        let users = view.auth().users().map(str::to_owned).collect();
        Ok(Response::new(pb::AuthUserListResponse { header: self.0.header(view.revision()), users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let caller = self.changer(&request).await?;
        let name = request.into_inner().name;
        let header = self.change(caller, AuthCommand::UserDelete { name }).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let caller = self.0.check_admin(&request).await?;
        self.0.check_size(request.get_ref())?;
        let pb::AuthUserChangePasswordRequest { name, password, hashed_password } = request.into_inner();
        let password = if password.is_empty() {
            let hash = STANDARD.decode(hashed_password);
            hash.map_err(|error| Status::unknown(error.to_string()))?.into()
        } else {
            self.0.tokens.passwords.hash(password).await?
        };
        let header = self.change(caller, AuthCommand::UserChangePassword { name, password }).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let caller = self.changer(&request).await?;
        let pb::AuthUserGrantRoleRequest { user, role } = request.into_inner();
        let header = self.change(caller, AuthCommand::UserGrantRole { user, role }).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let caller = self.changer(&request).await?;
        let pb::AuthUserRevokeRoleRequest { name: user, role } = request.into_inner();
        let header = self.change(caller, AuthCommand::UserRevokeRole { user, role }).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let caller = self.changer(&request).await?;
        let name = request.into_inner().name;
        let header = self.change(caller, AuthCommand::RoleAdd { name }).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let (view, caller) = self.view(&request).await?;
        let (auth, name) = (view.auth(), request.into_inner().role);
        auth.check_role_get(&caller, &name).map_err(auth_status)?;
        let role = auth.role(&name).ok_or_else(|| auth_status(AuthError::RoleNotFound))?;
        let perm = if name == ROOT {
            everything()
        } else {
            role.permissions.iter().map(convert::permission).collect()
        };
        Ok(Response::new(pb::AuthRoleGetResponse { header: self.0.header(view.revision()), perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let (view, caller) = self.view(&request).await?;
        view.auth().check_admin(&caller).map_err(auth_status)?;
        let roles = view.auth().roles().map(str::to_owned).collect();
        Ok(Response::new(pb::AuthRoleListResponse { header: self.0.header(view.revision()), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let caller = self.changer(&request).await?;
        let name = request.into_inner().role;
        let header = self.change(caller, AuthCommand::RoleDelete { name }).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let caller = self.changer(&request).await?;
        let pb::AuthRoleGrantPermissionRequest { name: role, perm } = request.into_inner();
        let given = perm.ok_or_else(|| auth_status(AuthError::PermissionNotGiven))?;
        let command = AuthCommand::RoleGrantPermission { role, permission: convert::permission_of(given) };
        let header = self.change(caller, command).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let caller = self.changer(&request).await?;
        let pb::AuthRoleRevokePermissionRequest { role, key, range_end } = request.into_inner();
        let command = AuthCommand::RoleRevokePermission { role, key, range_end };
        let header = self.change(caller, command).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}
