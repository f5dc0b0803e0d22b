//! Reads the fact tables: tab-separated text with a header row, and the OpenAPI facts.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One row of a table, by column name.
pub struct Row(HashMap<String, String>);

impl Row {
    /// The cell of `column`; an absent or empty cell is `""`.
    pub fn get(&self, column: &str) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    /// The cell of `column`, split at commas.
    pub fn list(&self, column: &str) -> Vec<&str> {
        self.get(column).split(',').filter(|s| !s.is_empty()).collect()
    }
}

/// The rows of one `.tsv` file.
pub fn rows(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().context("a table has a header")?.split('\t').collect();
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let cells = line.split('\t').map(str::to_owned);
            Row(header.iter().map(|h| (*h).to_owned()).zip(cells).collect())
        })
        .collect())
}

/// A field as `fields.tsv` has it.
pub struct Field {
    pub json_name: String,
    pub flags: String,
    pub number: u32,
    pub ty: String,
    pub label: String,
    pub go_type: String,
}

/// A message with its fields in the order of the Go struct, which is the order of the JSON encoding.
pub struct Message {
    pub package: String,
    pub name: String,
    pub fields: Vec<Field>,
}

impl Message {
    /// `k8s.io.api.core.v1` and `Pod` give `io.k8s.api.core.v1.Pod`.
    pub fn openapi_name(&self) -> String {
        let path = self.package.strip_prefix("k8s.io.").unwrap_or(&self.package);
        let path = path
            .replace("apiextensions_apiserver", "apiextensions-apiserver")
            .replace("kube_aggregator", "kube-aggregator");
        format!("io.k8s.{path}.{}", self.name)
    }
}

/// All messages of `fields.tsv`, in file order.
pub fn messages(path: &Path) -> Result<Vec<Message>> {
    let mut messages: Vec<Message> = Vec::new();
    for row in rows(path)? {
        if row.get("kind") == "message" {
            messages.push(Message {
                package: row.get("package").into(),
                name: row.get("message").into(),
                fields: vec![],
            });
            continue;
        }
        let message = messages.last_mut().context("a field follows its message")?;
        anyhow::ensure!(
            message.name == row.get("message"),
            "field of another message: {}",
            row.get("message")
        );
        message.fields.push(Field {
            json_name: row.get("json_name").into(),
            flags: row.get("json_flags").into(),
            number: row.get("number").parse().context("field number")?,
            ty: row.get("type").into(),
            label: row.get("label").into(),
            go_type: row.get("go_type").into(),
        });
    }
    Ok(messages)
}

/// The OpenAPI definitions by name.
pub fn openapi(path: &Path) -> Result<BTreeMap<String, Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).context("openapi facts")
}
