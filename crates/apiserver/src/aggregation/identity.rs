//! The certificate that aggregated servers see: read from its files at the start, and again when they change.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::api::Api;
use crate::config::ProxyClient;
use crate::tls;

/// A certificate chain and its key, PEM.
pub(super) type Keyed = (Vec<u8>, Vec<u8>);

/// Files that are being replaced may not belong together for a moment.
fn checked(own: Keyed) -> Result<Keyed, String> {
    tls::of_kubeconfig(None, Some(&own)).map_err(|error| error.to_string())?;
    Ok(own)
}

/// See the module.
pub(super) struct Identity {
    files: Option<ProxyClient>,
    current: ArcSwapOption<Keyed>,
}

impl Identity {
    /// # Errors
    /// The files cannot be read, or do not belong together.
    pub fn new(files: Option<ProxyClient>) -> Result<Self, String> {
        let read = |files: &ProxyClient| {
            let of = |path: &std::path::Path| {
                std::fs::read(path).map_err(|error| format!("open {}: {error}", path.display()))
            };
            checked((of(&files.certificate)?, of(&files.key)?))
        };
        let current = files.as_ref().map(read).transpose()?.map(Arc::new);
        Ok(Self { files, current: ArcSwapOption::new(current) })
    }

    pub fn current(&self) -> Option<Arc<Keyed>> {
        self.current.load_full()
    }

    /// Takes what is new in the files, once it can be used.
    async fn refresh(&self, files: &ProxyClient) {
        let (certificate, key) =
            tokio::join!(tokio::fs::read(&files.certificate), tokio::fs::read(&files.key));
        let (Ok(certificate), Ok(key)) = (certificate, key) else { return };
        let new = (certificate, key);
        if self.current.load().as_deref() == Some(&new) {
            return;
        }
        match checked(new) {
            Ok(new) => {
                self.current.store(Some(Arc::new(new)));
                tracing::info!(file = %files.certificate.display(), "the proxy's certificate changed");
            }
            Err(error) => tracing::debug!(error, "the proxy's certificate cannot be used yet"),
        }
    }
}

/// Follows the files until shutdown.
pub(crate) async fn keep_identity(api: Arc<Api>) {
    let (identity, interval) = (&api.aggregation.identity, api.aggregation.settings.refresh);
    let Some(files) = &identity.files else { return };
    loop {
        tokio::select! {
            () = api.storage.env.clock.sleep(interval) => identity.refresh(files).await,
            () = api.shutdown.wait() => return,
        }
    }
}
