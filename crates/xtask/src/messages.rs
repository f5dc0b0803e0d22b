//! Messages and fields become one static a message, one file an API package.

use crate::codegen::{Files, HEADER};
use crate::tables::{Field, Message};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// `MAX_FIELDS` of `api_types::schema`.
const MAX_FIELDS: usize = 64;

type OpenApi = BTreeMap<String, Value>;

/// One file a package plus `mod.rs` with the list of all messages.
pub fn generate(messages: &[Message], openapi: &OpenApi) -> Result<Files> {
    let mut files = Files::new();
    let known: HashMap<String, &Message> =
        messages.iter().map(|m| (format!("{}.{}", m.package, m.name), m)).collect();
    let mut packages: BTreeMap<&str, Vec<&Message>> = BTreeMap::new();
    for message in messages {
        packages.entry(&message.package).or_default().push(message);
    }
    let mut root = format!("{HEADER}\n");
    for package in packages.keys() {
        writeln!(root, "pub(crate) mod {};", module(package))?;
    }
    writeln!(root, "pub(crate) mod resources;\n\nuse crate::schema::MessageInfo;\n")?;
    writeln!(root, "/// Every message, sorted by name.")?;
    writeln!(root, "pub(crate) static MESSAGES: [&MessageInfo; {}] = [", messages.len())?;
    let mut all: Vec<&Message> = messages.iter().collect();
    all.sort_by_key(|m| m.openapi_name());
    for message in all {
        writeln!(root, "    &{},", path(message))?;
    }
    writeln!(root, "];")?;
    files.insert("mod.rs".into(), root);
    for (package, list) in packages {
        files.insert(format!("{}.rs", module(package)), package_file(package, &list, &known, openapi)?);
    }
    Ok(files)
}

fn package_file(
    package: &str,
    messages: &[&Message],
    known: &HashMap<String, &Message>,
    openapi: &OpenApi,
) -> Result<String> {
    let mut out = format!("{HEADER}\n#[allow(clippy::wildcard_imports)]\nuse crate::schema::build::*;\n\n");
    let mut names = BTreeSet::new();
    for message in messages {
        ensure!(
            names.insert(constant(&message.name)),
            "two statics {} in {package}",
            constant(&message.name)
        );
        write_message(&mut out, message, known, openapi)
            .with_context(|| format!("message {}.{}", package, message.name))?;
    }
    Ok(out)
}

fn write_message(
    out: &mut String,
    message: &Message,
    known: &HashMap<String, &Message>,
    openapi: &OpenApi,
) -> Result<()> {
    let definition = openapi.get(&message.openapi_name());
    let facts_of_fields = definition.or_else(|| host_definition(message, known, openapi));
    let name = constant(&message.name);
    write!(out, "pub(crate) static {name}: MessageInfo = message({:?})", message.openapi_name())?;
    let gvks = kinds(message, definition);
    if !gvks.is_empty() {
        write!(out, ".kinds(&{gvks:?})")?;
    }
    if let Some(special) = special(message) {
        write!(out, ".special(Special::{special})")?;
    }
    if has_type_meta(message, definition) {
        write!(out, ".typed()")?;
    }
    if let Some(map_type) = definition.and_then(|d| d["x-kubernetes-map-type"].as_str()) {
        write!(out, ".map_type({map_type:?})")?;
    }
    check_numbers(message)?;
    if message.fields.is_empty() || special(message).is_some_and(|s| !s.starts_with("Props")) {
        writeln!(out, ";")?;
        return Ok(());
    }
    writeln!(out, ".fields(&[")?;
    let required: Vec<&str> = facts_of_fields
        .and_then(|d| d["required"].as_array())
        .map(|r| r.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    for field in &message.fields {
        let facts = facts_of_fields.map(|d| &d["properties"][field.json_name.as_str()]);
        write!(out, "    {}", field_code(message, field, known)?)?;
        if required.contains(&field.json_name.as_str()) {
            write!(out, ".required()")?;
        }
        if message.name == "StatefulSetSpec" && field.json_name == "volumeClaimTemplates" {
            write!(out, ".typed_items()")?;
        }
        if let Some(facts) = facts {
            write_facts(out, field, facts)?;
        }
        writeln!(out, ",")?;
    }
    writeln!(out, "]);")?;
    Ok(())
}

/// `field("spec", 2, &SPEC, "v1.PodSpec").omit_empty()`…
fn field_code(message: &Message, field: &Field, known: &HashMap<String, &Message>) -> Result<String> {
    let inline = field.json_name == "(inline)";
    let json_name = if inline || field.json_name == "-" { "" } else { &field.json_name };
    let map_value = field.ty.strip_prefix("map<string,").and_then(|t| t.strip_suffix('>'));
    let ty = type_code(message, map_value.unwrap_or(&field.ty), known)?;
    let go_type = field.go_type.trim_start_matches('*');
    let mut code = format!("field({json_name:?}, {}, {ty}, {go_type:?})", field.number);
    match field.label.as_str() {
        "optional" => {}
        "repeated" => code.push_str(".repeated()"),
        "map" => code.push_str(".map()"),
        other => bail!("label {other}"),
    }
    if field.go_type.starts_with('*') {
        code.push_str(".pointer()");
    }
    if field.flags.contains("omitempty") {
        code.push_str(".omit_empty()");
    }
    if field.flags.contains("omitzero") {
        code.push_str(".omit_zero()");
    }
    if inline {
        code.push_str(".inline()");
    }
    Ok(code)
}

fn type_code(message: &Message, ty: &str, known: &HashMap<String, &Message>) -> Result<String> {
    Ok(match ty {
        "bool" => "Type::Bool".into(),
        "int32" => "Type::Int32".into(),
        "int64" => "Type::Int64".into(),
        "double" => "Type::Double".into(),
        "string" => "Type::String".into(),
        "bytes" => "Type::Bytes".into(),
        other => {
            let full = match other.strip_prefix('.') {
                Some(full) => full.to_owned(),
                None => format!("{}.{other}", message.package),
            };
            let target = known.get(&full).with_context(|| format!("type {full}"))?;
            if target.package == message.package {
                format!("Type::Message(&{})", constant(&target.name))
            } else {
                format!("Type::Message(&super::{})", path(target))
            }
        }
    })
}

/// The definition of a message that embeds this one: OpenAPI knows embedded structs only there.
fn host_definition<'a>(
    message: &Message,
    known: &HashMap<String, &Message>,
    openapi: &'a OpenApi,
) -> Option<&'a Value> {
    let embeds = |host: &&&Message| {
        let is_this = |ty: &str| match ty.strip_prefix('.') {
            Some(full) => full == format!("{}.{}", message.package, message.name),
            None => host.package == message.package && ty == message.name,
        };
        host.fields.iter().any(|f| f.json_name == "(inline)" && is_this(&f.ty))
    };
    let mut hosts: Vec<&&Message> = known.values().filter(embeds).collect();
    hosts.sort_by_key(|h| h.openapi_name());
    hosts
        .into_iter()
        .find_map(|host| openapi.get(&host.openapi_name()).or_else(|| host_definition(host, known, openapi)))
}

fn write_facts(out: &mut String, field: &Field, facts: &Value) -> Result<()> {
    let text = |key: &str| facts[key].as_str().unwrap_or_default();
    let list = |value: &'_ Value| -> Vec<String> {
        let texts = |a: &Vec<Value>| a.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        value.as_array().map(texts).unwrap_or_default()
    };
    let strings = |key: &str| list(&facts[key]);
    let list_type = text("x-kubernetes-list-type");
    if !list_type.is_empty() {
        write!(out, ".list({list_type:?}, &{:?})", strings("x-kubernetes-list-map-keys"))?;
    }
    if !text("x-kubernetes-map-type").is_empty() {
        write!(out, ".map_type({:?})", text("x-kubernetes-map-type"))?;
    }
    let (strategy, key) = (text("x-kubernetes-patch-strategy"), text("x-kubernetes-patch-merge-key"));
    if !strategy.is_empty() || !key.is_empty() {
        write!(out, ".patch({strategy:?}, {key:?})")?;
    }
    if let Some(default) = facts.get("default").filter(|d| worth_keeping(field, d)) {
        write!(out, ".default({:?})", default.to_string())?;
    }
    for values in [&facts["enum"], &facts["items"]["enum"], &facts["additionalProperties"]["enum"]] {
        if !list(values).is_empty() {
            write!(out, ".values(&{:?})", list(values))?;
        }
    }
    Ok(())
}

/// The zero default of a field that is neither a pointer nor omitted follows from its type; so does `{}` of a struct.
fn worth_keeping(field: &Field, default: &Value) -> bool {
    let pointer = field.go_type.starts_with('*');
    let follows = !pointer && !field.flags.contains("omitempty");
    match default {
        Value::Object(o) => !o.is_empty() || pointer,
        Value::String(s) => !s.is_empty() || !follows,
        Value::Number(n) => n.as_i64() != Some(0) || !follows,
        Value::Bool(b) => *b || !follows,
        _ => false,
    }
}

/// Sets of fields have a bit an index, or a bit a number.
fn check_numbers(message: &Message) -> Result<()> {
    ensure!(message.fields.len() <= MAX_FIELDS, "more than {MAX_FIELDS} fields");
    let numbers_fit = message.fields.iter().all(|field| (field.number as usize) < MAX_FIELDS);
    ensure!(numbers_fit, "a field has a number of {MAX_FIELDS} or more");
    Ok(())
}

/// (group, version, kind) triples: from OpenAPI, else from the package for objects and lists.
fn kinds(message: &Message, definition: Option<&Value>) -> Vec<(String, String, String)> {
    if let Some(gvks) = definition.and_then(|d| d["gvk"].as_array()) {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        return gvks.iter().map(|g| (text(&g[0]), text(&g[1]), text(&g[2]))).collect();
    }
    let is_object = message
        .fields
        .iter()
        .any(|f| f.json_name == "metadata" && (f.ty.ends_with("ObjectMeta") || f.ty.ends_with("ListMeta")));
    let options = ["core.v1", "meta.v1"].iter().any(|p| message.package.ends_with(p))
        && message.name.ends_with("Options");
    let review = ["AdmissionReview", "ConversionReview"].contains(&message.name.as_str());
    let template = message.name.ends_with("Template") || message.name == "JobTemplateSpec";
    if (!is_object && !options && !review) || template || message.name.ends_with("TemplateSpec") {
        return vec![];
    }
    let (group, version) = group_version(&message.package);
    vec![(group, version, message.name.clone())]
}

fn group_version(package: &str) -> (String, String) {
    let mut parts = package.rsplit('.');
    let version = parts.next().unwrap_or_default();
    let group = match parts.next().unwrap_or_default() {
        "core" => "",
        "rbac" => "rbac.authorization.k8s.io",
        "flowcontrol" => "flowcontrol.apiserver.k8s.io",
        "apiserverinternal" => "internal.apiserver.k8s.io",
        "custom_metrics" => "custom.metrics.k8s.io",
        "external_metrics" => "external.metrics.k8s.io",
        plain @ ("apps" | "batch" | "autoscaling" | "policy" | "extensions") => plain,
        other => return (format!("{other}.k8s.io"), version.into()),
    };
    (group.into(), version.into())
}

/// Whether the Go struct embeds TypeMeta: `kind` and `apiVersion` are JSON fields without a protobuf field.
fn has_type_meta(message: &Message, definition: Option<&Value>) -> bool {
    let own = message.fields.iter().any(|f| f.json_name == "apiVersion" || f.json_name == "kind");
    match definition.map(|d| &d["properties"]) {
        _ if own => false,
        Some(properties) => properties.get("apiVersion").is_some() && properties.get("kind").is_some(),
        None => !kinds(message, None).is_empty(),
    }
}

fn special(message: &Message) -> Option<&'static str> {
    Some(match message.name.as_str() {
        "Quantity" | "QuantityValue" => "Quantity",
        "IntOrString" => "IntOrString",
        "Time" => "Time",
        "MicroTime" => "MicroTime",
        "Duration" => "Duration",
        "RawExtension" | "FieldsV1" | "JSON" => "Raw",
        "Verbs" | "ExtraValue" | "AttestationValue" => "Strings",
        "JSONSchemaPropsOrArray" => "PropsOrArray",
        "JSONSchemaPropsOrBool" => "PropsOrBool",
        "JSONSchemaPropsOrStringArray" => "PropsOrStrings",
        _ => return None,
    })
}

/// `core_v1::POD`.
pub fn path(message: &Message) -> String {
    format!("{}::{}", module(&message.package), constant(&message.name))
}

/// `k8s.io.api.core.v1` gives `core_v1`.
fn module(package: &str) -> String {
    let path = package.trim_start_matches("k8s.io.");
    let parts: Vec<&str> =
        path.split('.').filter(|p| !["api", "apis", "pkg", "apimachinery", "util"].contains(p)).collect();
    let parts = match parts.as_slice() {
        [outer, rest @ ..]
            if rest.len() >= 2 && outer.contains('_') || *outer == "metrics" && rest.len() >= 2 =>
        {
            rest
        }
        all => all,
    };
    parts.join("_")
}

/// `PodSpec` gives `POD_SPEC`; runs of capitals stay together (`CSIDriver` gives `CSI_DRIVER`).
fn constant(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let before_lower = chars.get(i + 1).is_some_and(char::is_ascii_lowercase);
        let after_lower = i > 0 && !chars[i - 1].is_ascii_uppercase();
        if i > 0 && c.is_ascii_uppercase() && (after_lower || before_lower) {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}
