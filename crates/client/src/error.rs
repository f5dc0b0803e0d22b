//! What can go wrong with a request.

use api_types::status::Status;

/// Why a request has no good answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The API refused it.
    #[error("{}", .0.message)]
    Api(Box<Status>),
    /// No master answered; whether a write took effect is not known.
    #[error("no answer: {0}")]
    Transport(String),
    /// The answer is not what it should be.
    #[error("the answer cannot be read: {0}")]
    Decode(String),
}

impl ClientError {
    /// The HTTP code of the API's answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(status) => Some(status.code),
            Self::Transport(_) | Self::Decode(_) => None,
        }
    }

    /// Whether the API gave this reason, e.g. `NotFound`.
    pub fn is(&self, reason: &str) -> bool {
        matches!(self, Self::Api(status) if status.is(reason))
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        self.is("NotFound")
    }

    /// The object was changed meanwhile, or the writer does not lead any more.
    pub fn is_conflict(&self) -> bool {
        self.is("Conflict")
    }

    /// The object is there already.
    pub fn is_already_exists(&self) -> bool {
        self.is("AlreadyExists")
    }

    /// Its namespace is going: nothing new is made in it.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Api(status) if status.has_cause("NamespaceTerminating"))
    }

    /// The version asked for is not kept any more.
    pub fn is_expired(&self) -> bool {
        self.is("Expired") || self.is("Gone") || self.code() == Some(410)
    }
}
