use tokio_util::sync::CancellationToken;

/// A one-way signal to stop, shared by cloning. Triggering a parent triggers its children, not the other way round.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal that nobody has triggered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone who holds this signal, or a child of it, to stop.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Returns once the signal was triggered; at once if it already was.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// Whether the signal was triggered.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// A signal that follows this one and may also be triggered by itself.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}
