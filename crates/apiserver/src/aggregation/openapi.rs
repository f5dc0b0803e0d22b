//! What aggregated servers publish of their groups and versions in OpenAPI: of v3 the address of the document, which they
//! are asked for then; of v2 the document, which becomes a part of our own (upstream: `pkg/controllers/openapi` and
//! `openapiv3`). What a server said last stays while it cannot be asked.

use std::collections::BTreeMap;
use std::time::Duration;

use api_rules::look::Look;
use api_types::{Value, codec, openapi};
use http::header;
use parking_lot::Mutex;

use super::remote::{Answer, Question};
use super::{Aggregation, ApiService, Remote};
use crate::api::Api;
use crate::discovery::Packed;
use crate::negotiate;
use crate::storage::View;
use crate::user::UserInfo;

/// How long an answer may take (upstream's).
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an index, at most.
const MAX_INDEX_BYTES: usize = 1 << 20;
/// Bytes of a document, at most.
const MAX_BYTES: usize = 8 << 20;
/// Where documents of v3 are.
const V3: &str = "/openapi/v3/";

/// What is known of the servers, by the names of their APIServices.
#[derive(Default)]
pub(super) struct Documents {
    known: Mutex<BTreeMap<String, Known>>,
    /// Held while a document is read, which takes some ten times its size: one at a time.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Known {
    /// Where the document of v3 is, if there is one.
    v3: Option<String>,
    v2: Option<Part>,
}

/// What a document of v2 says of a group and version.
#[derive(Clone)]
struct Part {
    etag: String,
    hash: String,
    packed: Packed,
}

impl Documents {
    pub fn forget(&self, name: &str) {
        self.known.lock().remove(name);
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Known)) {
        change(self.known.lock().entry(name.to_owned()).or_default());
    }

    /// Whether a server has a document of v3.
    pub fn has_v3(&self, name: &str) -> bool {
        self.known.lock().get(name).is_some_and(|known| known.v3.is_some())
    }
}

/// Parts of the document of v2, and what tells them from others.
pub(crate) struct Parts {
    pub hash: String,
    pub parts: Vec<Packed>,
}

impl Aggregation {
    /// Paths of the index of v3, with the addresses of their documents.
    pub fn v3(&self, view: &View) -> Vec<(String, String)> {
        let known = self.openapi.known.lock();
        let entry = |service: std::sync::Arc<ApiService>| {
            let url = known.get(&service.name)?.v3.clone()?;
            Some((openapi::path_of(&service.group, &service.version), url))
        };
        self.remotes(view).into_iter().filter_map(entry).collect()
    }

    /// What other servers add to the document of v2, by their priorities.
    pub fn v2(&self, view: &View) -> Parts {
        let mut services = self.remotes(view);
        services.sort_by(|a, b| {
            let key = |one: &ApiService| std::cmp::Reverse((one.group_priority, one.version_priority));
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        let known = self.openapi.known.lock();
        let parts = services.iter().filter_map(|service| known.get(&service.name)?.v2.clone());
        let (hashes, parts): (Vec<String>, Vec<Packed>) = parts.map(|part| (part.hash, part.packed)).unzip();
        Parts { hash: hashes.join(","), parts }
    }
}

/// Asks the server of an APIService, and notes what it says; whether it could be asked.
pub(super) async fn refresh(api: &Api, service: &ApiService, remote: &Remote) -> bool {
    let (v3, v2) = (refresh_v3(api, service, remote).await, refresh_v2(api, service, remote).await);
    for (version, result) in [("v3", &v3), ("v2", &v2)] {
        if let Err(error) = result {
            tracing::debug!(service = service.name, version, error, "no OpenAPI of an aggregated server");
        }
    }
    v3.is_ok() && v2.is_ok()
}

async fn get(api: &Api, remote: &Remote, path: &str, known: &str, limit: usize) -> Result<Answer, String> {
    let user = UserInfo { name: "system:aggregator".to_owned(), ..UserInfo::default() };
    let question = Question { path, accept: negotiate::JSON, known, user: &user, timeout: TIMEOUT, limit };
    remote.get(api, &question).await
}

async fn refresh_v3(api: &Api, service: &ApiService, remote: &Remote) -> Result<(), String> {
    let answer = get(api, remote, "/openapi/v3", "", MAX_INDEX_BYTES).await?;
    let url = match answer.code {
        200 => url_of(&answer.body, service)?,
        404 => None,
        code => return Err(format!("could not get list of group versions for APIService: {code}")),
    };
    api.aggregation.openapi.change(&service.name, |known| known.v3 = url);
    Ok(())
}

/// Where the document of a group and version is. A server speaks for its own only.
fn url_of(index: &[u8], service: &ApiService) -> Result<Option<String>, String> {
    let index: Value = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let path = openapi::path_of(&service.group, &service.version);
    let Some(entry) = index["paths"].get(&path) else { return Ok(None) };
    let url = entry.text("serverRelativeURL");
    let own = format!("{V3}{path}");
    let rest =
        url.strip_prefix(&own).ok_or_else(|| format!("the document of {path} is elsewhere: {url:?}"))?;
    match rest.is_empty() || rest.starts_with('?') {
        true => Ok(Some(url.to_owned())),
        false => Err(format!("the document of {path} is elsewhere: {url:?}")),
    }
}

async fn refresh_v2(api: &Api, service: &ApiService, remote: &Remote) -> Result<(), String> {
    let documents = &api.aggregation.openapi;
    let old = documents.known.lock().get(&service.name).and_then(|known| known.v2.clone());
    let known = old.as_ref().map_or("", |part| part.etag.as_str());
    let answer = get(api, remote, "/openapi/v2", known, MAX_BYTES).await?;
    let part = match answer.code {
        304 if old.is_some() => return Ok(()),
        404 => None,
        200 => {
            let etag = answer.header(header::ETAG).to_owned();
            let prefix = format!("{}/", service.path());
            let _reading = documents.reading.lock().await;
            let made = tokio::task::spawn_blocking(move || part_of(&answer.body, etag, &prefix)).await;
            Some(made.map_err(|error| error.to_string())??)
        }
        code => return Err(format!("failed to retrieve openAPI spec, http error: {code}")),
    };
    documents.change(&service.name, |known| known.v2 = part);
    Ok(())
}

/// What a document says of the paths below a prefix.
fn part_of(document: &[u8], etag: String, prefix: &str) -> Result<Part, String> {
    let mut document: Value = serde_json::from_slice(document).map_err(|error| error.to_string())?;
    if codec::is_too_deep(&document) {
        return Err(codec::CodecError::TooDeep.to_string());
    }
    if document["swagger"] != "2.0" {
        return Err("it is no document of OpenAPI v2".to_owned());
    }
    openapi::merge::filter(&mut document, |path| path.starts_with(prefix));
    let text = document.to_string().into_bytes();
    Ok(Part { etag, hash: crate::discovery::hash(&text), packed: Packed::new(&text) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_server_speaks_for_its_own_only() {
        let value = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1"}});
        let service = ApiService::of(&value, 1, None);
        let of = |path: &str, url: &str| {
            let index = json!({"paths": {path: {"serverRelativeURL": url}}}).to_string();
            url_of(index.as_bytes(), &service)
        };
        let good = "/openapi/v3/apis/a.b/v1?hash=AB";
        assert_eq!(of("apis/a.b/v1", good).unwrap().as_deref(), Some(good));
        assert_eq!(of("api/v1", good).unwrap(), None);
        for bad in
            ["https://elsewhere/", "//elsewhere/openapi/v3/apis/a.b/v1", "/openapi/v3/apis/a.b/v1beta1"]
        {
            assert!(of("apis/a.b/v1", bad).is_err(), "{bad}");
        }
        assert!(url_of(b"<html>", &service).is_err());
    }

    #[test]
    fn garbage_is_no_document() {
        for bad in ["", "5", "{}", r#"{"swagger": "3.0"}"#] {
            assert!(part_of(bad.as_bytes(), String::new(), "/apis/a.b/v1/").is_err(), "{bad}");
        }
        let document =
            json!({"swagger": "2.0", "paths": {"/apis/a.b/v1/x": {}, "/apis/c/v1/x": {}}}).to_string();
        let part = part_of(document.as_bytes(), "e".into(), "/apis/a.b/v1/").unwrap();
        let kept: Value = serde_json::from_slice(&part.packed.unpack()).unwrap();
        assert_eq!(kept["paths"], json!({"/apis/a.b/v1/x": {}}));
    }
}
