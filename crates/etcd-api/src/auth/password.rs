//! Passwords and their hashes (bcrypt, as etcd stores them).

use bytes::Bytes;
use tokio::sync::Semaphore;
use tonic::Status;

/// Hashes that are computed at a time: one takes about 50 ms of a processor, and anybody may ask for it.
const AT_A_TIME: usize = 2;
/// What bcrypt takes, in bytes; Go's library refuses more in these words.
const MAX_BYTES: usize = 72;

/// Computes hashes, a few at a time.
pub(crate) struct Passwords {
    cost: u32,
    slots: Semaphore,
}

impl Passwords {
    pub fn new(cost: u32) -> Self {
        Self { cost, slots: Semaphore::new(AT_A_TIME) }
    }

    pub async fn hash(&self, password: String) -> Result<Bytes, Status> {
        if password.len() > MAX_BYTES {
            return Err(Status::unknown("bcrypt: password length exceeds 72 bytes"));
        }
        let cost = self.cost;
        let hashed = self.compute(move || bcrypt::hash(password, cost)).await?;
        hashed.map(Bytes::from).map_err(|error| Status::internal(error.to_string()))
    }

    /// Whether a password has this hash; a hash that is none has no password.
    pub async fn matches(&self, password: String, hash: Bytes) -> Result<bool, Status> {
        let compare = move || {
            let hash = std::str::from_utf8(&hash).unwrap_or_default();
            bcrypt::verify(&password, hash).unwrap_or(false)
        };
        self.compute(compare).await
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let _slot =
            self.slots.acquire().await.map_err(|_| Status::unavailable("etcdserver: server stopped"))?;
        tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
    }
}
