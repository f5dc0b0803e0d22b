//! JSON patch (RFC 6902) with the reach and the messages of the library upstream uses: negative indices count from
//! the end, a test for null passes on a missing field. No step makes the document deeper than documents may be, so that
//! it can always be walked, copied and dropped.

use super::PatchError;
use api_types::codec::{self, MAX_DEPTH};
use serde_json::Value;

/// Most operations one patch may have.
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that the copy operations of one patch may add.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Applies the operations in order; the first that fails refuses the whole patch.
pub fn json_patch(mut doc: Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::BadRequest(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(),
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    for operation in operations {
        apply(&mut doc, operation, &mut copied).map_err(PatchError::Unprocessable)?;
    }
    Ok(doc)
}

fn apply(doc: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), String> {
    let field = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = field("op").unwrap_or("unknown");
    if !matches!(kind, "add" | "remove" | "replace" | "move" | "test" | "copy") {
        return Err(format!("Unexpected kind: {kind}"));
    }
    let path =
        field("path").ok_or_else(|| format!("{kind} operation failed to decode path: missing value"))?;
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => add(doc, path, value(), "add operation does not apply: doc is missing path"),
        "remove" => remove(doc, path, kind).map(drop),
        "replace" => replace(doc, path, value()),
        "test" => test(doc, path, &value()),
        _ => {
            let from = field("from")
                .ok_or_else(|| format!("{kind} operation failed to decode from: missing value"))?;
            let moved = if kind == "move" { remove(doc, from, kind)? } else { copy(doc, from, copied)? };
            add(
                doc,
                path,
                moved,
                &format!("{kind} operation does not apply: doc is missing destination path"),
            )
        }
    }
}

/// The parent of the last step, and that step.
fn parent<'a>(doc: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (front, last) = path.rsplit_once('/')?;
    let mut here = doc;
    for step in front.split('/').skip(1) {
        let step = unescape(step);
        here = match here {
            Value::Object(object) => object.get_mut(&step)?,
            Value::Array(list) => {
                let index = index_of(&step, list.len()).ok()?;
                list.get_mut(index)?
            }
            _ => return None,
        };
    }
    (here.is_object() || here.is_array()).then(|| (here, unescape(last)))
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

fn index_of(step: &str, length: usize) -> Result<usize, String> {
    let index: i64 = step
        .parse()
        .map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", api_types::field::quote(step)))?;
    let wrapped = if index < 0 { index + length as i64 } else { index };
    usize::try_from(wrapped)
        .map_err(|_| format!("Unable to access invalid index: {index}: invalid index referenced"))
}

/// Refuses a value that would be too deep where a path leads. Paths lead no deeper than the document is, so the value is
/// all there is to look at.
fn check_depth(path: &str, value: &Value) -> Result<(), String> {
    let room = MAX_DEPTH.saturating_sub(path.matches('/').count());
    match codec::is_deeper(value, room) {
        true => Err("exceeded max depth".to_owned()),
        false => Ok(()),
    }
}

fn add(doc: &mut Value, path: &str, value: Value, missing: &str) -> Result<(), String> {
    check_depth(path, &value)?;
    if path.is_empty() {
        *doc = value;
        return Ok(());
    }
    match parent(doc, path) {
        Some((Value::Object(object), key)) => {
            object.insert(key, value);
            Ok(())
        }
        Some((Value::Array(list), step)) => {
            let index = if step == "-" { list.len() } else { index_of(&step, list.len() + 1)? };
            if index > list.len() {
                return Err(format!(
                    "error in add for path: '{path}': Unable to access invalid index: {index}: invalid index referenced"
                ));
            }
            list.insert(index, value);
            Ok(())
        }
        _ => Err(format!("{missing}: \"{path}\": missing value")),
    }
}

fn remove(doc: &mut Value, path: &str, kind: &str) -> Result<Value, String> {
    let place = if kind == "move" { "from path" } else { "path" };
    match parent(doc, path) {
        Some((Value::Object(object), key)) => object.remove(&key).ok_or_else(|| {
            format!(
                "error in {kind} for path: '{path}': Unable to remove nonexistent key: {key}: missing value"
            )
        }),
        Some((Value::Array(list), step)) => {
            let index = index_of(&step, list.len())?;
            if index >= list.len() {
                return Err(format!(
                    "error in {kind} for path: '{path}': Unable to access invalid index: {index}: invalid index referenced"
                ));
            }
            Ok(list.remove(index))
        }
        _ => {
            Err(format!("{kind} operation does not apply: doc is missing {place}: \"{path}\": missing value"))
        }
    }
}

fn replace(doc: &mut Value, path: &str, value: Value) -> Result<(), String> {
    check_depth(path, &value)?;
    if path.is_empty() {
        *doc = value;
        return Ok(());
    }
    // What is missing in an object is put there, as upstream's library does it.
    match parent(doc, path) {
        None => {
            return Err(format!(
                "replace operation does not apply: doc is missing path: {path}: missing value"
            ));
        }
        Some((Value::Object(object), key)) => {
            object.insert(key, value);
            return Ok(());
        }
        Some(_) => {}
    }
    match find(doc, path) {
        Some(place) => {
            *place = value;
            Ok(())
        }
        None => Err(format!("replace operation does not apply: doc is missing key: {path}: missing value")),
    }
}

fn find<'a>(doc: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    match parent(doc, path)? {
        (Value::Object(object), key) => object.get_mut(&key),
        (Value::Array(list), step) => {
            let index = index_of(&step, list.len()).ok()?;
            list.get_mut(index)
        }
        _ => None,
    }
}

fn test(doc: &mut Value, path: &str, want: &Value) -> Result<(), String> {
    if !path.is_empty() && parent(doc, path).is_none() {
        return Err(format!("test operation does not apply: is missing path: {path}: missing value"));
    }
    let found = if path.is_empty() { Some(&*doc) } else { find(doc, path).map(|v| &*v) };
    if found.unwrap_or(&Value::Null) == want {
        Ok(())
    } else {
        Err(format!("testing value {path} failed: test failed"))
    }
}

fn copy(doc: &mut Value, from: &str, copied: &mut usize) -> Result<Value, String> {
    let value = find(doc, from).map(|v| v.clone()).ok_or_else(|| {
        format!("copy operation does not apply: doc is missing from path: {from}: missing value")
    })?;
    *copied += value.to_string().len();
    if *copied > MAX_COPIED_BYTES {
        return Err(format!(
            "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(doc: Value, patch: Value) -> Result<Value, String> {
        json_patch(doc.clone(), &patch).map_err(|e| e.to_string())
    }

    #[test]
    fn operations() {
        let doc = json!({"a": [1, 2], "b": {"c/d": 1}});
        assert_eq!(
            run(doc.clone(), json!([{"op": "add", "path": "/a/-", "value": 3}])).unwrap()["a"],
            json!([1, 2, 3])
        );
        assert_eq!(
            run(doc.clone(), json!([{"op": "add", "path": "/a/0", "value": 3}])).unwrap()["a"],
            json!([3, 1, 2])
        );
        assert_eq!(run(doc.clone(), json!([{"op": "remove", "path": "/a/-1"}])).unwrap()["a"], json!([1]));
        assert_eq!(
            run(doc.clone(), json!([{"op": "replace", "path": "/b/c~1d", "value": 2}])).unwrap()["b"],
            json!({"c/d": 2})
        );
        assert_eq!(
            run(doc.clone(), json!([{"op": "move", "from": "/a/0", "path": "/b/x"}])).unwrap(),
            json!({"a": [2], "b": {"c/d": 1, "x": 1}})
        );
        assert_eq!(
            run(doc.clone(), json!([{"op": "copy", "from": "/b", "path": "/a/1"}])).unwrap()["a"],
            json!([1, {"c/d": 1}, 2])
        );
        assert!(run(doc.clone(), json!([{"op": "test", "path": "/a/1", "value": 2}])).is_ok());
        assert!(run(doc, json!([{"op": "test", "path": "/zzz", "value": null}])).is_ok());
    }

    #[test]
    fn failures_say_why() {
        let doc = json!({"a": 1});
        for (operation, want) in [
            (json!({"op": "test", "path": "/a", "value": 2}), "testing value /a failed: test failed"),
            (
                json!({"op": "add", "path": "/x/y", "value": 2}),
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!({"op": "replace", "path": "/x/y", "value": 2}),
                "replace operation does not apply: doc is missing path: /x/y: missing value",
            ),
            (
                json!({"op": "remove", "path": "/x"}),
                "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value",
            ),
            (json!({"op": "frob", "path": "/x"}), "Unexpected kind: frob"),
        ] {
            assert_eq!(run(doc.clone(), json!([operation])).unwrap_err(), want);
        }
        assert!(matches!(json_patch(doc.clone(), &json!({})), Err(PatchError::BadRequest(_))));
        // Each step doubles the depth, or adds to it, and so the stack that it takes to walk or drop the outcome.
        let mut paths = vec![String::from("/a")];
        for _ in 0..12 {
            let last = paths.last().unwrap();
            paths.push(format!("{last}{last}"));
        }
        let copies =
            paths.iter().map(|path| json!({"op": "copy", "from": "/a", "path": format!("{path}/a")}));
        let deep = json!({"a": {"a": {}}});
        assert_eq!(run(deep.clone(), copies.collect()).unwrap_err(), "exceeded max depth");
        let tower = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"a": inner}));
        let adds =
            (0..200).map(|at| json!({"op": "add", "path": "/a".repeat(at * 100 + 1), "value": tower(100)}));
        assert_eq!(run(deep.clone(), adds.collect()).unwrap_err(), "exceeded max depth");
        let moved = json!([{"op": "add", "path": "/b", "value": tower(100)}, {"op": "move", "from": "/b", "path": "/a/a/b"},
            {"op": "add", "path": "/a/a/c", "value": tower(124)}, {"op": "move", "from": "/a/a/c", "path": "/a/a/b/a/a"}]);
        assert_eq!(run(deep, moved).unwrap_err(), "exceeded max depth");
        let many = vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1];
        assert!(matches!(json_patch(doc.clone(), &Value::Array(many)), Err(PatchError::TooLarge(_))));
    }
}
