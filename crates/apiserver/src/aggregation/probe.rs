//! Whether the server behind an APIService serves its group and version, for who writes that into the status (upstream:
//! `pkg/controllers/status/remote`).

use std::time::Duration;

use api_types::Value;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::remote::Question;
use super::{ApiService, Remote};
use crate::api::Api;
use crate::user::{MASTERS, UserInfo};

/// Questions at a time; one that is answered well is enough (upstream's).
const ATTEMPTS: usize = 5;
/// How long one may take (upstream's).
const TIMEOUT: Duration = Duration::from_secs(5);

/// Who the server is when it asks for what every server must show it.
pub(super) fn aggregator() -> UserInfo {
    let groups = vec![MASTERS.to_owned()];
    UserInfo { name: "system:kube-aggregator".to_owned(), groups, ..UserInfo::default() }
}

/// Asks for the discovery of an APIService's group and version; why it is not shown otherwise.
pub(crate) async fn probe(api: &Api, stored: &Value) -> Result<(), String> {
    let service = ApiService::of(stored, 0, None);
    let Some(remote) = &service.remote else { return Ok(()) };
    remote.check(&api.aggregation)?;
    let (path, user) = (service.path(), aggregator());
    let mut attempts: FuturesUnordered<_> =
        (0..ATTEMPTS).map(|_| attempt(api, remote, &path, &user)).collect();
    let mut last = Ok(());
    while let Some(result) = attempts.next().await {
        if result.is_ok() {
            return result;
        }
        last = result;
    }
    last
}

async fn attempt(api: &Api, remote: &Remote, path: &str, user: &UserInfo) -> Result<(), String> {
    let endpoints = remote.endpoints(api, &api.storage.view())?;
    // As upstream, each attempt is about one endpoint.
    let endpoint = endpoints.get(..1).unwrap_or_default();
    let url = endpoint.first().map(|one| format!("https://{}{path}", one.at.authority())).unwrap_or_default();
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let question = Question { path, accept: "*/*", known: "", user, timeout: TIMEOUT, limit: 0 };
    let get = |why: String| failed(format!("Get {}: {why}", api_types::field::quote(&url)));
    match tokio::time::timeout(TIMEOUT, remote.ask(api, endpoint, &question)).await {
        Err(_) => {
            Err(get("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()))
        }
        Ok(Err(error)) => Err(get(error.to_string())),
        Ok(Ok(response)) if response.status().is_success() => Ok(()),
        Ok(Ok(response)) => Err(failed(format!("bad status from {url}: {}", response.status().as_u16()))),
    }
}
