//! The table of kinds: `resources.rs` of the generated sources.

use crate::codegen::HEADER;
use crate::messages::path;
use crate::tables::{Message, Row};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fmt::Write;

/// Generates the table of resources and the list of groups.
pub fn generate(rows: &[Row], priorities: &[Row], messages: &[Message]) -> Result<String> {
    let by_name: HashMap<(&str, String), &Message> =
        messages.iter().map(|m| ((m.name.as_str(), package_group(&m.package)), m)).collect();
    let mut out = format!(
        "{HEADER}\nuse crate::generated::*;\nuse crate::table::{{Group, GroupVersion, Resource, Subresource}};\nuse crate::text::{{List, Text}};\n\nconst fn t(text: &'static str) -> Text {{\n    Text::Static(text)\n}}\n\n"
    );
    let parents: Vec<&Row> = rows.iter().filter(|r| r.get("subresource").is_empty()).collect();
    writeln!(out, "pub(crate) static RESOURCES: [Resource; {}] = [", parents.len())?;
    for parent in &parents {
        write_resource(&mut out, parent, rows, &by_name)?;
    }
    writeln!(out, "];\n")?;
    write_groups(&mut out, &parents, priorities)?;
    Ok(out)
}

type ByName<'a> = HashMap<(&'a str, String), &'a Message>;

fn write_resource(out: &mut String, row: &Row, rows: &[Row], messages: &ByName<'_>) -> Result<()> {
    let stored = row.get("etcd_key_prefix").trim_matches('-');
    let (storage_group, storage_version) = match row.get("storage_version") {
        "-" | "" => ("", ""),
        text => text.split_once('/').unwrap_or(("", text)),
    };
    writeln!(
        out,
        "    Resource {{ group: t({:?}), version: t({:?}), resource: t({:?}), singular: t({:?}), kind: t({:?}), list_kind: t({:?}), namespaced: {}, verbs: &{:?},\n        short_names: {}, categories: {}, storage_prefix: t({stored:?}), storage_group: t({storage_group:?}), storage_version: t({storage_version:?}), storage_version_hash: t({:?}),\n        message: Some(&{}), preferred_version: t({:?}), served_by_default: {}, feature_gate: {:?}, introduced: {:?}, deprecated: {:?}, removed: {:?}, subresources: List::Static(&[",
        row.get("group"),
        row.get("version"),
        row.get("resource"),
        row.get("singular"),
        row.get("kind"),
        format!("{}List", row.get("kind")),
        row.get("namespaced"),
        row.list("verbs"),
        texts(&row.list("short_names")),
        texts(&row.list("categories")),
        row.get("storage_version_hash"),
        message_of(row, messages)?,
        row.get("group_preferred_version"),
        row.get("served_by_default") == "yes",
        row.get("feature_gate"),
        row.get("introduced"),
        row.get("deprecated"),
        row.get("removed"),
    )?;
    let same = |other: &&Row| {
        ["group", "version", "resource"].iter().all(|c| other.get(c) == row.get(c))
            && !other.get("subresource").is_empty()
    };
    for sub in rows.iter().filter(same) {
        let (group, version) = response_group_version(sub);
        writeln!(
            out,
            "            Subresource {{ name: {:?}, kind: t({:?}), group: t({group:?}), version: t({version:?}), verbs: &{:?}, message: Some(&{}), served_by_default: {} }},",
            sub.get("subresource"),
            sub.get("kind"),
            sub.list("verbs"),
            message_of(sub, messages)?,
            sub.get("served_by_default") == "yes",
        )?;
    }
    writeln!(out, "    ]) }},")?;
    Ok(())
}

/// A list of texts as the table writes it.
fn texts(list: &[&str]) -> String {
    let items: Vec<String> = list.iter().map(|text| format!("t({text:?})")).collect();
    format!("List::Static(&[{}])", items.join(", "))
}

fn response_group_version(row: &Row) -> (&str, &str) {
    match row.get("response_group_version_if_different") {
        "" => (row.get("group"), row.get("version")),
        text => text.split_once('/').unwrap_or(("", text)),
    }
}

fn message_of(row: &Row, messages: &ByName<'_>) -> Result<String> {
    let (group, version) = response_group_version(row);
    let key = (row.get("kind"), format!("{}.{version}", group_package(group)));
    let message = messages.get(&key).with_context(|| format!("no message for {key:?}"))?;
    Ok(path(message))
}

/// `apps` of `apps`, `core` of the core group, `rbac` of `rbac.authorization.k8s.io`.
fn group_package(group: &str) -> &str {
    match group {
        "" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        other => other.split('.').next().unwrap_or(other),
    }
}

/// The last two parts of a package: `core.v1`.
fn package_group(package: &str) -> String {
    let parts: Vec<&str> = package.rsplitn(3, '.').collect();
    format!("{}.{}", parts[1], parts[0])
}

/// Versions of a group with their priority.
type Versions<'a> = Vec<(&'a str, i32)>;

/// Groups by falling minimum priority, their versions by falling version priority.
fn write_groups(out: &mut String, resources: &[&Row], priorities: &[Row]) -> Result<()> {
    let number = |row: &Row, column: &str| row.get(column).parse::<i32>().unwrap_or_default();
    let mut groups: Vec<(&str, i32, Versions<'_>)> = Vec::new();
    for row in priorities {
        let (group, version) = (row.get("group"), row.get("version"));
        if !resources.iter().any(|r| r.get("group") == group && r.get("version") == version) {
            continue;
        }
        let priority = (version, number(row, "version_priority"));
        match groups.iter_mut().find(|g| g.0 == group) {
            Some(found) => found.2.push(priority),
            None => groups.push((group, number(row, "group_priority_minimum"), vec![priority])),
        }
    }
    groups.sort_by_key(|g| std::cmp::Reverse(g.1));
    // The aggregator's own group has no APIService; discovery lists it right behind the core group.
    for row in resources {
        if !groups.iter().any(|g| g.0 == row.get("group")) {
            groups.insert(1, (row.get("group"), 0, vec![(row.get("version"), 0)]));
        }
    }
    writeln!(out, "pub(crate) static GROUPS: [Group; {}] = [", groups.len())?;
    for (name, priority, mut versions) in groups {
        versions.sort_by_key(|v| std::cmp::Reverse(v.1));
        let preferred =
            resources.iter().find(|r| r.get("group") == name).map(|r| r.get("group_preferred_version"));
        writeln!(
            out,
            "    Group {{ name: {name:?}, priority: {priority}, preferred_version: {:?}, versions: &[",
            preferred.unwrap_or_default()
        )?;
        for (version, priority) in versions {
            let served = resources.iter().any(|r| {
                r.get("group") == name && r.get("version") == version && r.get("served_by_default") == "yes"
            });
            writeln!(
                out,
                "        GroupVersion {{ version: {version:?}, priority: {priority}, served_by_default: {served} }},"
            )?;
        }
        writeln!(out, "    ] }},")?;
    }
    writeln!(out, "];")?;
    Ok(())
}
