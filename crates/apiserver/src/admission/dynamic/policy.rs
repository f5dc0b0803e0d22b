//! What validating and mutating policies share: their compiled form, their bindings and parameters, and the request as
//! their expressions see it (upstream: `apiserver/pkg/admission/plugin/policy/generic`).

use std::sync::Arc;

use api_rules::cel::{self, Authorize, Evaluation, Expression, Inputs, Kind, Question, Scope, Variables};
use api_rules::look::Look;
use api_rules::patch::apply;
use api_types::selector::{FieldSelector, LabelSelector};
use api_types::status::Status;
use api_types::{Value, meta};
use mvcc::KeyRange;

use super::matching::{self, Matching};
use super::{name_of, request, text, texts};
use crate::admission::Attributes;
use crate::api::Api;
use crate::authz::{Ask, Authorizer};
use crate::catalog;
use crate::storage::Storage;
use crate::storage::View;
use crate::user::UserInfo;

/// Parameters of one binding, at most: more are a mistake in its selector.
const MAX_PARAMS: usize = 10_000;

/// An expression that decides whether a webhook or a policy is asked at all.
pub(super) struct Condition(Result<Expression, String>);

impl Condition {
    pub fn new(value: &Value, scope: &Scope) -> Self {
        Self(Expression::compile_as(&text(value, "expression"), scope, &[Kind::Bool]))
    }
}

/// Whether all conditions hold. One that does not hold counts more than one that fails.
pub(super) fn hold(conditions: &[Condition], evaluation: &Evaluation<'_>) -> Result<bool, String> {
    let mut failed = Vec::new();
    for Condition(compiled) in conditions {
        match compiled.as_ref().map_err(Clone::clone).and_then(|expression| evaluation.holds(expression)) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) if evaluation.is_spent() => return Err(error),
            Err(error) => failed.push(error),
        }
    }
    match failed.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// One check of a validating policy.
pub(super) struct Validation {
    pub source: String,
    pub expression: Result<Expression, String>,
    pub message: String,
    pub message_expression: Option<Result<Expression, String>>,
    pub reason: String,
}

/// One change of a mutating policy.
pub(super) enum Mutation {
    Apply(Result<Expression, String>),
    Patch(Result<Expression, String>),
}

/// What a policy writes into the audit log.
pub(super) struct Annotation {
    pub key: String,
    pub expression: Result<Expression, String>,
}

/// Where a binding's parameters are.
pub(super) struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<LabelSelector>,
    deny_missing: bool,
}

/// For whom a policy counts, and how.
pub(super) struct Binding {
    pub name: String,
    pub matching: Option<Matching>,
    pub params: Option<ParamRef>,
    /// `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

/// A policy with its bindings.
pub(super) struct Policy {
    pub name: String,
    /// Whether an expression that fails refuses the request.
    pub fail: bool,
    pub matching: Matching,
    /// `apiVersion` and `kind` of its parameters.
    pub param_kind: Option<(String, String)>,
    pub conditions: Vec<Condition>,
    pub variables: Variables,
    pub validations: Vec<Validation>,
    pub annotations: Vec<Annotation>,
    pub mutations: Vec<Mutation>,
    /// Whether it runs again when others changed the object after it.
    pub again: bool,
    pub bindings: Vec<Binding>,
    /// A variable that cannot be compiled.
    pub broken: Option<String>,
}

impl Policy {
    pub fn new(policy: &Value, bindings: &[Value]) -> Self {
        let spec = &policy["spec"];
        let param_kind = spec["paramKind"].is_object();
        let mutating = spec["mutations"].is_array();
        let mut scope = Scope { params: param_kind, authorizer: true, patches: mutating, ..Scope::default() };
        let conditions =
            spec.items("matchConditions").iter().map(|one| Condition::new(one, &scope)).collect();
        let mut variables = Vec::new();
        let mut broken = None;
        for variable in spec.items("variables") {
            match Expression::compile(&text(variable, "expression"), &scope) {
                Ok(expression) => {
                    scope.variables.push((text(variable, "name"), expression.kind().clone()));
                    variables.push((text(variable, "name"), expression));
                }
                Err(error) => broken = Some(error),
            }
        }
        let own = name_of(policy);
        let bindings = bindings.iter().filter(|binding| binding["spec"]["policyName"] == own.as_str());
        Self {
            fail: spec["failurePolicy"] != "Ignore",
            matching: Matching::of_policy(&spec["matchConstraints"]),
            param_kind: param_kind
                .then(|| (text(&spec["paramKind"], "apiVersion"), text(&spec["paramKind"], "kind"))),
            conditions,
            validations: spec.items("validations").iter().map(|one| Validation::new(one, &scope)).collect(),
            annotations: spec
                .items("auditAnnotations")
                .iter()
                .map(|one| Annotation::new(one, &scope))
                .collect(),
            mutations: spec.items("mutations").iter().map(|one| Mutation::new(one, &scope)).collect(),
            again: spec["reinvocationPolicy"] == "IfNeeded",
            bindings: bindings.map(Binding::new).collect(),
            variables: Arc::new(variables),
            name: own,
            broken,
        }
    }

    /// The kind as which the policy is about the request, if it is.
    ///
    /// # Errors
    /// Upstream's text for why that cannot be said, or the policy cannot be run.
    pub fn find(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Option<catalog::Kind>, String> {
        let found = self.matching.find(api, attributes, object).map_err(|error| error.message);
        let error = match (found, &self.broken) {
            (Ok(Some(_)), Some(error)) => error.clone(),
            (Ok(found), _) => return Ok(found),
            (Err(error), _) => error,
        };
        Err(format!("failed to configure policy: {error}"))
    }

    /// The parameters of a binding that the request is judged with, one after the other; `None` is no parameter. There are
    /// none if the binding is not about the request.
    ///
    /// # Errors
    /// Upstream's text for why there are not those that there should be.
    pub fn bound(
        &self,
        api: &Api,
        binding: &Binding,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Vec<Option<Value>>, String> {
        let params = match binding.matches(api, attributes, object) {
            Ok(false) => Ok(Vec::new()),
            Ok(true) => self.params(api, binding, attributes),
            Err(error) => Err(error),
        };
        params.map_err(|error| format!("failed to configure binding: {error}"))
    }

    fn params(
        &self,
        api: &Api,
        binding: &Binding,
        attributes: &Attributes<'_>,
    ) -> Result<Vec<Option<Value>>, String> {
        let (Some((api_version, kind)), Some(reference)) = (&self.param_kind, &binding.params) else {
            return Ok(vec![None]);
        };
        let view = api.storage.view();
        let found = api.catalog.by_kind(&view, api_version, kind).map_err(|error| error.message)?;
        let resource = found.ok_or_else(|| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            format!("paramKind kind `{group}/{version}, Kind={kind}` not known")
        })?;
        let found = reference.find(&view, &resource, &attributes.target.namespace)?;
        if found.is_empty() && reference.deny_missing {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found.into_iter().map(Some).collect())
    }
}

impl Validation {
    fn new(value: &Value, scope: &Scope) -> Self {
        let message = text(value, "messageExpression");
        let message_scope = Scope { authorizer: false, ..scope.clone() };
        Self {
            source: text(value, "expression").trim().to_owned(),
            expression: Expression::compile_as(&text(value, "expression"), scope, &[Kind::Bool]),
            message: text(value, "message").trim().to_owned(),
            message_expression: (!message.is_empty())
                .then(|| Expression::compile_as(&message, &message_scope, &[Kind::String])),
            reason: text(value, "reason"),
        }
    }
}

impl Annotation {
    fn new(value: &Value, scope: &Scope) -> Self {
        let source = text(value, "valueExpression");
        let expression = Expression::compile_as(&source, scope, &[Kind::String, Kind::Null, Kind::Dyn]);
        Self { key: text(value, "key"), expression }
    }
}

impl Mutation {
    fn new(value: &Value, scope: &Scope) -> Self {
        let of = |field: &str, wanted: Kind| {
            Expression::compile_as(&text(&value[field], "expression"), scope, &[wanted])
        };
        match value["patchType"].as_str() {
            Some("JSONPatch") => Self::Patch(of("jsonPatch", Kind::patches())),
            _ => Self::Apply(of("applyConfiguration", Kind::object())),
        }
    }
}

impl Binding {
    fn new(value: &Value) -> Self {
        let spec = &value["spec"];
        let reference = &spec["paramRef"];
        Self {
            name: name_of(value),
            matching: spec["matchResources"]
                .is_object()
                .then(|| Matching::of_policy(&spec["matchResources"])),
            params: reference.is_object().then(|| ParamRef {
                name: text(reference, "name"),
                namespace: text(reference, "namespace"),
                selector: reference["selector"].is_object().then(|| {
                    LabelSelector::from_value(&reference["selector"])
                        .unwrap_or_else(|_| LabelSelector::nothing())
                }),
                deny_missing: reference["parameterNotFoundAction"] == "Deny",
            }),
            actions: texts(spec, "validationActions"),
        }
    }

    /// Whether the binding is about the request.
    fn matches(&self, api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<bool, String> {
        match &self.matching {
            None => Ok(true),
            Some(matching) => matching
                .find(api, attributes, object)
                .map(|found| found.is_some())
                .map_err(|error| error.message),
        }
    }
}

impl ParamRef {
    fn find(&self, view: &View, resource: &catalog::Kind, namespace: &str) -> Result<Vec<Value>, String> {
        let namespace = match (resource.namespaced, self.namespace.as_str()) {
            (false, "") => "",
            (false, _) => {
                return Err(
                    "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()
                );
            }
            (true, "") if namespace.is_empty() => {
                let text =
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(text.to_owned());
            }
            (true, "") => namespace,
            (true, own) => own,
        };
        let failed = |error: Status| error.message;
        if !self.name.is_empty() {
            let key = resource.key(namespace, &self.name);
            let found = crate::storage::get(view, key.as_bytes()).map_err(failed)?;
            let found = found.map(|kv| resource.decode(&kv)).transpose().map_err(failed)?;
            return Ok(found.into_iter().collect());
        }
        let Some(selector) = &self.selector else {
            return Err("one of name or selector must be provided".to_owned());
        };
        let prefix = resource.key(namespace, "");
        let mut found = Vec::new();
        for kv in crate::storage::each(view, &KeyRange::prefix(prefix)) {
            let object = resource.decode(&kv.map_err(failed)?).map_err(failed)?;
            if selector.matches_object(&object) {
                found.push(object);
            }
            if found.len() > MAX_PARAMS {
                return Err(format!("more than {MAX_PARAMS} params found for policy binding"));
            }
        }
        Ok(found)
    }
}

/// A request as webhooks and expressions see it.
pub(super) struct Shown {
    pub object: Value,
    pub old: Value,
    pub request: Value,
    namespace: Option<Value>,
    authorizer: Arc<dyn Authorize>,
    question: Question,
}

impl Shown {
    pub async fn new(
        api: &Api,
        attributes: &Attributes<'_>,
        matched: &catalog::Kind,
        object: &Value,
    ) -> Result<Self, Status> {
        let target = attributes.target;
        let own = &target.resource;
        let namespace = matching::namespace(api, attributes)?.map(matching::shown_namespace);
        let mut object_shown = request::as_version(api, object, matched).await?;
        let mut old = request::as_version(api, attributes.old.unwrap_or(&Value::Null), matched).await?;
        [&mut object_shown, &mut old].into_iter().for_each(apply::show_fields);
        Ok(Self {
            object: object_shown,
            old,
            request: Value::Object(request::request(attributes, matched, object)),
            namespace,
            authorizer: Arc::new(Asker {
                authorizer: api.authorizer.clone(),
                storage: api.storage.clone(),
                user: attributes.user.clone(),
            }),
            question: Question {
                group: own.group.to_string(),
                resource: own.resource.to_string(),
                subresource: attributes.subresource.to_owned(),
                namespace: target.namespace.clone(),
                name: target.name.clone(),
                ..Question::default()
            },
        })
    }

    /// Runs expressions of a policy over the request, which may cost `budget` together.
    pub fn evaluate<T>(
        &self,
        variables: &Variables,
        params: Option<&Value>,
        budget: i64,
        run: impl FnOnce(&Evaluation<'_>) -> T,
    ) -> T {
        let inputs = Inputs {
            object: Some(&self.object),
            old: Some(&self.old),
            request: Some(&self.request),
            params,
            namespace: self.namespace.as_ref(),
            authorizer: Some(self.authorizer.clone()),
            question: self.question.clone(),
        };
        cel::evaluate(&inputs, variables, budget, run)
    }
}

/// Answers what expressions ask of the authorizer.
struct Asker {
    authorizer: Arc<Authorizer>,
    storage: Storage,
    user: UserInfo,
}

impl Authorize for Asker {
    fn allows(&self, question: &Question) -> bool {
        let account =
            question.account.as_ref().map(|(namespace, name)| UserInfo::service_account(namespace, name, ""));
        let ask = Ask {
            verb: &question.verb,
            group: &question.group,
            version: if question.path.is_empty() { "*" } else { "" },
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            path: (!question.path.is_empty()).then_some(question.path.as_str()),
            fields: FieldSelector::parse(&question.fields).unwrap_or_default(),
            labels: LabelSelector::parse(&question.labels).unwrap_or_default(),
        };
        self.authorizer.allows(&self.storage.view(), account.as_ref().unwrap_or(&self.user), &ask)
    }
}

/// The identity of a parameter, as policies that run again are told apart.
pub(super) fn param_id(params: Option<&Value>) -> String {
    params.map_or_else(String::new, |params| format!("{}/{}", meta::namespace(params), meta::name(params)))
}
