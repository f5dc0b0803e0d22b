//! Kinds that are not stored but answered: who am I, may I, is this token good. And component statuses, which nothing
//! reports any more.

mod access;

use api_types::status::Status;
use api_types::{Value, codec};
use http::Response;
use serde_json::{Map, json};

use crate::api::Api;
use crate::authz::{Ask, Verdict};
use crate::body::Body;
use crate::call::Call;
use crate::decode::{self, Expected};
use crate::registry::Target;
use crate::user::UserInfo;

impl Api {
    pub(crate) async fn review(&self, call: &Call, target: &Target) -> Result<Response<Body>, Status> {
        let resource = &target.resource;
        if !resource.has_verb(call.info.verb) {
            return Err(Status::method_not_allowed());
        }
        if call.info.verb != "create" {
            return self.component_status(call, target);
        }
        call.media(false)?;
        let api_version = resource.api_version();
        let expected = Expected::of(resource, &api_version);
        let mut review = decode::body(call, expected)?;
        if resource.kind.ends_with("SubjectAccessReview") {
            let errors = access::check(&resource.kind, &target.namespace, &review);
            if !errors.is_empty() {
                // Upstream names no kind.
                return Err(Status::invalid(&resource.group, "", "", &errors));
            }
        }
        if resource.resource != "bindings" {
            self.admit_created(call, target, "", &mut review).await?;
        }
        match resource.resource.as_str() {
            "selfsubjectreviews" => {
                set(&mut review, "status", json!({"userInfo": call.user.to_value()}));
                api_types::meta::set_creation_timestamp(&mut review, &self.now_text());
            }
            "selfsubjectaccessreviews" => self.access(&mut review, &call.user).await,
            "subjectaccessreviews" | "localsubjectaccessreviews" => {
                let user = UserInfo::from_review(&review["spec"]);
                self.access(&mut review, &user).await;
            }
            "selfsubjectrulesreviews" => self.rules(&mut review, &call.user),
            "tokenreviews" => self.token(&mut review).await?,
            "bindings" => return self.bind_by_body(call, target, review).await,
            _ => return Err(Status::method_not_allowed()),
        }
        let review = codec::normalize(resource.built_in_message(), &review).map_err(Status::internal)?;
        call.value(201, resource.built_in_message(), &review)
    }

    fn component_status(&self, call: &Call, target: &Target) -> Result<Response<Body>, Status> {
        match call.info.verb {
            "list" => {
                let writer = call.writer(&target.resource, self.now())?;
                let mut response = crate::body::response(200, writer.content_type(), bytes::Bytes::new());
                *response.body_mut() = writer.list(&json!({}), Vec::new())?;
                Ok(response)
            }
            _ => Err(target.not_found()),
        }
    }

    /// Fills in whether a user may do what a review asks.
    async fn access(&self, review: &mut Value, user: &UserInfo) {
        let spec = review["spec"].clone();
        let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
        let (attributes, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        let fields: Vec<String> =
            ["verb", "group", "version", "resource", "subresource", "namespace", "name"]
                .map(|f| text(&attributes[f]))
                .into();
        let [verb, group, version, resource, subresource, namespace, name] = fields.as_slice() else {
            return;
        };
        let (path, path_verb) = (text(&other["path"]), text(&other["verb"]));
        let (fields, field_fault) = access::fields(&attributes["fieldSelector"]);
        let (labels, label_fault) = access::labels(&attributes["labelSelector"]);
        let ask = match attributes.is_object() {
            true => Ask {
                verb,
                group,
                version,
                resource,
                subresource,
                namespace,
                name,
                path: None,
                fields,
                labels,
            },
            false => Ask { verb: &path_verb, path: Some(&path), ..Ask::default() },
        };
        let view = self.storage.view();
        let decision = self.authorizer.decide(&view, user, &ask).await;
        let mut status = json!({"allowed": decision.allows()});
        let mut put = |field: &str, value: Value, there: bool| {
            if there {
                set(&mut status, field, value);
            }
        };
        let reason = self.authorizer.reason(&view, user, &ask, &decision);
        put("denied", true.into(), decision.verdict == Verdict::Deny);
        put("reason", reason.as_str().into(), !reason.is_empty());
        let faults: Vec<String> = [decision.error, field_fault, label_fault].into_iter().flatten().collect();
        put("evaluationError", faults.join("; ").into(), !faults.is_empty());
        set(review, "status", status);
    }

    /// Fills in everything a user may do in a namespace.
    fn rules(&self, review: &mut Value, user: &UserInfo) {
        let namespace = review["spec"]["namespace"].as_str().unwrap_or_default().to_owned();
        let (rules, unlisted) = self.authorizer.rules(&self.storage.view(), user, &namespace);
        let (mut resources, mut urls) = (Vec::new(), Vec::new());
        for rule in rules {
            if !rule.resources.is_empty() {
                let mut value =
                    json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
                if !rule.names.is_empty() {
                    set(&mut value, "resourceNames", json!(rule.names));
                }
                resources.push(value);
            }
            if !rule.urls.is_empty() {
                urls.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
            }
        }
        let mut status =
            json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": !unlisted.is_empty()});
        match unlisted.as_slice() {
            [] => {}
            [one] => set(&mut status, "evaluationError", (*one).into()),
            many => set(&mut status, "evaluationError", format!("[{}]", many.join(", ")).into()),
        }
        set(review, "status", status);
    }

    /// Fills in whose a token is.
    async fn token(&self, review: &mut Value) -> Result<(), Status> {
        let spec = &review["spec"];
        let list = spec["audiences"].as_array().into_iter().flatten();
        let audiences: Vec<String> = list.filter_map(|text| text.as_str().map(str::to_owned)).collect();
        let token = spec["token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let status = match self.authenticator.verify_token(self, &token, &audiences).await {
            Ok(found) => {
                json!({"authenticated": true, "user": found.user.to_value(), "audiences": found.audiences})
            }
            Err(error) => json!({"error": error}),
        };
        set(review, "status", status);
        Ok(())
    }
}

fn set(object: &mut Value, field: &str, value: Value) {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Some(object) = object.as_object_mut() {
        object.insert(field.to_owned(), value);
    }
}
