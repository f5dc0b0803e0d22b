use super::*;
use serde_json::{Value, json};

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "a": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"},
        "ios": {"x-kubernetes-int-or-string": true},
        "dt": {"type": "string", "format": "date-time"}, "du": {"type": "string", "format": "duration"},
        "l": {"type": "array", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "o": {"type": "object", "properties": {"x": {"type": "string"}}},
        "oo": {"type": "object", "properties": {"x": {"type": "string"}}},
        "ol": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}, "i": {"type": "integer"}}}},
        "pu": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "x-y": {"type": "string"}, "namespace": {"type": "string"}}})
}

/// What an expression gives, or the places and texts of its mistakes.
fn found(source: &str, optional_old: bool) -> Result<String, Vec<String>> {
    let declared = Declared::of(&schema(), true).unwrap();
    let parsed = crate::cel::parse(source).unwrap();
    let found = check(source, &parsed, &declared, optional_old);
    if found.issues.is_empty() {
        return Ok(found.gives.map_or("?".to_owned(), |ty| ty.to_string()));
    }
    let line = |issue: &String| issue.lines().next().unwrap_or_default().replace("ERROR: <input>:", "");
    Err(found.issues.iter().map(line).collect())
}

#[test]
fn good_expressions_have_a_type() {
    for (source, wanted) in [
        ("self.i <= 3 && self.x__dash__y == 'a'", "bool"),
        ("!has(oldSelf.i) || self.i == oldSelf.i", "bool"),
        ("self.m.anything == 'x' && self.m['k'] != ''", "bool"),
        ("self.ol.all(e, e.i > 0 && e.x != '')", "bool"),
        ("self.ol[0].i", "int"),
        ("self.ol.map(e, e.i)", "list(int)"),
        ("self.ol.map(e, e.i > 0, e.x)", "list(string)"),
        ("self.ol.filter(e, e.i > 0)", "list(selfType.ol.@idx)"),
        ("self.m.exists_one(k, self.m[k] == k)", "bool"),
        ("self.?i.orValue(1) > 0 && self.?o.?x.hasValue()", "bool"),
        ("self.ol.map(e, e.i).sum()", "int"),
        ("self.metadata.name.size() > 1 && self.kind == 'x'", "bool"),
        ("self.ios == 1 || self.ios == 'x'", "bool"),
        ("self.ios", "dyn"),
        ("self.n > 1", "bool"),
        ("self.dt > timestamp('2020-01-01T00:00:00Z') && self.du < duration('1h')", "bool"),
        ("type(self.ios) == string", "bool"),
        ("self.namespace == 'x'", "bool"),
        ("[self.a] + []", "list(string)"),
        ("{'a': 1}", "map(string, int)"),
        ("'%s %d'.format([self.a, 1])", "string"),
        ("sets.contains(self.l, ['a'])", "bool"),
        ("quantity(self.a).isGreaterThan(quantity('1'))", "bool"),
        ("url(self.a).getQuery()", "map(string, list(string))"),
        ("self.l.all(i, v, v == 'x' && i > 0)", "bool"),
        ("self.l.transformList(i, v, i)", "list(int)"),
        ("self.?i.optMap(v, v + 1).orValue(0)", "int"),
        ("!!(self.i > 0)", "bool"),
        ("google.protobuf.Timestamp", "type(dyn)"),
    ] {
        assert_eq!(found(source, false), Ok(wanted.to_owned()), "{source}");
    }
}

#[test]
fn mistakes_are_told_where_they_are() {
    for (source, mistakes) in [
        ("nope == 1", vec!["1:1: undeclared reference to 'nope' (in container '')"]),
        ("foo(self.a)", vec!["1:4: undeclared reference to 'foo' (in container '')"]),
        ("self.a.foo()", vec!["1:11: undeclared reference to 'foo' (in container '')"]),
        (
            "nope && nada",
            vec![
                "1:1: undeclared reference to 'nope' (in container '')",
                "1:9: undeclared reference to 'nada' (in container '')",
            ],
        ),
        ("true &&\n nope", vec!["2:2: undeclared reference to 'nope' (in container '')"]),
        ("self.b == 1", vec!["1:5: undefined field 'b'"]),
        ("has(self.zz)", vec!["1:4: undefined field 'zz'"]),
        ("self.?zz.hasValue()", vec!["1:5: undefined field 'zz'"]),
        ("self.pu.x == 1", vec!["1:8: undefined field 'x'"]),
        ("self.metadata.namespace == 'x'", vec!["1:14: undefined field 'namespace'"]),
        ("self.a.b", vec!["1:7: type 'string' does not support field selection"]),
        ("self.a + 1 == 2", vec!["1:8: found no matching overload for '_+_' applied to '(string, int)'"]),
        ("self.n == 1", vec!["1:8: found no matching overload for '_==_' applied to '(double, int)'"]),
        (
            "self.i in self.l",
            vec!["1:8: found no matching overload for '@in' applied to '(int, list(string))'"],
        ),
        (
            "self.l['x'] == ''",
            vec!["1:7: found no matching overload for '_[_]' applied to '(list(string), string)'"],
        ),
        (
            "true ? 1 : 'x'",
            vec!["1:6: found no matching overload for '_?_:_' applied to '(bool, int, string)'"],
        ),
        ("!self.a", vec!["1:1: found no matching overload for '!_' applied to '(string)'"]),
        ("self.a && true", vec!["1:5: expected type 'bool' but found 'string'"]),
        (
            "self.i.startsWith('x')",
            vec!["1:18: found no matching overload for 'startsWith' applied to 'int.(string)'"],
        ),
        ("size(self.i) > 0", vec!["1:5: found no matching overload for 'size' applied to '(int)'"]),
        (
            "self.o == self.oo",
            vec!["1:8: found no matching overload for '_==_' applied to '(selfType.o, selfType.oo)'"],
        ),
        (
            "self.l == [1]",
            vec!["1:8: found no matching overload for '_==_' applied to '(list(string), list(int))'"],
        ),
        (
            "self.i.all(x, x > 0)",
            vec![
                "1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
            ],
        ),
        (
            "self.l.all(x, x > 0)",
            vec!["1:17: found no matching overload for '_>_' applied to '(string, int)'"],
        ),
        (
            "self.ol.filter(e, e.x).size() > 0",
            vec![
                "1:15: found no matching overload for '_?_:_' applied to '(string, list(selfType.ol.@idx), list(selfType.ol.@idx))'",
            ],
        ),
        (
            "self.?a.orValue(1)",
            vec!["1:16: found no matching overload for 'orValue' applied to 'optional_type(string).(int)'"],
        ),
        ("[?self.a]", vec!["1:7: expected type 'optional_type(string)' but found 'string'"]),
        ("Foo{a: 1} == 1", vec!["1:4: undeclared reference to 'Foo' (in container '')"]),
        ("-self.a == 1", vec!["1:1: found no matching overload for '-_' applied to '(string)'"]),
        (
            "base64.encode(self.a) == ''",
            vec![
                "1:1: undeclared reference to 'base64' (in container '')",
                "1:14: undeclared reference to 'encode' (in container '')",
            ],
        ),
        (
            "self.l.sum() == 1",
            vec!["1:11: found no matching overload for 'sum' applied to 'list(string).()'"],
        ),
        (
            "oldSelf.hasValue()",
            vec!["1:17: found no matching overload for 'hasValue' applied to 'selfType.()'"],
        ),
    ] {
        assert_eq!(found(source, false).unwrap_err(), mistakes, "{source}");
    }
}

#[test]
fn literals_mean_something() {
    for (source, mistakes) in [
        ("self.a.matches('[')", vec!["1:16: invalid matches argument"]),
        ("duration('x') == duration('1s')", vec!["1:10: invalid duration argument"]),
        ("timestamp('x') == self.dt", vec!["1:11: invalid timestamp argument"]),
        ("[1, 'a'] == []", vec!["1:5: expected type 'int' but found 'string'"]),
        ("{'a': 1, 'b': ''} == {}", vec!["1:15: expected type 'int' but found 'string'"]),
        ("nope == [1, 'a']", vec!["1:1: undeclared reference to 'nope' (in container '')"]),
    ] {
        assert_eq!(found(source, false).unwrap_err(), mistakes, "{source}");
    }
}

#[test]
fn what_was_may_be_missing() {
    assert_eq!(found("oldSelf.hasValue() && oldSelf.value().i > 1", true), Ok("bool".to_owned()));
    assert_eq!(
        found("oldSelf.a == 'x'", true).unwrap_err(),
        ["1:11: found no matching overload for '_==_' applied to '(optional_type(string), string)'"]
    );
    let declared = Declared::of(&schema(), true).unwrap();
    let speaks =
        |source: &str| check(source, &crate::cel::parse(source).unwrap(), &declared, false).is_of_change;
    assert!(speaks("self.i > oldSelf.i"));
    assert!(!speaks("self.a == 'oldSelf'") && !speaks("self.l.all(oldSelf, oldSelf == 'x')"));
}

#[test]
fn few_mistakes_are_told() {
    let many = format!("nope{}", " && nope".repeat(200));
    assert_eq!(found(&many, false).unwrap_err().len(), MAX_ERRORS);
}

#[test]
fn a_mistake_is_shown_in_its_line() {
    let source = "'ä' == '' &&\n\tnope";
    let declared = Declared::of(&schema(), true).unwrap();
    let shown =
        |source: &str| check(source, &crate::cel::parse(source).unwrap(), &declared, false).issues.join("\n");
    assert_eq!(
        shown(source),
        "ERROR: <input>:2:2: undeclared reference to 'nope' (in container '')\n |  nope\n | .^"
    );
    assert_eq!(
        shown("'ä' == nope"),
        "ERROR: <input>:1:8: undeclared reference to 'nope' (in container '')\n | 'ä' == nope\n | .．.....^"
    );
}

#[test]
fn the_deepest_expressions_are_checked() {
    let sum = format!("self.i{} > 0", " + 1".repeat(240));
    let path = format!("self.ios{}", ".b".repeat(240));
    let calls = format!("{}self.a{}", "string(".repeat(45), ")".repeat(45));
    for (source, wanted) in [(sum, "bool"), (path, "dyn"), (calls, "string")] {
        assert_eq!(found(&source, false), Ok(wanted.to_owned()), "{}", &source[..20]);
    }
}
