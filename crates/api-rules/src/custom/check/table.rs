//! The functions that expressions know, out of `data/cel-functions.txt`.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::types::Type;

/// One way to call a function. Unknown types are numbered from 0.
#[derive(Debug)]
pub(super) struct Overload {
    /// Whether the first argument stands before the function's name.
    pub is_method: bool,
    pub arguments: Vec<Type<'static>>,
    pub result: Type<'static>,
    /// How many types are left open.
    pub open: usize,
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut table: HashMap<&str, Vec<Overload>> = HashMap::new();
    let lines = include_str!("../../../data/cel-functions.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let (name, overload) = overload(line).expect("invariant: the table is well formed");
        table.entry(name).or_default().push(overload);
    }
    table
});

/// The ways to call a function; none when there is no such function.
pub(super) fn overloads(name: &str) -> Option<&'static [Overload]> {
    TABLE.get(name).map(Vec::as_slice)
}

fn overload(line: &'static str) -> Option<(&'static str, Overload)> {
    let (call, result) = line.split_once(" -> ")?;
    let (name, signature) = call.split_once(' ')?;
    let (target, arguments) = match signature.strip_prefix('(') {
        Some(arguments) => (None, arguments),
        None => signature.split_once(".(").map(|(target, rest)| (Some(target), rest))?,
    };
    let arguments = arguments.strip_suffix(')')?;
    let mut letters = Vec::new();
    let mut types: Vec<Type<'static>> = target.iter().map(|text| read(text, &mut letters)).collect();
    types.extend(split(arguments).into_iter().map(|text| read(text, &mut letters)));
    let result = read(result, &mut letters);
    Some((name, Overload { is_method: target.is_some(), arguments: types, result, open: letters.len() }))
}

/// What stands between commas that are in no brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn read(text: &str, letters: &mut Vec<String>) -> Type<'static> {
    if let Some((name, inner)) = text.split_once('(') {
        let mut parts =
            split(inner.strip_suffix(')').unwrap_or(inner)).into_iter().map(|part| read(part, letters));
        let first = Box::new(parts.next().unwrap_or(Type::Dyn));
        return match name {
            "list" => Type::List(first),
            "map" => Type::map(*first, parts.next().unwrap_or(Type::Dyn)),
            "optional_type" => Type::Optional(first),
            _ => Type::Meta(first),
        };
    }
    if text.starts_with('<') {
        let number = letters.iter().position(|letter| letter == text).unwrap_or_else(|| {
            letters.push(text.to_owned());
            letters.len() - 1
        });
        return Type::Var(number);
    }
    named(text).unwrap_or_else(|| Type::Named(text.to_owned()))
}

/// The plain types, by the names that expressions have for them.
pub(super) fn named(name: &str) -> Option<Type<'static>> {
    Some(match name {
        "dyn" => Type::Dyn,
        "null_type" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let shown = |name: &str| {
            let all = overloads(name).unwrap().iter();
            all.map(|one| {
                let arguments: Vec<String> = one.arguments.iter().map(ToString::to_string).collect();
                format!(
                    "{}({}) {} {}",
                    if one.is_method { "." } else { "" },
                    arguments.join(" "),
                    one.result,
                    one.open
                )
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(shown("getQuery"), [".(kubernetes.URL) map(string, list(string)) 0"]);
        assert_eq!(shown("@in"), ["(_var0 list(_var0)) bool 1", "(_var0 map(_var0, _var1)) bool 2"]);
        assert_eq!(shown("optional.none"), ["() optional_type(_var0) 1"]);
        assert!(overloads("nope").is_none());
    }
}
