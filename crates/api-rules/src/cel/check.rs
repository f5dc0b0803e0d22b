//! What an expression gives, and what is wrong with it before it runs: names that nobody declared, fields that a kind
//! does not have, operators between values that never fit (upstream: cel-go's checker over the declared types).
//!
//! What this does not know for sure it lets pass: [`Kind::Unknown`] fits everything.

use std::fmt;

use api_types::schema::{MessageId, Shape, Type};
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, StructExpr, operators,
};

use super::Scope;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Not known here.
    Unknown,
    /// Anything, known when it runs only.
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Null,
    Duration,
    Timestamp,
    List(Box<Kind>),
    /// With string keys.
    Map(Box<Kind>),
    /// A kind or a part of one.
    Message(MessageId),
    /// A type by its name: `Object`, `Object.spec`, `JSONPatch`, `kubernetes.AdmissionRequest`.
    Named(String),
}

impl Kind {
    /// `list(JSONPatch)`.
    pub fn patches() -> Self {
        Self::List(Box::new(Self::Named("JSONPatch".to_owned())))
    }

    /// `Object`.
    pub fn object() -> Self {
        Self::Named("Object".to_owned())
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Unknown | Self::Dyn)
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether it may be missing.
    fn takes_null(&self) -> bool {
        matches!(self, Self::Null | Self::Duration | Self::Timestamp | Self::Message(_) | Self::Named(_))
    }

    /// Whether values of both may be the same.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (a, b) if a.is_open() || b.is_open() => true,
            (Self::Null, other) | (other, Self::Null) => other.takes_null(),
            (Self::List(a), Self::List(b)) | (Self::Map(a), Self::Map(b)) => a.fits(b),
            (Self::Map(_), Self::Message(_) | Self::Named(_))
            | (Self::Message(_) | Self::Named(_), Self::Map(_)) => true,
            (a, b) => a == b,
        }
    }

    /// What is known of a value that is one or the other.
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.join(*b))),
            (Self::Unknown, b) => b,
            (a, Self::Unknown) => a,
            (Self::Null, b) => b,
            (a, Self::Null) => a,
            _ => Self::Dyn,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown | Self::Dyn => f.write_str("dyn"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Null => f.write_str("null"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(of) => write!(f, "map(string, {of})"),
            Self::Message(id) => f.write_str(id.name),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// What `object`, `oldObject` and `params` are; none when only the request tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schema {
    pub object: Option<MessageId>,
    pub params: Option<MessageId>,
}

/// What an expression gives over objects of a schema, and what is wrong with it there.
pub fn warnings(source: &str, scope: &Scope, schema: &Schema) -> (Kind, Vec<String>) {
    match super::parse(source) {
        Ok(parsed) => {
            let found = check(source, &parsed, scope, schema);
            (found.kind, found.issues)
        }
        // It was refused when it was written.
        Err(_) => (Kind::Unknown, Vec::new()),
    }
}

/// What a check found.
pub(super) struct Checked {
    pub kind: Kind,
    pub issues: Vec<String>,
    pub misplaced: Option<String>,
}

pub(super) fn check(source: &str, parsed: &IdedExpr, scope: &Scope, schema: &Schema) -> Checked {
    let mut checker =
        Checker { source, scope, schema, locals: Vec::new(), issues: Vec::new(), misplaced: None };
    let kind = checker.infer(parsed);
    Checked { kind, issues: checker.issues, misplaced: checker.misplaced }
}

/// Bytes of a line that an error shows.
const MAX_SHOWN: usize = 1024;

/// An error at a place of a source, as cel-go prints it.
pub(crate) fn issue(source: &str, line: isize, column: isize, text: &str) -> String {
    let at = usize::try_from(line - 1).unwrap_or(0);
    let shown = source.lines().nth(at).unwrap_or_default();
    if shown.len() > MAX_SHOWN {
        return format!("ERROR: <input>:{line}:{column}: {text}");
    }
    // What is not ASCII is taken for twice as wide.
    let place = usize::try_from(column - 1).unwrap_or(0);
    let letters = shown.chars().map(Some).chain(std::iter::repeat(None));
    let dots =
        letters.take(place).map(|letter| if letter.is_some_and(|l| !l.is_ascii()) { '．' } else { '.' });
    let dots: String = dots.collect();
    let mark = if shown.chars().nth(place).is_some_and(|letter| !letter.is_ascii()) { '＾' } else { '^' };
    let shown = shown.replace('\t', " ");
    format!("ERROR: <input>:{line}:{column}: {text}\n | {shown}\n | {dots}{mark}")
}

/// Names that stand for types or for what functions are called by.
pub(super) const NAMESPACES: &[&str] =
    &["sets", "optional", "strings", "jsonpatch", "format", "ip", "cidr", "google", "kubernetes", "lists"];
pub(super) const TYPES: &[&str] = &[
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "dyn",
    "timestamp",
    "duration",
];

/// Functions and what they give; none for what depends.
const FUNCTIONS: &[(&str, Option<Kind>)] = &[
    ("size", Some(Kind::Int)),
    ("contains", Some(Kind::Bool)),
    ("startsWith", Some(Kind::Bool)),
    ("endsWith", Some(Kind::Bool)),
    ("matches", Some(Kind::Bool)),
    ("string", Some(Kind::String)),
    ("bytes", Some(Kind::Bytes)),
    ("double", Some(Kind::Double)),
    ("int", Some(Kind::Int)),
    ("uint", Some(Kind::Uint)),
    ("bool", Some(Kind::Bool)),
    ("dyn", Some(Kind::Dyn)),
    ("type", None),
    ("duration", Some(Kind::Duration)),
    ("timestamp", Some(Kind::Timestamp)),
    ("getFullYear", Some(Kind::Int)),
    ("getMonth", Some(Kind::Int)),
    ("getDayOfYear", Some(Kind::Int)),
    ("getDayOfMonth", Some(Kind::Int)),
    ("getDate", Some(Kind::Int)),
    ("getDayOfWeek", Some(Kind::Int)),
    ("getHours", Some(Kind::Int)),
    ("getMinutes", Some(Kind::Int)),
    ("getSeconds", Some(Kind::Int)),
    ("getMilliseconds", Some(Kind::Int)),
    ("max", None),
    ("min", None),
    ("sum", None),
    ("isSorted", Some(Kind::Bool)),
    ("indexOf", Some(Kind::Int)),
    ("lastIndexOf", Some(Kind::Int)),
    ("charAt", Some(Kind::String)),
    ("lowerAscii", Some(Kind::String)),
    ("upperAscii", Some(Kind::String)),
    ("replace", Some(Kind::String)),
    ("split", None),
    ("substring", Some(Kind::String)),
    ("trim", Some(Kind::String)),
    ("join", Some(Kind::String)),
    ("reverse", None),
    ("quote", Some(Kind::String)),
    ("format", None),
    ("find", Some(Kind::String)),
    ("findAll", None),
    ("url", None),
    ("isURL", Some(Kind::Bool)),
    ("getScheme", Some(Kind::String)),
    ("getHost", Some(Kind::String)),
    ("getHostname", Some(Kind::String)),
    ("getPort", Some(Kind::String)),
    ("getEscapedPath", Some(Kind::String)),
    ("getQuery", None),
    ("ip", None),
    ("isIP", Some(Kind::Bool)),
    ("isCanonical", Some(Kind::Bool)),
    ("family", Some(Kind::Int)),
    ("isUnspecified", Some(Kind::Bool)),
    ("isLoopback", Some(Kind::Bool)),
    ("isLinkLocalMulticast", Some(Kind::Bool)),
    ("isLinkLocalUnicast", Some(Kind::Bool)),
    ("isGlobalUnicast", Some(Kind::Bool)),
    ("cidr", None),
    ("isCIDR", Some(Kind::Bool)),
    ("containsIP", Some(Kind::Bool)),
    ("containsCIDR", Some(Kind::Bool)),
    ("masked", None),
    ("prefixLength", Some(Kind::Int)),
    ("quantity", None),
    ("isQuantity", Some(Kind::Bool)),
    ("sign", Some(Kind::Int)),
    ("isInteger", Some(Kind::Bool)),
    ("asInteger", Some(Kind::Int)),
    ("asApproximateFloat", Some(Kind::Double)),
    ("add", None),
    ("sub", None),
    ("isGreaterThan", Some(Kind::Bool)),
    ("isLessThan", Some(Kind::Bool)),
    ("compareTo", Some(Kind::Int)),
    ("semver", None),
    ("isSemver", Some(Kind::Bool)),
    ("major", Some(Kind::Int)),
    ("minor", Some(Kind::Int)),
    ("patch", Some(Kind::Int)),
    ("named", None),
    ("validate", None),
    ("dns1123Label", None),
    ("dns1123Subdomain", None),
    ("dns1035Label", None),
    ("qualifiedName", None),
    ("dns1123LabelPrefix", None),
    ("dns1123SubdomainPrefix", None),
    ("dns1035LabelPrefix", None),
    ("labelValue", None),
    ("uri", None),
    ("uuid", None),
    ("byte", None),
    ("date", None),
    ("datetime", None),
    ("equivalent", Some(Kind::Bool)),
    ("intersects", Some(Kind::Bool)),
    ("escapeKey", Some(Kind::String)),
    ("of", None),
    ("none", None),
    ("ofNonZeroValue", None),
    ("value", None),
    ("unwrapOpt", None),
    ("hasValue", Some(Kind::Bool)),
    ("or", None),
    ("orValue", None),
    ("optMap", None),
    ("optFlatMap", None),
    ("path", None),
    ("group", None),
    ("resource", None),
    ("subresource", None),
    ("namespace", None),
    ("name", None),
    ("serviceAccount", None),
    ("check", None),
    ("fieldSelector", None),
    ("labelSelector", None),
    ("allowed", Some(Kind::Bool)),
    ("reason", Some(Kind::String)),
    ("errored", Some(Kind::Bool)),
    ("error", Some(Kind::String)),
    ("distinct", None),
    ("first", None),
    ("last", None),
    ("flatten", None),
    ("range", None),
    ("slice", None),
    ("sort", None),
    (operators::NOT_STRICTLY_FALSE, Some(Kind::Bool)),
];

/// Fields of `request` and `namespaceObject` (upstream: `BuildRequestType`, `BuildNamespaceType`), and of `device`.
fn request_field(of: &str, field: &str) -> Option<Kind> {
    let named = |name: &str| Some(Kind::Named(format!("kubernetes.{name}")));
    match (of, field) {
        ("kubernetes.AdmissionRequest", "kind" | "requestKind") => named("GroupVersionKind"),
        ("kubernetes.AdmissionRequest", "resource" | "requestResource") => named("GroupVersionResource"),
        ("kubernetes.AdmissionRequest", "userInfo") => named("UserInfo"),
        (
            "kubernetes.AdmissionRequest",
            "subResource" | "requestSubResource" | "name" | "namespace" | "operation",
        ) => Some(Kind::String),
        ("kubernetes.AdmissionRequest", "dryRun") => Some(Kind::Bool),
        ("kubernetes.AdmissionRequest", "options") => Some(Kind::Dyn),
        ("kubernetes.Namespace", "metadata") => named("NamespaceMetadata"),
        ("kubernetes.Namespace", "spec") => named("NamespaceSpec"),
        ("kubernetes.Namespace", "status") => named("NamespaceStatus"),
        (
            "kubernetes.NamespaceMetadata",
            "name" | "generateName" | "namespace" | "UID" | "resourceVersion",
        ) => Some(Kind::String),
        ("kubernetes.NamespaceMetadata", "labels" | "annotations") => Some(Kind::Map(Box::new(Kind::String))),
        ("kubernetes.NamespaceMetadata", "creationTimestamp" | "deletionTimestamp") => Some(Kind::Timestamp),
        ("kubernetes.NamespaceMetadata", "deletionGracePeriodSeconds" | "generation") => Some(Kind::Int),
        ("kubernetes.NamespaceMetadata" | "kubernetes.NamespaceSpec", "finalizers") => {
            Some(Kind::List(Box::new(Kind::String)))
        }
        ("kubernetes.NamespaceStatus", "phase") => Some(Kind::String),
        ("kubernetes.NamespaceStatus", "conditions") => {
            Some(Kind::List(Box::new(Kind::Named("kubernetes.NamespaceCondition".to_owned()))))
        }
        ("kubernetes.NamespaceCondition", "lastTransitionTime") => Some(Kind::Timestamp),
        ("kubernetes.NamespaceCondition", "status" | "type" | "message" | "reason") => Some(Kind::String),
        ("kubernetes.GroupVersionKind", "group" | "version" | "kind") => Some(Kind::String),
        ("kubernetes.GroupVersionResource", "group" | "version" | "resource") => Some(Kind::String),
        ("kubernetes.DRADevice", "driver") => Some(Kind::String),
        ("kubernetes.DRADevice", "allowMultipleAllocations") => Some(Kind::Bool),
        ("kubernetes.DRADevice", "attributes" | "capacity") => {
            Some(Kind::Map(Box::new(Kind::Map(Box::new(Kind::Dyn)))))
        }
        ("kubernetes.UserInfo", "username" | "uid") => Some(Kind::String),
        ("kubernetes.UserInfo", "groups") => Some(Kind::List(Box::new(Kind::String))),
        ("kubernetes.UserInfo", "extra") => Some(Kind::Map(Box::new(Kind::List(Box::new(Kind::String))))),
        _ => None,
    }
}

struct Checker<'a> {
    source: &'a str,
    scope: &'a Scope,
    schema: &'a Schema,
    locals: Vec<(String, Kind)>,
    issues: Vec<String>,
    /// An object literal that stands where another one belongs.
    misplaced: Option<String>,
}

impl Checker<'_> {
    /// Notes what is wrong, at the first place where `near` stands.
    fn report(&mut self, near: &str, text: &str) {
        let offset = self.source.find(near).unwrap_or(0);
        let before = &self.source[..offset];
        let line = before.matches('\n').count();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[start..].chars().count();
        let as_number = |count: usize| isize::try_from(count + 1).unwrap_or(1);
        let text = issue(self.source, as_number(line), as_number(column), text);
        if !self.issues.contains(&text) {
            self.issues.push(text);
        }
    }

    fn undeclared(&mut self, name: &str) {
        self.report(name, &format!("undeclared reference to '{name}' (in container '')"));
    }

    fn no_overload(&mut self, operator: &str, near: &str, arguments: &[&Kind]) {
        let names: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let text = format!("found no matching overload for '{operator}' applied to '({})'", names.join(", "));
        self.report(near, &text);
    }

    fn infer(&mut self, at: &IdedExpr) -> Kind {
        match &at.expr {
            Expr::Unspecified => Kind::Unknown,
            Expr::Literal(value) => match value {
                LiteralValue::Boolean(_) => Kind::Bool,
                LiteralValue::Bytes(_) => Kind::Bytes,
                LiteralValue::Double(_) => Kind::Double,
                LiteralValue::Int(_) => Kind::Int,
                LiteralValue::Null => Kind::Null,
                LiteralValue::String(_) => Kind::String,
                LiteralValue::UInt(_) => Kind::Uint,
            },
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let kinds: Vec<Kind> = list.elements.iter().map(|element| self.infer(element)).collect();
                Kind::List(Box::new(kinds.into_iter().reduce(Kind::join).unwrap_or(Kind::Unknown)))
            }
            Expr::Map(map) => {
                let mut value = Kind::Unknown;
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.infer(&entry.key);
                        value = value.join(self.infer(&entry.value));
                    }
                }
                Kind::Map(Box::new(value))
            }
            Expr::Struct(object) => self.object(object),
            Expr::Comprehension(loops) => self.comprehension(loops),
        }
    }

    fn ident(&mut self, name: &str) -> Kind {
        if let Some((_, kind)) = self.locals.iter().rev().find(|(own, _)| own == name) {
            return kind.clone();
        }
        let of = |schema: Option<MessageId>| schema.map_or(Kind::Dyn, Kind::Message);
        let for_all = TYPES.contains(&name) || NAMESPACES.contains(&name);
        match name {
            "device" if self.scope.device => Kind::Named("kubernetes.DRADevice".to_owned()),
            name if self.scope.device && !for_all => {
                self.undeclared(name);
                Kind::Unknown
            }
            "object" | "oldObject" => of(self.schema.object),
            "request" => Kind::Named("kubernetes.AdmissionRequest".to_owned()),
            "namespaceObject" => Kind::Named("kubernetes.Namespace".to_owned()),
            "params" if self.scope.params => of(self.schema.params),
            "authorizer" if self.scope.authorizer => Kind::Unknown,
            "variables" if self.has_variables() => Kind::Unknown,
            _ if for_all => Kind::Unknown,
            _ => {
                self.undeclared(name);
                Kind::Unknown
            }
        }
    }

    fn has_variables(&self) -> bool {
        self.scope.composed || !self.scope.variables.is_empty()
    }

    fn select(&mut self, select: &SelectExpr) -> Kind {
        let field = select.field.as_str();
        let kind = match &select.operand.expr {
            Expr::Ident(name) if name == "variables" && self.has_variables() => {
                let found = self.scope.variables.iter().find(|(own, _)| own == field);
                match found {
                    Some((_, kind)) => kind.clone(),
                    None => self.undefined(field),
                }
            }
            _ => {
                let operand = self.infer(&select.operand);
                self.field(&operand, field)
            }
        };
        if select.test { Kind::Bool } else { kind }
    }

    fn undefined(&mut self, field: &str) -> Kind {
        let near = format!(".{field}");
        let near = if self.source.contains(&near) { near } else { field.to_owned() };
        self.report(&near, &format!("undefined field '{field}'"));
        Kind::Unknown
    }

    fn field(&mut self, operand: &Kind, field: &str) -> Kind {
        match operand {
            Kind::Unknown | Kind::Dyn => operand.clone(),
            Kind::Map(value) => (**value).clone(),
            Kind::Message(id) => match id.special {
                Some(_) => Kind::Unknown,
                None => message_field(id, field).unwrap_or_else(|| self.undefined(field)),
            },
            Kind::Named(name) if name.starts_with("kubernetes.") => {
                request_field(name, field).unwrap_or_else(|| self.undefined(field))
            }
            Kind::Named(_) => Kind::Unknown,
            other => {
                let text = format!("type '{other}' does not support field selection");
                self.report(&format!(".{field}"), &text);
                Kind::Unknown
            }
        }
    }

    fn object(&mut self, object: &StructExpr) -> Kind {
        let name = object.type_name.as_str();
        let known = name == "JSONPatch" || name == "Object" || name.starts_with("Object.");
        if !self.scope.patches || !known {
            self.undeclared(name);
        }
        for entry in &object.entries {
            if let EntryExpr::StructField(field) = &entry.expr {
                if name == "JSONPatch" && !matches!(field.field.as_str(), "op" | "from" | "path" | "value") {
                    self.undefined(&field.field);
                }
                if name != "JSONPatch" {
                    self.place(&format!("{name}.{}", field.field), &field.value);
                }
                self.infer(&field.value);
            }
        }
        Kind::Named(name.to_owned())
    }

    /// Notes an object literal whose name is not the path of the field that it stands in.
    fn place(&mut self, path: &str, value: &IdedExpr) {
        match &value.expr {
            Expr::List(list) => list.elements.iter().for_each(|element| self.place(path, element)),
            Expr::Struct(object) if object.type_name != path => {
                let text = format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    object.type_name
                );
                self.misplaced.get_or_insert(text);
            }
            _ => {}
        }
    }

    fn comprehension(&mut self, loops: &ComprehensionExpr) -> Kind {
        let element = match self.infer(&loops.iter_range) {
            Kind::List(of) => *of,
            Kind::Map(_) => Kind::String,
            kind if kind.is_open() => kind,
            Kind::Message(_) | Kind::Named(_) => Kind::Unknown,
            other => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report("", &text);
                Kind::Unknown
            }
        };
        let start = self.infer(&loops.accu_init);
        let depth = self.locals.len();
        self.locals.push((loops.accu_var.clone(), start.clone()));
        self.locals.push((loops.iter_var.clone(), element));
        self.locals.extend(loops.iter_var2.clone().map(|name| (name, Kind::Unknown)));
        let stepped = self.infer(&loops.loop_step);
        self.locals.truncate(depth);
        self.locals.push((loops.accu_var.clone(), start.join(stepped)));
        let result = self.infer(&loops.result);
        self.locals.truncate(depth);
        result
    }

    fn call(&mut self, call: &CallExpr) -> Kind {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (operators::OPT_SELECT, [operand, field]) => {
                let operand = self.infer(operand);
                if let (Expr::Literal(LiteralValue::String(field)), Kind::Message(_)) =
                    (&field.expr, &operand)
                {
                    self.field(&operand, field.inner());
                }
                return Kind::Unknown;
            }
            ("bind", [IdedExpr { expr: Expr::Ident(variable), .. }, value, body]) if self.scope.device => {
                let value = self.infer(value);
                self.locals.push((variable.clone(), value));
                let found = self.infer(body);
                self.locals.pop();
                return found;
            }
            ("optMap" | "optFlatMap", [IdedExpr { expr: Expr::Ident(variable), .. }, body]) => {
                call.target.iter().for_each(|target| {
                    self.infer(target);
                });
                self.locals.push((variable.clone(), Kind::Unknown));
                self.infer(body);
                self.locals.pop();
                return Kind::Unknown;
            }
            _ => {}
        }
        let target = call.target.as_ref().map(|target| self.infer(target));
        let arguments: Vec<Kind> = call.args.iter().map(|argument| self.infer(argument)).collect();
        match arguments.as_slice() {
            [condition, yes, no] if name == operators::CONDITIONAL => {
                if !condition.fits(&Kind::Bool) || !yes.fits(no) {
                    self.no_overload(name, "?", &[condition, yes, no]);
                }
                yes.clone().join(no.clone())
            }
            [a, b] if name.starts_with('_') || name == operators::IN => self.binary(name, a, b),
            [a] if name == operators::LOGICAL_NOT => {
                if !a.fits(&Kind::Bool) {
                    self.no_overload(name, "!", &[a]);
                }
                Kind::Bool
            }
            [a] if name == operators::NEGATE => {
                if !a.is_open() && !a.is_number() && *a != Kind::Duration {
                    self.no_overload(name, "-", &[a]);
                }
                a.clone()
            }
            _ => self.function(name, target.as_ref(), &arguments),
        }
    }

    fn binary(&mut self, name: &str, a: &Kind, b: &Kind) -> Kind {
        let symbol = name.trim_matches('_').to_owned();
        let open = a.is_open() || b.is_open();
        let (good, result) = match name {
            operators::LOGICAL_AND | operators::LOGICAL_OR => {
                (a.fits(&Kind::Bool) && b.fits(&Kind::Bool), Kind::Bool)
            }
            operators::EQUALS | operators::NOT_EQUALS => {
                (a.fits(b) || (a.is_number() && b.is_number()), Kind::Bool)
            }
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => {
                let ordered =
                    matches!(a, Kind::String | Kind::Bool | Kind::Bytes | Kind::Duration | Kind::Timestamp);
                (open || (a.is_number() && b.is_number()) || (ordered && a == b), Kind::Bool)
            }
            operators::ADD | operators::SUBSTRACT if is_time(a) || is_time(b) => (true, Kind::Unknown),
            operators::ADD => {
                let texts = matches!(a, Kind::String | Kind::Bytes) && a == b;
                let lists = matches!((a, b), (Kind::List(_), Kind::List(_)));
                (open || texts || lists || (a.is_number() && a == b), known(a, b))
            }
            operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO => {
                (open || (a.is_number() && a == b), known(a, b))
            }
            operators::IN => match b {
                Kind::List(of) => (a.fits(of), Kind::Bool),
                Kind::Map(_) => (a.fits(&Kind::String), Kind::Bool),
                Kind::Message(_) | Kind::Named(_) => (true, Kind::Bool),
                other => (other.is_open(), Kind::Bool),
            },
            operators::INDEX | operators::OPT_INDEX => {
                let result = match a {
                    Kind::List(of) | Kind::Map(of) => (**of).clone(),
                    _ => Kind::Unknown,
                };
                let good = match a {
                    Kind::List(_) => b.is_open() || b.is_number(),
                    Kind::Map(_) => b.fits(&Kind::String),
                    Kind::Message(_) | Kind::Named(_) => true,
                    other => other.is_open(),
                };
                (good, if name == operators::OPT_INDEX { Kind::Unknown } else { result })
            }
            _ => (true, Kind::Unknown),
        };
        if !good {
            let near = match name {
                operators::IN => " in ".to_owned(),
                operators::INDEX | operators::OPT_INDEX => "[".to_owned(),
                _ => symbol,
            };
            self.no_overload(name, &near, &[a, b]);
        }
        result
    }

    fn function(&mut self, name: &str, target: Option<&Kind>, arguments: &[Kind]) -> Kind {
        let Some((_, result)) = FUNCTIONS.iter().find(|(own, _)| *own == name) else {
            self.undeclared(name);
            return Kind::Unknown;
        };
        if let Some(target) = target
            && matches!(
                name,
                "startsWith" | "endsWith" | "matches" | "lowerAscii" | "upperAscii" | "trim" | "split"
            )
            && !target.is_open()
            && *target != Kind::String
        {
            let names: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            let text = format!(
                "found no matching overload for '{name}' applied to '{target}.({})'",
                names.join(", ")
            );
            self.report(&format!(".{name}"), &text);
        }
        result.clone().unwrap_or(Kind::Unknown)
    }
}

fn is_time(kind: &Kind) -> bool {
    matches!(kind, Kind::Duration | Kind::Timestamp)
}

/// What an operator gives that takes two of one kind: what is known of either tells the other.
fn known(a: &Kind, b: &Kind) -> Kind {
    match (a.is_open(), b.is_open()) {
        (true, true) => Kind::Dyn,
        (true, false) => b.clone(),
        (false, true) => a.clone(),
        (false, false) => a.clone().join(b.clone()),
    }
}

/// The kind of a message's field; none when it has no such field.
fn message_field(id: MessageId, field: &str) -> Option<Kind> {
    if id.typed && matches!(field, "kind" | "apiVersion") {
        return Some(Kind::String);
    }
    let info = id.field(field)?;
    let one = match info.ty {
        Type::Bool => Kind::Bool,
        Type::Int32 | Type::Int64 => Kind::Int,
        Type::Double => Kind::Double,
        Type::String => Kind::String,
        Type::Bytes => Kind::Bytes,
        Type::Message(inner) if inner.special.is_some() => Kind::Unknown,
        Type::Message(inner) => Kind::Message(inner),
    };
    Some(match info.shape {
        Shape::Single => one,
        Shape::List => Kind::List(Box::new(one)),
        Shape::Map => Kind::Map(Box::new(one)),
    })
}
