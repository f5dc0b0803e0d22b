//! What hangs below an object: its status, its scale, and what is done to it by name.

mod binding;
mod eviction;
mod links;
mod log;
mod proxy;
pub(crate) mod scale;
mod stream;
mod token;

use api_types::status::Status;
use api_types::{Subresource, Value, table};
use http::Response;
use serde_json::json;

use crate::admission::{Attributes, Operation};
use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::registry::{Target, UpdateKind};
use crate::{negotiate, options};

impl Api {
    /// Admits what is created and not stored: reviews, and what is made below an object.
    pub(crate) async fn admit_created(
        &self,
        call: &Call,
        target: &Target,
        subresource: &str,
        object: &mut Value,
    ) -> Result<(), Status> {
        let dry_run = options::of_write(call)?;
        let attributes =
            Attributes { subresource, dry_run, ..Attributes::new(Operation::Create, target, call) };
        self.admit_whole(&attributes, object).await
    }

    /// Admits a connection: its options are the object.
    async fn admit_connect(&self, call: &Call, target: &Target, sub: &Subresource) -> Result<(), Status> {
        let mut options = json!({"kind": sub.kind, "apiVersion": sub.api_version()});
        if let Some(object) = options.as_object_mut() {
            for (name, value) in call.query.iter() {
                let value: Value = match (name, value) {
                    ("stdin" | "stdout" | "stderr" | "tty", text) => (text == "true" || text == "1").into(),
                    ("command", text) => {
                        let list = object.entry(name).or_insert_with(|| json!([]));
                        if let Some(list) = list.as_array_mut() {
                            list.push(text.into());
                        }
                        continue;
                    }
                    ("container" | "path", text) => Value::from(text),
                    _ => continue,
                };
                object.insert(name.to_owned(), value);
            }
        }
        let attributes =
            Attributes { subresource: sub.name, ..Attributes::new(Operation::Connect, target, call) };
        self.admit_whole(&attributes, &mut options).await
    }

    pub(crate) async fn subresource(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Response<Body>, Status> {
        let verb = call.info.verb;
        if target.name.is_empty() || (target.resource.namespaced && target.namespace.is_empty()) {
            return Err(Status::path_not_found());
        }
        // Proxies take methods that no verb stands for.
        if !sub.has_verb(verb) && (sub.name != "proxy" || call.method != http::Method::OPTIONS) {
            return Err(Status::method_not_allowed());
        }
        if target.resource.custom().is_none() && sub.name != "log" && !call.info.is_connection() {
            negotiate::check_object_accept(call.header(http::header::ACCEPT), false)?;
        }
        match (sub.name, verb) {
            ("scale", "get") => self.get_scale(call, target, sub).await,
            ("scale", "update") => self.update_scale(call, target, sub).await,
            ("scale", "patch") => self.patch_scale(call, target, sub).await,
            ("binding", "create") => self.bind(call, target, sub).await,
            ("eviction", "create") => self.evict(call, target, sub).await,
            ("token", "create") => self.create_token(call, target, sub).await,
            ("log", "get") => self.log(call, target).await,
            ("exec" | "attach" | "portforward", _) => {
                self.admit_connect(call, target, sub).await?;
                self.stream(call, target, sub.name).await
            }
            ("proxy", _) => {
                self.admit_connect(call, target, sub).await?;
                self.proxy(call, target).await
            }
            (name, verb) => match (UpdateKind::of(name), verb) {
                (Some(_), "get") => self.get(call, target).await,
                (Some(kind), "update") => self.update_request(call, target, kind).await,
                (Some(kind), "patch") => self.patch_request(call, target, kind).await,
                _ => Err(not_implemented(name)),
            },
        }
    }
}

fn not_implemented(name: &str) -> Status {
    Status::failure(501, "NotImplemented", format!("the server does not implement subresource {name}"))
}

fn pods() -> &'static api_types::Resource {
    table::find("", "v1", "pods").expect("invariant: the table of kinds holds Pod")
}
