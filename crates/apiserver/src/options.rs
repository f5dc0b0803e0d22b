//! The options of requests: what the query says, or the body of a deletion, read as upstream reads it and checked all at
//! once (`apimachinery/pkg/apis/meta/v1/validation` and `…/meta/internalversion/validation`).

use api_rules::look::Look;
use api_rules::meta as meta_rules;
use api_types::Value;
use api_types::field::{FieldError, Path};
use api_types::status::Status;
use http::Method;

use crate::call::{Call, FieldValidation};
use crate::catalog::Kind;
use crate::decode;
use crate::info::Query;
use crate::select::Selection;

const DRY_RUN: [&str; 1] = ["All"];
const UNREADABLE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// 422 for options of a kind, unless nothing is wrong with them.
fn checked(kind: &str, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", kind, "", errors)) }
}

/// Checks the options of a create, an update or a patch. Whether nothing may be stored.
pub(crate) fn of_write(call: &Call) -> Result<bool, Status> {
    let (kind, query) = (kind_of(&call.method), &call.query);
    let mut errors = Vec::new();
    if call.is_apply() {
        if query.get("fieldManager").is_empty() {
            errors.push(FieldError::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
    } else if call.method == Method::PATCH && query.has("force") {
        let why = "may not be specified for non-apply patch";
        errors.push(FieldError::forbidden(&Path::new("force"), why));
    }
    errors.extend(meta_rules::check_field_manager(query.get("fieldManager")));
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    errors.extend(check_dry_run(&dry_run));
    if FieldValidation::parse(query.get("fieldValidation")).is_none() {
        let path = Path::new("fieldValidation");
        let supported = ["", "Ignore", "Strict", "Warn"];
        errors.push(FieldError::not_supported(&path, query.get("fieldValidation"), &supported));
    }
    checked(kind, &errors)?;
    Ok(!dry_run.is_empty())
}

fn kind_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "CreateOptions",
        Method::PATCH => "PatchOptions",
        _ => "UpdateOptions",
    }
}

fn check_dry_run(values: &[&str]) -> Option<FieldError> {
    let is_known = values.iter().all(|value| DRY_RUN.contains(value));
    (!is_known).then(|| FieldError::not_supported(&Path::new("dryRun"), values.to_vec(), &DRY_RUN))
}

/// What a client asks of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub uid: String,
    pub resource_version: String,
    /// `Orphan`, `Background`, `Foreground`, or empty.
    pub policy: String,
    pub orphan_dependents: Option<bool>,
    pub dry_run: bool,
    /// Also when it cannot be read (`ignoreStoreReadErrorWithClusterBreakingPotential`), which is not done here.
    pub even_unreadable: bool,
    /// Whether it was admitted as something else already (an eviction).
    pub admitted: bool,
}

impl DeleteOptions {
    pub fn parse(call: &Call) -> Result<Self, Status> {
        let value = decode::delete_options(call)?;
        let dry_run: Vec<&str> = value.texts("dryRun").collect();
        checked("DeleteOptions", &check_deletion(&value, &dry_run))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            // Less than nothing counts as a second.
            grace_seconds: value["gracePeriodSeconds"].as_i64().map(|seconds| match seconds {
                ..0 => 1,
                seconds => seconds,
            }),
            uid: text(&value["preconditions"]["uid"]),
            resource_version: text(&value["preconditions"]["resourceVersion"]),
            policy: text(&value["propagationPolicy"]),
            orphan_dependents: value["orphanDependents"].as_bool(),
            // Upstream does not look at the query when there is a body, and deletes.
            dry_run: !dry_run.is_empty() || call.query.all("dryRun").any(|value| value == "All"),
            even_unreadable: value[UNREADABLE].as_bool().unwrap_or_default(),
            admitted: false,
        })
    }
}

fn check_deletion(options: &Value, dry_run: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("propagationPolicy");
    if let Some(policy) = options["propagationPolicy"].as_str() {
        if !options["orphanDependents"].is_null() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy, why));
        }
        if !matches!(policy, "Orphan" | "Background" | "Foreground") {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported(&path, policy, &supported));
        }
    }
    errors.extend(check_dry_run(dry_run));
    if options[UNREADABLE].as_bool() == Some(true) {
        for field in ["propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"] {
            if !options[field].is_null() {
                let why = format!("cannot be set together with .{field}");
                errors.push(FieldError::invalid(&Path::new(UNREADABLE), true, why));
            }
        }
    }
    errors
}

/// 422 for who would delete a collection whatever can be read of it.
pub(crate) fn not_of_a_collection() -> Status {
    let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
    let error = FieldError::invalid(&Path::new(UNREADABLE), true, why);
    Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error])
}

/// The options of a list, a watch, or the deletion of a collection.
pub(crate) struct ListOptions {
    pub selection: Selection,
    pub bookmarks: bool,
    /// `resourceVersion`, as it was sent.
    pub version: String,
    /// `Exact`, `NotOlderThan`, or empty.
    pub matching: String,
    /// Of a watch.
    pub timeout_seconds: Option<i64>,
    /// Objects a page; none when it is not given.
    pub limit: Option<usize>,
    /// `continue`.
    pub token: String,
    pub initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the options. `name`: that of the URL, or of the field selector.
    pub fn parse(kind: &Kind, query: &Query, name: &str) -> Result<Self, Status> {
        let text = |name: &str| query.get(name).to_owned();
        let timeout_seconds = query.number("timeoutSeconds")?;
        let limit = query.number("limit")?.filter(|limit| *limit > 0);
        let options = Self {
            selection: Selection::read(kind, query)?,
            bookmarks: query.flag("allowWatchBookmarks"),
            version: text("resourceVersion"),
            matching: text("resourceVersionMatch"),
            timeout_seconds,
            limit: limit.and_then(|limit| usize::try_from(limit).ok()),
            token: text("continue"),
            initial_events: query.switch("sendInitialEvents"),
        };
        let errors = if query.flag("watch") { options.check_watch() } else { options.check_list() };
        checked("ListOptions", &errors)?;
        options.selection.check()?;
        if !name.is_empty() && options.selection.names_another(name) {
            return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        Ok(options)
    }

    fn check_list(&self) -> Vec<FieldError> {
        let (matching, mut errors) = (self.matching.as_str(), Vec::new());
        let path = Path::new("resourceVersionMatch");
        if !matching.is_empty() && self.version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if !matching.is_empty() && !self.token.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if !matches!(matching, "" | "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && self.version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(&path, why));
        }
        if self.initial_events.is_some() {
            let why = "sendInitialEvents is forbidden for list";
            errors.push(FieldError::forbidden(&Path::new("sendInitialEvents"), why));
        }
        errors
    }

    fn check_watch(&self) -> Vec<FieldError> {
        let (matching, mut errors) = (self.matching.as_str(), Vec::new());
        let path = Path::new("resourceVersionMatch");
        if self.initial_events.is_some() && matching != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(&path, why));
        }
        // A watch from now, or from anything, gets initial events by default.
        let is_legacy = self.initial_events.is_none() && matches!(self.version.as_str(), "" | "0");
        if matching.is_empty() && !is_legacy {
            return errors;
        }
        if !matching.is_empty() && self.initial_events.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if !matches!(matching, "" | "NotOlderThan") {
            errors.push(FieldError::not_supported(&path, matching, &["NotOlderThan"]));
        }
        if !self.token.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        errors
    }

    /// The revision that a list asks for; none when it is not given.
    pub fn revision(&self) -> Result<Option<i64>, Status> {
        let refused = |error| Status::bad_request(format!("invalid resource version: {error}"));
        crate::registry::revision(&self.version).map_err(refused)
    }

    /// The revision that a watch asks for; none when it is not given.
    pub fn watch_revision(&self) -> Result<Option<i64>, Status> {
        crate::registry::revision(&self.version).map_err(|error| Status::unknown(error.to_string()))
    }
}
