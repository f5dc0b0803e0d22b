//! Custom objects are stored as JSON text. Their resourceVersion is put into the text at its sorted place, without
//! decoding it.

use super::CodecError;

/// Copies `json` with `metadata.resourceVersion` set (nothing is added when `version` is empty).
pub(super) fn write(json: &[u8], version: &str, out: &mut Vec<u8>) -> Result<(), CodecError> {
    if version.is_empty() {
        out.extend_from_slice(json);
        return Ok(());
    }
    let Some(metadata) = member(json, 0, |key| key == b"metadata")? else {
        return Err(CodecError::Raw("the object has no metadata".into()));
    };
    let place = place_for_version(json, metadata.value)?;
    out.extend_from_slice(&json[..place.at]);
    if place.comma_before {
        out.push(b',');
    }
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(version.as_bytes());
    out.push(b'"');
    if place.comma_after {
        out.push(b',');
    }
    out.extend_from_slice(&json[place.resume..]);
    Ok(())
}

struct Place {
    at: usize,
    /// Where copying goes on (behind an old resourceVersion).
    resume: usize,
    comma_before: bool,
    comma_after: bool,
}

/// The place of the first key that does not sort before `resourceVersion`, else the end of the object.
fn place_for_version(json: &[u8], metadata: usize) -> Result<Place, CodecError> {
    match member(json, metadata, |key| key >= b"resourceVersion".as_slice())? {
        Some(found) if found.name(json) == b"resourceVersion" => {
            Ok(Place { at: found.key, resume: found.end, comma_before: false, comma_after: false })
        }
        Some(found) => Ok(Place { at: found.key, resume: found.key, comma_before: false, comma_after: true }),
        None => {
            let close = skip_value(json, metadata)? - 1;
            let empty = json[metadata + 1..close].iter().all(u8::is_ascii_whitespace);
            Ok(Place { at: close, resume: close, comma_before: !empty, comma_after: false })
        }
    }
}

/// A member of an object: where its key (with the quote), its value and the end of its value stand.
pub(super) struct Member {
    pub(super) key: usize,
    pub(super) key_end: usize,
    pub(super) value: usize,
    pub(super) end: usize,
}

impl Member {
    pub(super) fn name<'a>(&self, json: &'a [u8]) -> &'a [u8] {
        &json[self.key + 1..self.key_end - 1]
    }
}

/// The first member of the object at `at` whose key (escapes not resolved) is wanted.
pub(super) fn member(
    json: &[u8],
    at: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Option<Member>, CodecError> {
    let mut at = space(json, at);
    if json.get(at) != Some(&b'{') {
        return Err(broken());
    }
    at = space(json, at + 1);
    while json.get(at) == Some(&b'"') {
        let key_end = skip_string(json, at)?;
        let colon = space(json, key_end);
        if json.get(colon) != Some(&b':') {
            return Err(broken());
        }
        let value = space(json, colon + 1);
        let end = skip_value(json, value)?;
        let found = Member { key: at, key_end, value, end };
        if wanted(found.name(json)) {
            return Ok(Some(found));
        }
        at = space(json, end);
        match json.get(at) {
            Some(b',') => at = space(json, at + 1),
            Some(b'}') => return Ok(None),
            _ => return Err(broken()),
        }
    }
    Ok(None)
}

fn broken() -> CodecError {
    CodecError::Raw("a stored object is not whole".into())
}

fn space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// The index behind the string that starts at `at`.
fn skip_string(json: &[u8], at: usize) -> Result<usize, CodecError> {
    let mut at = at + 1;
    loop {
        match json.get(at).ok_or_else(broken)? {
            b'"' => return Ok(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The index behind the value that starts at `at`.
fn skip_value(json: &[u8], at: usize) -> Result<usize, CodecError> {
    let mut at = space(json, at);
    let mut depth = 0_usize;
    loop {
        match json.get(at).ok_or_else(broken)? {
            b'"' => at = skip_string(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1).ok_or_else(broken)?;
                at += 1;
            }
            b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' if depth > 0 => {
                at += 1;
                continue;
            }
            _ => {
                let end =
                    json[at..].iter().position(|b| b" \n\r\t,:}]".contains(b)).unwrap_or(json.len() - at);
                if end == 0 {
                    return Err(broken());
                }
                at += end;
            }
        }
        if depth == 0 {
            return Ok(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(json: &str) -> String {
        let mut out = Vec::new();
        write(json.as_bytes(), "7", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_version_goes_to_its_sorted_place() {
        for (json, expected) in [
            (
                r#"{"a":{"metadata":{}},"metadata":{}}"#,
                r#"{"a":{"metadata":{}},"metadata":{"resourceVersion":"7"}}"#,
            ),
            (
                r#"{"metadata":{"name":"}","uid":"u"},"z":[1,{"x":null}]}"#,
                r#"{"metadata":{"name":"}","resourceVersion":"7","uid":"u"},"z":[1,{"x":null}]}"#,
            ),
            (r#"{"metadata":{"name":"a\""}}"#, r#"{"metadata":{"name":"a\"","resourceVersion":"7"}}"#),
            (
                r#"{"metadata":{"resourceVersion":"1","uid":"u"}}"#,
                r#"{"metadata":{"resourceVersion":"7","uid":"u"}}"#,
            ),
        ] {
            assert_eq!(filled(json), expected);
        }
    }

    #[test]
    fn broken_text_is_refused() {
        for json in ["", "{", "[]", r#"{"metadata""#, r#"{"metadata":{"#, r#"{"spec":1}"#, r#"{"metadata":}"#]
        {
            assert!(write(json.as_bytes(), "7", &mut Vec::new()).is_err(), "{json}");
        }
    }
}
