//! Which requests are audited, and how much of them: `audit.k8s.io/v1 Policy`, read and checked at start, compiled into
//! what one look per request needs. Pure. The rules are upstream's (`apiserver/pkg/audit/policy`).

use api_rules::format;
use api_types::field::{FieldError, Path, aggregate, quote};
use api_types::{Value, codec, meta};

use crate::info::RequestInfo;
use crate::user::UserInfo;

/// How much of a request is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    #[default]
    None,
    /// Who, what, when, and the outcome.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

/// Levels by their names.
const LEVELS: [(&str, Level); 4] = [
    ("None", Level::None),
    ("Metadata", Level::Metadata),
    ("Request", Level::Request),
    ("RequestResponse", Level::RequestResponse),
];

impl Level {
    pub fn name(self) -> &'static str {
        LEVELS[self as usize].0
    }

    fn parse(text: &str) -> Option<Self> {
        LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level)
    }
}

/// A moment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    RequestReceived,
    /// The head of the answer is there; of requests that may last only.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// Names of stages, in their order.
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

impl Stage {
    pub fn name(self) -> &'static str {
        STAGES[self as usize]
    }
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stages(u8);

impl Stages {
    pub fn has(self, stage: Stage) -> bool {
        self.0 & 1 << stage as u8 != 0
    }

    /// Those of the names that are names of stages.
    fn of(names: &[String]) -> Self {
        let bits = names.iter().filter_map(|name| STAGES.iter().position(|stage| stage == name));
        Self(bits.fold(0, |all, bit| all | 1 << bit))
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What the policy says of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub level: Level,
    /// Stages that are not written.
    pub omitted: Stages,
    /// Whether bodies are written without their managed fields.
    pub omit_managed_fields: bool,
}

/// The rules; the first that matches counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    rules: Vec<Rule>,
    /// Of requests that no rule matches.
    otherwise: Verdict,
}

#[derive(Clone, Debug, Default)]
struct Rule {
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    about: About,
    verdict: Verdict,
}

#[derive(Clone, Debug, Default)]
enum About {
    #[default]
    Anything,
    Resources {
        /// Empty: all.
        namespaces: Vec<String>,
        /// Empty: all.
        resources: Vec<GroupResources>,
    },
    Paths(Vec<PathPattern>),
}

#[derive(Clone, Debug)]
struct GroupResources {
    group: String,
    resources: Vec<ResourcePattern>,
    names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ResourcePattern {
    /// `*`
    Everything,
    /// `pods` or `pods/log`
    Exactly(String, String),
    /// `*/scale`
    Subresource(String),
    /// `pods/*`
    AllOf(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathPattern {
    Exactly(String),
    Prefix(String),
}

impl Policy {
    /// Reads a policy's file, YAML or JSON.
    ///
    /// # Errors
    /// Upstream's text for what is wrong with it.
    pub fn load(path: &std::path::Path) -> Result<Self, String> {
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
                _ => error.to_string(),
            };
            format!("failed to read file path {}: open {shown}: {why}", quote(&shown.to_string()))
        })?;
        Self::parse(&bytes).map_err(|error| format!("{error}: from file {shown}"))
    }

    /// Reads a policy. Fields that it does not know are told in the log and left out, as upstream does.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let failed = |error: String| format!("failed decoding: {error}");
        let decoded = codec::decode_yaml(text).map_err(|error| failed(error.to_string()))?;
        let value = decoded.value;
        check_kind(&value, text).map_err(failed)?;
        let mut reader = Reader {
            unknown: decoded.duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect(),
        };
        let document = reader.document(&value).map_err(failed)?;
        if !reader.unknown.is_empty() {
            let faults = reader.unknown.join(", ");
            tracing::warn!(
                "Audit policy contains errors, falling back to lenient decoding: strict decoding error: {faults}"
            );
        }
        let errors = document.validate();
        if !errors.is_empty() {
            return Err(aggregate(&errors));
        }
        if document.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        Ok(document.compile())
    }

    /// What is to be written of a request of a user; `None` is one who is not known.
    pub fn look(&self, user: Option<&UserInfo>, info: &RequestInfo) -> Verdict {
        self.rules.iter().find(|rule| rule.matches(user, info)).map_or(self.otherwise, |rule| rule.verdict)
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == wanted)
}

impl Rule {
    fn matches(&self, user: Option<&UserInfo>, info: &RequestInfo) -> bool {
        (self.users.is_empty() || user.is_some_and(|user| has(&self.users, &user.name)))
            && (self.groups.is_empty()
                || user.is_some_and(|user| user.groups.iter().any(|group| has(&self.groups, group))))
            && (self.verbs.is_empty() || has(&self.verbs, info.verb))
            && self.about.matches(info)
    }
}

impl About {
    fn matches(&self, info: &RequestInfo) -> bool {
        match self {
            Self::Anything => true,
            Self::Resources { namespaces, resources } => {
                info.is_resource
                    && (namespaces.is_empty() || has(namespaces, &info.namespace))
                    && (resources.is_empty() || resources.iter().any(|group| group.matches(info)))
            }
            Self::Paths(paths) => !info.is_resource && paths.iter().any(|path| path.matches(&info.path)),
        }
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        (self.group == "*" || self.group == info.group)
            && (self.resources.is_empty()
                || (self.names.is_empty() || has(&self.names, &info.name))
                    && self.resources.iter().any(|pattern| pattern.matches(info)))
    }
}

impl ResourcePattern {
    fn of(text: &str) -> Self {
        match text.split_once('/') {
            _ if text == "*" => Self::Everything,
            Some(("*", subresource)) => Self::Subresource(subresource.to_owned()),
            Some((resource, "*")) => Self::AllOf(resource.to_owned()),
            Some((resource, subresource)) => Self::Exactly(resource.to_owned(), subresource.to_owned()),
            None => Self::Exactly(text.to_owned(), String::new()),
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        match self {
            Self::Everything => true,
            Self::Exactly(resource, subresource) => {
                *resource == info.resource && *subresource == info.subresource
            }
            Self::Subresource(subresource) => !subresource.is_empty() && *subresource == info.subresource,
            // Upstream's code takes the resource itself too.
            Self::AllOf(resource) => *resource == info.resource,
        }
    }
}

impl PathPattern {
    fn of(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.trim_end_matches('*').to_owned()),
            None => Self::Exactly(text.to_owned()),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exactly(own) => own == path,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

/// The file says that it is a policy.
fn check_kind(value: &Value, text: &[u8]) -> Result<(), String> {
    let missing =
        |what: &str| format!("Object '{what}' is missing in '{}'", String::from_utf8_lossy(text).trim_end());
    let (version, kind) = (meta::api_version(value), meta::kind(value));
    if kind.is_empty() {
        return Err(missing("Kind"));
    }
    if version.is_empty() {
        return Err(missing("apiVersion"));
    }
    match (version, kind) {
        ("audit.k8s.io/v1", "Policy") => Ok(()),
        _ => Err(format!("no kind {} is registered for version {}", quote(kind), quote(version))),
    }
}

/// A policy as it is written.
#[derive(Default)]
struct Document {
    rules: Vec<Written>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Default)]
struct Written {
    level: String,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<WrittenResources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Default)]
struct WrittenResources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

/// Reads documents; what it does not know is noted.
struct Reader {
    unknown: Vec<String>,
}

const POLICY: &[&str] = &["kind", "apiVersion", "metadata", "rules", "omitStages", "omitManagedFields"];
const RULE: &[&str] = &[
    "level",
    "users",
    "userGroups",
    "verbs",
    "resources",
    "namespaces",
    "nonResourceURLs",
    "omitStages",
    "omitManagedFields",
];
const GROUP_RESOURCES: &[&str] = &["group", "resources", "resourceNames"];

impl Reader {
    fn document(&mut self, value: &Value) -> Result<Document, String> {
        self.note(value, POLICY, &Path::root());
        let path = Path::new("rules");
        let rules = items(&value["rules"], &path)?.iter().enumerate();
        Ok(Document {
            rules: rules.map(|(at, rule)| self.rule(rule, &path.index(at))).collect::<Result<_, _>>()?,
            omit_stages: texts(value, "omitStages", &Path::root())?,
            omit_managed_fields: flag(value, "omitManagedFields", &Path::root())?.unwrap_or_default(),
        })
    }

    fn rule(&mut self, value: &Value, path: &Path) -> Result<Written, String> {
        self.note(value, RULE, path);
        let list = |field: &str| texts(value, field, path);
        let inner = path.child("resources");
        let resources = items(&value["resources"], &inner)?.iter().enumerate();
        Ok(Written {
            level: text(value, "level", path)?,
            users: list("users")?,
            groups: list("userGroups")?,
            verbs: list("verbs")?,
            namespaces: list("namespaces")?,
            paths: list("nonResourceURLs")?,
            omit_stages: list("omitStages")?,
            omit_managed_fields: flag(value, "omitManagedFields", path)?,
            resources: resources
                .map(|(at, one)| self.resources(one, &inner.index(at)))
                .collect::<Result<_, _>>()?,
        })
    }

    fn resources(&mut self, value: &Value, path: &Path) -> Result<WrittenResources, String> {
        self.note(value, GROUP_RESOURCES, path);
        Ok(WrittenResources {
            group: text(value, "group", path)?,
            resources: texts(value, "resources", path)?,
            names: texts(value, "resourceNames", path)?,
        })
    }

    fn note(&mut self, value: &Value, known: &[&str], path: &Path) {
        for field in value.as_object().into_iter().flat_map(serde_json::Map::keys) {
            if !known.contains(&field.as_str()) {
                self.unknown.push(format!("unknown field {:?}", path.child(field).as_str()));
            }
        }
    }
}

/// Go's words for a value of the wrong type.
fn mistyped(value: &Value, path: &Path, wanted: &str) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {found} into Go struct field {} of type {wanted}", path.as_str())
}

fn items<'a>(value: &'a Value, path: &Path) -> Result<&'a [Value], String> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(list) => Ok(list),
        other => Err(mistyped(other, path, "[]object")),
    }
}

fn text(value: &Value, field: &str, path: &Path) -> Result<String, String> {
    match &value[field] {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        other => Err(mistyped(other, &path.child(field), "string")),
    }
}

fn flag(value: &Value, field: &str, path: &Path) -> Result<Option<bool>, String> {
    match &value[field] {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(*flag)),
        other => Err(mistyped(other, &path.child(field), "bool")),
    }
}

fn texts(value: &Value, field: &str, path: &Path) -> Result<Vec<String>, String> {
    let path = path.child(field);
    let list = match &value[field] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        other => return Err(mistyped(other, &path, "[]string")),
    };
    let of = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(|| mistyped(item, &path, "string"));
    list.iter().map(of).collect()
}

impl Document {
    /// Upstream's `ValidatePolicy`.
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check_stages(&self.omit_stages, &Path::new("omitStages"), &mut errors);
        for (at, rule) in self.rules.iter().enumerate() {
            rule.validate(&Path::new("rules").index(at), &mut errors);
        }
        errors
    }

    fn compile(self) -> Policy {
        let omitted = Stages::of(&self.omit_stages);
        let omit_managed_fields = self.omit_managed_fields;
        let otherwise = Verdict { level: Level::None, omitted, omit_managed_fields };
        Policy { rules: self.rules.into_iter().map(|rule| rule.compile(otherwise)).collect(), otherwise }
    }
}

impl Written {
    fn validate(&self, path: &Path, errors: &mut Vec<FieldError>) {
        let level = path.child("level");
        match self.level.as_str() {
            "" => errors.push(FieldError::required(&level, "")),
            text if Level::parse(text).is_none() => {
                let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
                errors.push(FieldError::not_supported(&level, text, &names));
            }
            _ => {}
        }
        let urls = path.child("nonResourceURLs");
        for (at, url) in self.paths.iter().enumerate().filter(|(_, url)| *url != "*") {
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                errors.push(FieldError::invalid(&urls.index(at), url.as_str(), why));
            }
            if url.find('*').is_some_and(|star| star + 1 < url.len()) {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(FieldError::invalid(&urls.index(at), url.as_str(), why));
            }
        }
        self.resources.iter().for_each(|one| one.validate(&path.child("resources"), errors));
        check_stages(&self.omit_stages, &path.child("omitStages"), errors);
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.paths.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&urls, self.paths.clone(), why));
        }
    }

    fn compile(self, policy: Verdict) -> Rule {
        let resources = self.resources.into_iter().map(|one| GroupResources {
            group: one.group,
            resources: one.resources.iter().map(|text| ResourcePattern::of(text)).collect(),
            names: one.names,
        });
        let resources: Vec<GroupResources> = resources.collect();
        let about = match (self.namespaces.is_empty() && resources.is_empty(), self.paths.is_empty()) {
            (false, _) => About::Resources { namespaces: self.namespaces, resources },
            (true, false) => About::Paths(self.paths.iter().map(|text| PathPattern::of(text)).collect()),
            (true, true) => About::Anything,
        };
        let verdict = Verdict {
            level: Level::parse(&self.level).unwrap_or_default(),
            omitted: policy.omitted.with(Stages::of(&self.omit_stages)),
            omit_managed_fields: self.omit_managed_fields.unwrap_or(policy.omit_managed_fields),
        };
        Rule { users: self.users, groups: self.groups, verbs: self.verbs, about, verdict }
    }
}

impl WrittenResources {
    fn validate(&self, path: &Path, errors: &mut Vec<FieldError>) {
        if !self.group.is_empty() && self.group != "*" {
            let problems = format::dns1123_subdomain(&self.group);
            if !problems.is_empty() {
                let why = problems.join(",");
                errors.push(FieldError::invalid(&path.child("group"), self.group.as_str(), why));
            }
        }
        if !self.names.is_empty() && self.resources.is_empty() {
            let why = "using resourceNames requires at least one resource";
            errors.push(FieldError::invalid(&path.child("resourceNames"), self.names.clone(), why));
        }
    }
}

fn check_stages(stages: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    for (at, stage) in stages.iter().enumerate() {
        if !STAGES.contains(&stage.as_str()) {
            let why = format!("allowed stages are {}", STAGES.join(","));
            errors.push(FieldError::invalid(&path.index(at), stage.as_str(), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::Query;
    use http::Method;

    fn policy(rules: &str) -> Result<Policy, String> {
        Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}").as_bytes())
    }

    /// `METHOD PATH` as a request's info.
    fn info(request: &str) -> RequestInfo {
        let (method, path) = request.split_once(' ').unwrap();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        RequestInfo::parse(&Method::from_bytes(method.as_bytes()).unwrap(), path, &Query::parse(query))
    }

    /// The level that one rule, of level Metadata, gives to a request of a user in group `devs`.
    fn matched(rule: &str, request: &str) -> bool {
        let policy = policy(&format!("rules: [{{level: Metadata, {rule}}}]")).unwrap();
        let user = UserInfo::new("jane", &["devs"]);
        policy.look(Some(&user), &info(request)).level == Level::Metadata
    }

    #[test]
    fn rules_match_as_upstreams() {
        let pods = "GET /api/v1/namespaces/a/pods/p";
        let log = "GET /api/v1/namespaces/a/pods/p/log";
        let scale = "GET /apis/apps/v1/namespaces/a/deployments/d/scale";
        let node = "GET /api/v1/nodes/n";
        let cases = [
            ("users: [jane]", pods, true),
            ("users: [joe]", pods, false),
            ("userGroups: [devs]", pods, true),
            ("userGroups: [ops, 'system:authenticated']", pods, true),
            ("userGroups: [ops]", pods, false),
            ("verbs: [get]", pods, true),
            ("verbs: [list, watch]", pods, false),
            ("verbs: [watch]", "GET /api/v1/pods?watch=1", true),
            ("verbs: [deletecollection]", "DELETE /api/v1/namespaces/a/pods", true),
            ("namespaces: [a]", pods, true),
            ("namespaces: [b]", pods, false),
            ("namespaces: ['']", node, true),
            ("namespaces: ['']", pods, false),
            ("namespaces: [a]", "GET /healthz", false),
            ("resources: [{group: ''}]", pods, true),
            ("resources: [{group: apps}]", pods, false),
            ("resources: [{group: '*'}]", scale, true),
            ("resources: [{group: '', resources: [pods]}]", pods, true),
            ("resources: [{group: '', resources: [pods]}]", log, false),
            ("resources: [{group: '', resources: [pods/log]}]", log, true),
            ("resources: [{group: '', resources: [pods/log]}]", pods, false),
            ("resources: [{group: '', resources: ['pods/*']}]", log, true),
            ("resources: [{group: '', resources: ['pods/*']}]", pods, true),
            ("resources: [{group: '', resources: ['*/log']}]", log, true),
            ("resources: [{group: '', resources: ['*/log']}]", pods, false),
            ("resources: [{group: '*', resources: ['*/scale']}]", scale, true),
            ("resources: [{group: '', resources: ['*']}]", log, true),
            ("resources: [{group: '', resources: [pods], resourceNames: [p]}]", pods, true),
            ("resources: [{group: '', resources: [pods], resourceNames: [q]}]", pods, false),
            ("resources: [{group: apps}, {group: '', resources: [nodes]}]", node, true),
            ("nonResourceURLs: ['/healthz*']", "GET /healthz/etcd", true),
            ("nonResourceURLs: [/healthz]", "GET /healthz/etcd", false),
            ("nonResourceURLs: ['*']", "GET /metrics", true),
            ("nonResourceURLs: ['*']", pods, false),
            ("nonResourceURLs: ['/api/*']", "GET /api/v1", true),
            ("users: []", "GET /metrics", true),
        ];
        for (rule, request, expected) in cases {
            assert_eq!(matched(rule, request), expected, "{rule}: {request}");
        }
    }

    #[test]
    fn the_first_rule_counts_and_no_rule_is_none() {
        let policy = policy(
            "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n- {level: None, users: [jane]}\n\
             - {level: Request, resources: [{group: ''}], omitStages: [Panic], omitManagedFields: false}\n",
        )
        .unwrap();
        let (jane, joe) = (UserInfo::new("jane", &[]), UserInfo::new("joe", &[]));
        let pods = info("GET /api/v1/pods");
        assert_eq!(policy.look(Some(&jane), &pods).level, Level::None);
        let of_joe = policy.look(Some(&joe), &pods);
        assert_eq!((of_joe.level, of_joe.omit_managed_fields), (Level::Request, false));
        assert!(of_joe.omitted.has(Stage::RequestReceived) && of_joe.omitted.has(Stage::Panic));
        assert!(!of_joe.omitted.has(Stage::ResponseComplete));
        let other = policy.look(Some(&joe), &info("GET /metrics"));
        assert_eq!((other.level, other.omit_managed_fields), (Level::None, true));
        // Who is not known matches no rule that names users.
        assert_eq!(policy.look(None, &pods).level, Level::Request);
        assert!(Level::Metadata < Level::RequestResponse);
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let cases = [
            ("rules: []", "loaded illegal policy with 0 rules"),
            ("rules: [{}]", "rules[0].level: Required value"),
            (
                "rules: [{level: All}]",
                r#"rules[0].level: Unsupported value: "All": supported values: "None", "Metadata", "Request", "RequestResponse""#,
            ),
            (
                "rules: [{level: None, nonResourceURLs: [healthz]}]",
                r#"rules[0].nonResourceURLs[0]: Invalid value: "healthz": non-resource URL rules must begin with a '/' character"#,
            ),
            (
                "rules: [{level: None, nonResourceURLs: ['/a*b']}]",
                r#"rules[0].nonResourceURLs[0]: Invalid value: "/a*b": non-resource URL wildcards '*' must be the final character of the rule"#,
            ),
            (
                "rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]",
                r#"rules[0].nonResourceURLs: Invalid value: ["/a"]: rules cannot apply to both regular resources and non-resource URLs"#,
            ),
            (
                "rules: [{level: None, resources: [{resourceNames: [a]}]}]",
                r#"rules[0].resources.resourceNames: Invalid value: ["a"]: using resourceNames requires at least one resource"#,
            ),
            (
                "omitStages: [Never]\nrules: [{level: None}]",
                r#"omitStages[0]: Invalid value: "Never": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"#,
            ),
            (
                "rules: [{level: None, users: jane}]",
                "failed decoding: json: cannot unmarshal string into Go struct field rules[0].users of type []string",
            ),
        ];
        for (rules, expected) in cases {
            assert_eq!(policy(rules).unwrap_err(), expected, "{rules}");
        }
        let group = policy("rules: [{level: None, resources: [{group: rbac.authorization.k8s.io/v1}]}]");
        assert!(group.unwrap_err().starts_with(
            r#"rules[0].resources.group: Invalid value: "rbac.authorization.k8s.io/v1": a lowercase RFC 1123"#
        ));
        let other = Policy::parse(b"apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: []").unwrap_err();
        assert_eq!(
            other,
            r#"failed decoding: no kind "Policy" is registered for version "audit.k8s.io/v1beta1""#
        );
        assert_eq!(
            Policy::parse(b"rules: []").unwrap_err(),
            "failed decoding: Object 'Kind' is missing in 'rules: []'"
        );
    }

    #[test]
    fn fields_that_are_not_known_are_left_out() {
        let policy = policy("rules: [{level: Metadata, verb: [get]}]").unwrap();
        assert_eq!(policy.look(None, &info("GET /metrics")).level, Level::Metadata);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Policy::load(std::path::Path::new("/nowhere/policy.yaml")).unwrap_err();
        assert_eq!(
            error,
            "failed to read file path \"/nowhere/policy.yaml\": open /nowhere/policy.yaml: no such file or directory"
        );
    }
}
