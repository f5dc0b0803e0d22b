//! Kinds that are not stored but answered: who am I, may I, is this token good. And component statuses, which nothing
//! reports any more.

use api_types::status::Status;
use api_types::{Value, codec};
use http::Response;
use serde_json::{Map, json};

use crate::api::Api;
use crate::authz::{Ask, Rule};
use crate::body::Body;
use crate::call::Call;
use crate::decode::{self, Expected};
use crate::registry::Target;
use crate::user::{MASTERS, UserInfo};

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
        if resource.resource != "bindings" {
            self.admit_created(call, target, "", &mut review).await?;
        }
        match resource.resource.as_str() {
            "selfsubjectreviews" => set(&mut review, "status", json!({"userInfo": call.user.to_value()})),
            "selfsubjectaccessreviews" => self.access(&mut review, &call.user),
            "subjectaccessreviews" | "localsubjectaccessreviews" => {
                let user = UserInfo::from_review(&review["spec"]);
                self.access(&mut review, &user);
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
    fn access(&self, review: &mut Value, user: &UserInfo) {
        let spec = review["spec"].clone();
        let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
        let (attributes, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        let fields: Vec<String> = ["verb", "group", "resource", "subresource", "namespace", "name"]
            .map(|f| text(&attributes[f]))
            .into();
        let [verb, group, resource, subresource, namespace, name] = fields.as_slice() else { return };
        let (path, path_verb) = (text(&other["path"]), text(&other["verb"]));
        let ask = match attributes.is_object() {
            true => Ask { verb, group, resource, subresource, namespace, name, ..Ask::default() },
            false => Ask { verb: &path_verb, path: Some(&path), ..Ask::default() },
        };
        let allowed = self.authorizer.allows(&self.storage.view(), user, &ask);
        set(review, "status", json!({"allowed": allowed}));
    }

    /// Fills in everything a user may do in a namespace.
    fn rules(&self, review: &mut Value, user: &UserInfo) {
        let namespace = review["spec"]["namespace"].as_str().unwrap_or_default().to_owned();
        let policy = self.authorizer.policy(&self.storage.view());
        let everything = Rule {
            verbs: vec!["*".into()],
            groups: vec!["*".into()],
            resources: vec!["*".into()],
            urls: vec!["*".into()],
            ..Rule::default()
        };
        let rules = match user.is_in(MASTERS) {
            true => vec![&everything],
            false => policy.rules_for(user, &namespace),
        };
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
        set(
            review,
            "status",
            json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false}),
        );
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
