//! The JSON paths that definitions use in columns, scales and selectable fields: fields, indexes, wildcards and
//! comparisons with a constant (`.status.conditions[?(@.type=="Ready")].status`).

use serde_json::Value;

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Every,
    /// Elements whose value at a path equals a constant, or differs from it.
    Where(Vec<Step>, bool, Value),
}

/// A path, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads a path; `None` when it has another form than those that are known.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, more) = if let Some(inner) = rest.strip_prefix('[') {
                bracket(inner)?
            } else {
                let name = rest.strip_prefix('.').unwrap_or(rest);
                let end = field_end(name);
                (field(&name[..end])?, &name[end..])
            };
            steps.push(step);
            rest = more;
        }
        Some(JsonPath(steps))
    }

    /// The first value at the path.
    pub fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        let mut found = Vec::new();
        walk(&self.0, object, &mut found);
        found.first().copied()
    }

    /// Names of a path of plain fields.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let name = |step: &'_ Step| matches!(step, Step::Field(_));
        self.0.iter().all(name).then(|| {
            self.0
                .iter()
                .filter_map(|s| if let Step::Field(name) = s { Some(name.as_str()) } else { None })
                .collect()
        })
    }
}

/// Bytes up to the next `.` or `[`; a backslash takes the next character as it is.
fn field_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return at,
            _ => escaped = false,
        }
    }
    text.len()
}

fn field(text: &str) -> Option<Step> {
    match text {
        "" => None,
        "*" => Some(Step::Every),
        name => Some(Step::Field(name.replace('\\', ""))),
    }
}

/// What stands in brackets, and what follows them.
fn bracket(inner: &str) -> Option<(Step, &str)> {
    if let Some(filter) = inner.strip_prefix("?(") {
        let end = filter.find(")]")?;
        return Some((condition(&filter[..end])?, &filter[end + 2..]));
    }
    let end = inner.find(']')?;
    let (text, rest) = (inner[..end].trim(), &inner[end + 1..]);
    if text == "*" {
        return Some((Step::Every, rest));
    }
    if let Ok(index) = text.parse() {
        return Some((Step::Index(index), rest));
    }
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let name = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some((Step::Field(name.to_owned()), rest))
}

fn condition(text: &str) -> Option<Step> {
    let (left, equal, right) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((left, right)), _) => (left, true, right),
        (None, Some((left, right))) => (left, false, right),
        _ => return None,
    };
    let path = JsonPath::parse(left.trim().strip_prefix('@')?)?;
    let right = right.trim();
    let single = right.strip_prefix('\'').and_then(|r| r.strip_suffix('\''));
    let constant = match single {
        Some(text) => Value::from(text),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Where(path.0, equal, constant))
}

fn walk<'a>(steps: &[Step], value: &'a Value, found: &mut Vec<&'a Value>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push(value);
        return;
    };
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => {
            map.get(name).into_iter().for_each(|child| walk(rest, child, found));
        }
        (Step::Index(index), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let at = if *index < 0 { index + length } else { *index };
            let child = usize::try_from(at).ok().and_then(|at| items.get(at));
            child.into_iter().for_each(|child| walk(rest, child, found));
        }
        (Step::Every, Value::Array(items)) => items.iter().for_each(|child| walk(rest, child, found)),
        (Step::Every, Value::Object(map)) => map.values().for_each(|child| walk(rest, child, found)),
        (Step::Where(path, equal, constant), Value::Array(items)) => {
            for item in items {
                let mut values = Vec::new();
                walk(path, item, &mut values);
                if values.first().is_some_and(|value| (*value == constant) == *equal) {
                    walk(rest, item, found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_columns_show() {
        let object = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let first = |path: &str| JsonPath::parse(path).and_then(|p| p.first(&object).cloned());
        assert_eq!(first(".spec.list[1].v"), Some(json!(2)));
        assert_eq!(first(".spec.list[-1].n"), Some(json!("y")));
        assert_eq!(first(".spec.list[*].n"), Some(json!("x")));
        assert_eq!(first(r#".status.conditions[?(@.type=="Ready")].status"#), Some(json!("True")));
        assert_eq!(first(".status.conditions[?(@.type=='Other')].status"), None);
        assert_eq!(first("['spec']['a.b']"), Some(json!(1)));
        assert_eq!(first(r".spec.a\.b"), Some(json!(1)));
        assert_eq!(JsonPath::parse(".spec.x[?(@.a=~1)]"), None);
        assert_eq!(JsonPath::parse(".spec.size").unwrap().fields(), Some(vec!["spec", "size"]));
    }
}
