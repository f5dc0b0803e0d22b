//! What hangs below an object: its status, its scale, and what is done to it by name.

mod binding;
mod eviction;
mod log;
mod scale;
mod token;

use api_types::status::Status;
use api_types::{Subresource, table};
use http::Response;

use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::registry::{Target, UpdateKind};

impl Api {
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
        if !sub.has_verb(verb) {
            return Err(Status::method_not_allowed());
        }
        match (sub.name, verb) {
            ("scale", "get") => self.get_scale(call, target, sub).await,
            ("scale", "update") => self.update_scale(call, target, sub).await,
            ("scale", "patch") => self.patch_scale(call, target, sub).await,
            ("binding", "create") => self.bind(call, target, sub).await,
            ("eviction", "create") => self.evict(call, target, sub).await,
            ("token", "create") => self.create_token(call, target, sub).await,
            ("log", "get") => self.log(call, target).await,
            ("exec" | "attach" | "portforward" | "proxy", _) => Err(not_implemented(sub.name)),
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
