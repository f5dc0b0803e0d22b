//! What can be asked of the objects of one kind.

use std::sync::Arc;

use api_types::{Resource, ResourceRef, codec};
use http::Method;
use serde_json::{Value, json};

use crate::client::{Client, JSON, failure, objects_request};
use crate::error::ClientError;
use crate::object::{Came, Packed};
use crate::stored;
use crate::watch::WatchStream;

/// Objects of one kind, in one namespace or all.
#[derive(Clone)]
pub struct Api {
    client: Client,
    resource: ResourceRef,
    namespace: Option<Arc<str>>,
}

/// Which objects, and how many at a time.
#[derive(Clone, Debug, Default)]
pub struct ListParams {
    /// Only those with such labels.
    pub label_selector: String,
    /// Only those with such fields.
    pub field_selector: String,
    /// At most so many; 0 is all.
    pub limit: u64,
    /// Where the last page ended.
    pub continue_token: String,
    /// Not older than; `0` is whatever the server has at hand.
    pub resource_version: String,
    /// Nothing of the objects but their metadata.
    pub metadata_only: bool,
}

/// A page of objects.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The objects, with their kind.
    pub items: Vec<Value>,
    /// The version at which they are all true.
    pub resource_version: String,
    /// Where to go on; empty after the last page.
    pub continue_token: String,
}

/// A change of an object.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// By the schema's merge keys.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
}

impl Patch {
    fn parts(&self) -> (&'static str, &Value) {
        match self {
            Self::Merge(value) => ("application/merge-patch+json", value),
            Self::Strategic(value) => ("application/strategic-merge-patch+json", value),
            Self::Json(value) => ("application/json-patch+json", value),
        }
    }
}

/// What happens to what a deleted object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// It goes later.
    Background,
    /// It goes first.
    Foreground,
    /// It stays.
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteParams {
    /// What happens to what it owns.
    pub propagation: Option<Propagation>,
    /// Seconds for a graceful end.
    pub grace_seconds: Option<i64>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this version.
    pub resource_version: Option<String>,
}

impl DeleteParams {
    /// Only the object with this uid.
    pub fn only(uid: &str) -> Self {
        Self { uid: Some(uid.to_owned()), ..Self::default() }
    }

    fn body(&self) -> Value {
        let mut body = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = json!(format!("{propagation:?}"));
        }
        if let Some(seconds) = self.grace_seconds {
            body["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = json!(uid);
        }
        if let Some(version) = &self.resource_version {
            body["preconditions"]["resourceVersion"] = json!(version);
        }
        body
    }
}

/// A page of a list, as it came.
pub(crate) struct Page {
    pub items: Vec<Came>,
    pub resource_version: String,
    pub continue_token: String,
}

impl Page {
    pub fn new(metadata: &Value, items: Vec<Came>) -> Self {
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        Self { items, resource_version: text("resourceVersion"), continue_token: text("continue") }
    }
}

impl Api {
    pub(crate) fn new(client: Client, resource: ResourceRef, namespace: Option<Arc<str>>) -> Self {
        Self { client, resource, namespace }
    }

    /// The kind.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    fn path(&self, name: &str, subresource: &str) -> String {
        let Resource { group, version, resource, .. } = &*self.resource;
        let mut path =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        if let Some(namespace) = &self.namespace {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push('/');
        path.push_str(resource);
        for part in [name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        path
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Value, ClientError> {
        self.client.json(method, path, body).await
    }

    /// One object.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all below.
    pub async fn get(&self, name: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, &self.path(name, ""), None).await
    }

    /// A page of objects, without their `managedFields`.
    ///
    /// # Errors
    /// `is_expired` when the page's version is not kept any more.
    pub async fn list(&self, params: &ListParams) -> Result<List, ClientError> {
        let Page { items, resource_version, continue_token } = self.list_as_it_came(params).await?;
        let items = items.into_iter().map(Came::tree).collect::<Result<_, _>>()?;
        Ok(List { items, resource_version, continue_token })
    }

    pub(crate) async fn list_as_it_came(&self, params: &ListParams) -> Result<Page, ClientError> {
        let query = [
            ("labelSelector", params.label_selector.as_str()),
            ("fieldSelector", params.field_selector.as_str()),
            ("continue", params.continue_token.as_str()),
            ("resourceVersion", params.resource_version.as_str()),
            ("limit", &if params.limit > 0 { params.limit.to_string() } else { String::new() }),
        ];
        let path = with_query(self.path("", ""), &query);
        let shape = params.metadata_only.then_some("PartialObjectMetadataList");
        let response = self.client.send(objects_request(&self.resource, &path, shape)?).await?;
        if response.status().is_success() && stored::is_stored(&response) {
            return stored::read_list(response.into_body()).await;
        }
        let bytes = self.client.read(response).await?;
        let (metadata, items) = match codec::is_proto(&bytes) {
            true => {
                let list = codec::list_to_bare(&bytes, &self.resource.api_version(), &self.resource.kind);
                let (metadata, items) = list.map_err(|error| ClientError::Decode(error.to_string()))?;
                (metadata, items.into_iter().map(|item| Came::Packed(Packed::Own(item.into()))).collect())
            }
            false => self.json_list(&bytes)?,
        };
        Ok(Page::new(&metadata, items))
    }

    fn json_list(&self, bytes: &[u8]) -> Result<(Value, Vec<Came>), ClientError> {
        let mut list: Value =
            serde_json::from_slice(bytes).map_err(|error| ClientError::Decode(error.to_string()))?;
        let items = match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        let items = items.into_iter().map(|item| Came::from_json(item, &self.resource)).collect();
        Ok((list["metadata"].take(), items))
    }

    /// Every object, page by page.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn list_all(&self, params: &ListParams) -> Result<List, ClientError> {
        let mut page = self.list(params).await?;
        let mut all = List { resource_version: page.resource_version.clone(), ..List::default() };
        loop {
            all.items.append(&mut page.items);
            if page.continue_token.is_empty() {
                return Ok(all);
            }
            page = self.list(&ListParams { continue_token: page.continue_token, ..params.clone() }).await?;
        }
    }

    /// Changes from a version on, of objects without their `managedFields`.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn watch(
        &self,
        params: &ListParams,
        resource_version: &str,
        timeout_seconds: u64,
    ) -> Result<WatchStream, ClientError> {
        let query = [
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("labelSelector", params.label_selector.as_str()),
            ("fieldSelector", params.field_selector.as_str()),
            ("timeoutSeconds", &timeout_seconds.to_string()),
        ];
        let path = with_query(self.path("", ""), &query);
        let shape = params.metadata_only.then_some("PartialObjectMetadata");
        let response = self.client.send(objects_request(&self.resource, &path, shape)?).await?;
        if !response.status().is_success() {
            let code = response.status().as_u16();
            return match self.client.read(response).await {
                Err(error) => Err(error),
                Ok(body) => Err(failure(code, &body)),
            };
        }
        Ok(WatchStream::new(response, self.resource.clone()))
    }

    /// Makes an object.
    ///
    /// # Errors
    /// `is_already_exists`, …
    pub async fn create(&self, object: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, &self.path("", ""), Some((JSON, object))).await
    }

    /// Replaces an object; fails when it is not at the given version any more.
    ///
    /// # Errors
    /// `is_conflict`, …
    pub async fn update(&self, object: &Value) -> Result<Value, ClientError> {
        let path = self.path(api_types::meta::name(object), "");
        self.call(Method::PUT, &path, Some((JSON, object))).await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// `is_conflict`, …
    pub async fn update_status(&self, object: &Value) -> Result<Value, ClientError> {
        let path = self.path(api_types::meta::name(object), "status");
        self.call(Method::PUT, &path, Some((JSON, object))).await
    }

    /// Changes an object or, with a subresource's name, that.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn patch(&self, name: &str, subresource: &str, patch: &Patch) -> Result<Value, ClientError> {
        self.call(Method::PATCH, &self.path(name, subresource), Some(patch.parts())).await
    }

    /// Deletes an object, or asks it to end.
    ///
    /// # Errors
    /// `is_not_found`; `is_conflict` when a precondition does not hold.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<Value, ClientError> {
        self.call(Method::DELETE, &self.path(name, ""), Some((JSON, &params.body()))).await
    }

    /// Deletes every object that fits.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_collection(
        &self,
        list: &ListParams,
        params: &DeleteParams,
    ) -> Result<Value, ClientError> {
        let query = [
            ("labelSelector", list.label_selector.as_str()),
            ("fieldSelector", list.field_selector.as_str()),
        ];
        let path = with_query(self.path("", ""), &query);
        self.call(Method::DELETE, &path, Some((JSON, &params.body()))).await
    }

    /// Posts to a subresource, e.g. `binding` or `eviction`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post(&self, name: &str, subresource: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, &self.path(name, subresource), Some((JSON, body))).await
    }

    /// Replaces a subresource, e.g. `finalize`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&self, name: &str, subresource: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::PUT, &self.path(name, subresource), Some((JSON, body))).await
    }
}

fn with_query(path: String, query: &[(&str, &str)]) -> String {
    let mut path = path;
    for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(name);
        path.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    path.push(char::from(byte))
                }
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped_and_empty_values_left_out() {
        let query = [("labelSelector", "a in (b,c),d!=ü"), ("continue", ""), ("limit", "5")];
        let path = with_query("/api/v1/pods".to_owned(), &query);
        assert_eq!(path, "/api/v1/pods?labelSelector=a%20in%20%28b%2Cc%29%2Cd%21%3D%C3%BC&limit=5");
    }

    #[test]
    fn delete_options_say_only_what_was_asked() {
        let body =
            DeleteParams { propagation: Some(Propagation::Foreground), ..DeleteParams::only("u") }.body();
        assert_eq!(body["propagationPolicy"], "Foreground");
        assert_eq!(body["preconditions"], json!({ "uid": "u" }));
        assert!(body.get("gracePeriodSeconds").is_none());
    }
}
