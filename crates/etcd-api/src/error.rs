//! The store's errors in the words and codes that etcd's clients match on (`rpctypes/error.go`).

use mvcc::{AuthError, MvccError};
use store::{StoreError, WatchError};
use tonic::{Code, Status};

pub(crate) fn status(error: StoreError) -> Status {
    let code = match &error {
        StoreError::Mvcc(error) => return mvcc_status(error),
        StoreError::NoLeader
        | StoreError::LeaderLost
        | StoreError::Timeout
        | StoreError::Unhealthy
        | StoreError::Stopped => Code::Unavailable,
        StoreError::NotLeader
        | StoreError::BadTransferee
        | StoreError::NotEnoughStarted
        | StoreError::Membership(_) => Code::FailedPrecondition,
        StoreError::TooLarge => Code::InvalidArgument,
        StoreError::TooManyRequests => Code::ResourceExhausted,
        StoreError::MemberNotFound => Code::NotFound,
        StoreError::Corrupt => Code::DataLoss,
    };
    Status::new(code, format!("etcdserver: {error}"))
}

pub(crate) fn mvcc_status(error: &MvccError) -> Status {
    let code = match error {
        MvccError::Compacted { .. } | MvccError::FutureRevision | MvccError::LeaseTtlTooLarge => {
            Code::OutOfRange
        }
        MvccError::LeaseNotFound => Code::NotFound,
        MvccError::LeaseExists => Code::FailedPrecondition,
        MvccError::NoSpace | MvccError::TooMuch { .. } => Code::ResourceExhausted,
        MvccError::Corrupt => Code::DataLoss,
        MvccError::KeyNotFound
        | MvccError::EmptyKey
        | MvccError::ValueProvided
        | MvccError::LeaseProvided
        | MvccError::TooManyOps
        | MvccError::DuplicateKey => Code::InvalidArgument,
        MvccError::Engine(_) => Code::Internal,
        MvccError::Auth(error) => return auth_status(*error),
    };
    Status::new(code, format!("etcdserver: {error}"))
}

pub(crate) fn auth_status(error: AuthError) -> Status {
    let code = match error {
        AuthError::RootUserMissing
        | AuthError::RootRoleMissing
        | AuthError::UserExists
        | AuthError::UserNotFound
        | AuthError::RoleExists
        | AuthError::RoleNotFound
        | AuthError::RoleNotGranted
        | AuthError::PermissionNotGranted
        | AuthError::NotEnabled => Code::FailedPrecondition,
        AuthError::UserEmpty
        | AuthError::RoleEmpty
        | AuthError::Failed
        | AuthError::PermissionNotGiven
        | AuthError::InvalidManagement
        | AuthError::OldRevision => Code::InvalidArgument,
        AuthError::Denied => Code::PermissionDenied,
        AuthError::InvalidToken => Code::Unauthenticated,
    };
    Status::new(code, format!("etcdserver: {error}"))
}

/// Why a watch within the server ended.
pub(crate) fn watch_status(error: &WatchError) -> Status {
    let code = match error {
        WatchError::Compacted { .. } => Code::OutOfRange,
        WatchError::Engine(_) => Code::Internal,
        WatchError::Stopped => Code::Unavailable,
    };
    Status::new(code, format!("etcdserver: {error}"))
}

/// A message of so many bytes is more than a client may send, in grpc-go's words.
pub(crate) fn too_large(size: usize, max: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({size} vs. {max})"))
}

/// What prost says of bytes that are no message of the call.
const NO_MESSAGE: &str = "failed to decode Protobuf message: ";

/// What tonic says of a compressed message in a body that is not.
const NOT_COMPRESSED: &str = "received message with compressed-flag but no grpc-encoding";

/// A failure to read a client's message, as grpc-go says it of a call that is one message, or of one in a stream.
pub(crate) fn unreadable(status: Status, stream: bool) -> Status {
    if status.code() != Code::Internal {
        return status;
    }
    if status.message().contains(NOT_COMPRESSED) {
        return Status::internal("grpc: compressed flag set with identity or empty encoding");
    }
    let Some(why) = status.message().strip_prefix(NO_MESSAGE) else { return status };
    let what = match stream {
        false => "error unmarshalling request",
        true => "failed to unmarshal the received message",
    };
    Status::internal(format!("grpc: {what}: proto: {why}"))
}
