//! TokenRequest: a token of a service account, for a while, maybe for one pod.

use api_types::field::{FieldError, Path};
use api_types::status::Status;
use api_types::{Subresource, Value, meta, table, time};
use http::Response;
use serde_json::json;

use crate::api::Api;
use crate::authn::{Bound, Reference};
use crate::body::Body;
use crate::call::Call;
use crate::convert;
use crate::decode::{self, Expected};
use crate::registry::Target;
use crate::storage::View;

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// What pods' volumes ask for; such tokens live longer than they say, for clients that do not read them again
/// (upstream's `--service-account-extend-token-expiration`).
const POD_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

impl Api {
    pub(super) async fn create_token(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Response<Body>, Status> {
        let api_version = sub.api_version();
        let mut request = decode::body(call, Expected::sub(sub, &api_version))?;
        self.admit_created(call, target, sub.name, &mut request).await?;
        let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        let view = self.storage.fresh().await?;
        let account = target.resource.decode(&self.find(&view, target)?)?;
        check_seconds(seconds)?;
        let seconds = self.shortened(call, seconds);
        let mut bound = Bound {
            namespace: target.namespace.clone(),
            serviceaccount: Some(reference(&account)),
            ..Bound::default()
        };
        self.bind_token(&view, target, &request["spec"]["boundObjectRef"], &mut bound)?;
        if let Some(node) = call.user.node()
            && bound.pod.is_none()
        {
            let why = format!("node requested token not bound to a pod (node {node})");
            return Err(target.forbidden(&why));
        }
        let list = request["spec"]["audiences"].as_array().into_iter().flatten();
        let mut audiences: Vec<String> = list.filter_map(|text| text.as_str().map(str::to_owned)).collect();
        let own = self.authenticator.tokens.audiences();
        if audiences.is_empty() {
            audiences.extend_from_slice(own);
        }
        let now = self.now();
        let extends = self.authenticator.tokens.extends;
        let extended = extends && bound.pod.is_some() && seconds == POD_SECONDS && audiences == own;
        if extended {
            bound.warnafter = Some(now / 1000 + seconds);
        }
        let life = if extended { EXTENDED_SECONDS } else { seconds };
        let token = self
            .authenticator
            .tokens
            .sign(bound, audiences.clone(), now, life, self.new_uid())
            .map_err(Status::internal)?;
        let spec = meta::child_mut(&mut request, &["spec"]);
        spec.insert("expirationSeconds".into(), seconds.into());
        spec.insert("audiences".into(), json!(audiences));
        meta::set_name(&mut request, &target.name);
        meta::set_namespace(&mut request, &target.namespace);
        meta::set_creation_timestamp(&mut request, &time::from_millis(now));
        let status = meta::child_mut(&mut request, &["status"]);
        status.insert("token".into(), token.into());
        status.insert("expirationTimestamp".into(), time::from_millis(now + seconds * 1000).into());
        call.value(201, sub.built_in_message(), &request)
    }

    /// Seconds that a token lasts which somebody wants to last so many.
    fn shortened(&self, call: &Call, seconds: i64) -> i64 {
        match self.authenticator.tokens.max_seconds {
            Some(max) if seconds > max => {
                call.warn(format!("requested expiration of {seconds} seconds shortened to {max} seconds"));
                max
            }
            _ => seconds,
        }
    }

    /// Binds the token to a pod (and its node), a secret or a node, if that is asked.
    fn bind_token(
        &self,
        view: &View,
        target: &Target,
        asked: &Value,
        bound: &mut Bound,
    ) -> Result<(), Status> {
        let text = |field: &str| asked[field].as_str().unwrap_or_default();
        let resource = match (text("apiVersion"), text("kind")) {
            ("", "") => return Ok(()),
            ("v1", "Pod") => "pods",
            ("v1", "Secret") => "secrets",
            ("v1", "Node") => "nodes",
            (version, kind) => {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to object of type {version}, Kind={kind}",
                    target.name
                );
                return Err(Status::bad_request(why));
            }
        };
        let resource = table::find("", "v1", resource).ok_or_else(Status::path_not_found)?;
        let named = Target::new(resource, &target.namespace, text("name"));
        let object = convert::decode(resource, &self.find(view, &named)?)?;
        let uid = text("uid");
        if !uid.is_empty() && uid != meta::uid(&object) {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(named.conflict(&why));
        }
        match resource.resource.as_str() {
            "pods" => {
                if object["spec"]["serviceAccountName"].as_str() != Some(target.name.as_str()) {
                    let why = format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        target.name
                    );
                    return Err(Status::bad_request(why));
                }
                bound.pod = Some(reference(&object));
                bound.node = self.node_of(view, &object);
            }
            "secrets" => bound.secret = Some(reference(&object)),
            _ => bound.node = Some(reference(&object)),
        }
        Ok(())
    }

    fn node_of(&self, view: &View, pod: &Value) -> Option<Reference> {
        let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
        let nodes = table::find("", "v1", "nodes")?;
        let kv = self.find(view, &Target::new(nodes, "", name)).ok()?;
        convert::decode(nodes, &kv).ok().map(|node| reference(&node))
    }
}

fn reference(object: &Value) -> Reference {
    Reference { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let path = Path::new("spec").child("expirationSeconds");
    let error = match seconds {
        ..MIN_SECONDS => {
            FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes")
        }
        MIN_SECONDS..=MAX_SECONDS => return Ok(()),
        _ => FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"),
    };
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &[error]))
}
