use super::*;
use serde_json::json;

fn estimate(schema: &Value, rule: &str) -> u64 {
    let declared = Declared::of(schema, false).expect("a schema that rules may see");
    Estimator::new(&declared, false).estimate(&cel::parse(rule).unwrap()).cost
}

/// An object with fields `val1` and `val2` of a type.
fn two(of: &Value) -> Value {
    json!({"type": "object", "properties": {"val1": of, "val2": of}})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn map(of: Value) -> Value {
    json!({"type": "object", "additionalProperties": of})
}

fn text() -> Value {
    json!({"type": "string"})
}

/// The figures are those of upstream's `celcoststability_test.go`.
#[test]
fn estimates_are_upstreams() {
    let strings = two(&text());
    let check = |schema: &Value, rules: &[(&str, u64)]| {
        for (rule, wanted) in rules {
            assert_eq!(estimate(schema, rule), *wanted, "{rule}");
        }
    };
    check(
        &strings,
        &[
            ("self.val1.startsWith('Rook')", 3),
            ("self.val1.matches('^[^0-9]*$')", 943_721),
            ("!self.val1.matches('^[0-9]*$')", 629_149),
            ("type(self.val1) == string", 4),
            ("size(self.val1) == 12", 4),
            ("self.val1.charAt(3) == 'k'", 4),
            ("self.val1.indexOf('o') == 1", 314_576),
            ("self.val1.replace(' ', 'x') == 'Rookxtakesx👑'", 629_150),
            ("self.val1.split(' ') == ['Rook', 'takes', '👑']", 629_159),
            ("self.val1.split(' ', 2) == ['Rook', 'takes 👑']", 629_159),
            ("self.val1.substring(0, 4) == 'Rook'", 314_576),
            ("self.val1.substring(4, 10).trim() == 'takes'", 629_149),
            ("self.val1.upperAscii() == 'ROOK TAKES 👑'", 314_577),
            ("self.val1.lowerAscii() == self.val1.lowerAscii()", 943_723),
            ("isQuantity(self.val1)", 314_575),
            ("isQuantity('200M')", 1),
            ("quantity('200M') == quantity('0.2G') && quantity('0.2G') == quantity('200M')", 6),
            ("quantity(self.val1).isLessThan(quantity(self.val2))", 629_151),
            ("quantity('200M').compareTo(quantity('0.2G')) == 0", 4),
        ],
    );
    check(
        &two(&list(json!({"type": "integer"}))),
        &[
            ("1 in self.val1", 1_572_865),
            ("self.val2[0] in self.val1", 1_572_868),
            ("self.val1 + self.val2 == [1, 2, 3, 1, 2, 3]", 16),
            ("self.val1 + [4, 5] == [1, 2, 3, 4, 5]", 24),
            ("has(self.val1)", 1),
            ("!has(self.val1)", 2),
            ("self.val1.all(k, size(self.val1) > 0)", 11_010_044),
            ("self.val1.exists_one(k, self.val1 == [2])", 23_592_949),
            ("!self.val1.exists_one(k, size(self.val1) > 0)", 9_437_183),
            ("size(self.val1.filter(k, size(self.val1) > 1)) == 1", 26_738_686),
            ("self.val1.all(e, e > 0)", 7_864_318),
            ("self.val1.exists(e, e > 2)", 9_437_181),
            ("size(self.val1.filter(e, e%2 == 0)) == 3", 25_165_823),
            ("self.val1.map(e, e * 20).filter(e, e > 50).exists(e, e == 60)", 53_477_367),
        ],
    );
    check(
        &two(&list(text())),
        &[
            ("self.val1 == ['c', 'b', 'a']", 13),
            ("self.val1 == self.val2", 104_862),
            ("'a' in self.val1", 1_048_577),
            ("self.val1.all(k, size(self.val1) > 0)", 7_340_028),
            ("size(self.val1.filter(k, size(self.val1) > 1)) == 1", 17_825_790),
        ],
    );
    check(
        &two(&map(text())),
        &[
            ("self.val1 == self.val2", 39_326),
            ("'k1' in self.val1", 3),
            ("self.val1 == {'k1': 'a', 'k2': 'b'}", 33),
            ("self.val1.all(k, size(self.val1) > 0)", 2_752_508),
        ],
    );
    check(
        &json!({"type": "object", "properties": {"val": map(json!({"type": "integer"}))}}),
        &[
            ("has(self.val.a)", 2),
            ("self.val.all(k, self.val[k] > 0)", 3_595_115),
            ("self.val.exists_one(k, self.val[k] == 2)", 2_696_338),
            ("size(self.val.filter(k, self.val[k] > 1)) == 1", 8_089_017),
        ],
    );
    let objects = json!({"type": "object", "properties": {"k": text(), "v": text(), "v2": text()}});
    check(
        &json!({"type": "object", "properties": {"listMap": list(objects)}}),
        &[
            ("has(self.listMap[0].v)", 3),
            ("self.listMap.all(m, m.k.startsWith('a'))", 6_291_453),
            ("self.listMap.all(m, !has(m.v2) || m.v2 == 'z')", 8_388_603),
            ("self.listMap.exists(m, m.k == 'a1' && m.v == 'b1')", 10_485_753),
            ("self.listMap.map(m, m.v).exists(v, v == 'b1')", 19_922_939),
            ("self.listMap.map(m, has(m.v2) && m.v2 == 'z', m.v2).size() == 1", 18_874_365),
            ("self.listMap.filter(m, has(m.v2) && m.v2 == 'z').map(m, m.v2).size() == 1", 32_505_851),
        ],
    );
    check(
        &two(&json!({"type": "string", "format": "date-time"})),
        &[("self.val1 == timestamp('2011-08-18T00:00:00.000+01:00') + duration('19h3m37s10ms')", 6)],
    );
    let percent = json!({"x-kubernetes-int-or-string": true});
    check(
        &json!({"type": "object", "properties": {"min": percent, "current": {"type": "integer"}, "available": {"type": "integer"}}}),
        &[
            (r"type(self.min) == string && self.min.matches(r'(\d+(\.\d+)?%)')", 1_258_298),
            (
                "type(self.min) == int ? self.current <= self.min : double(self.current) / double(self.available) >= double(self.min.replace('%', '')) / 100.0",
                629_162,
            ),
            ("self.min == 1 || self.min == '25%'", 6),
            ("self.min != ['anything']", 13),
        ],
    );
    check(
        &json!({"type": "object", "properties": {"obj": {"type": "object", "properties": {"field": text()}}, "l": list(text())}}),
        &[
            ("optional.of('a').or(optional.of('a')).hasValue()", 4),
            ("optional.of('a').optMap(v, v == 'value').hasValue()", 18),
            ("optional.of([1, 2, 3, 4, 5]).optMap(v, v.size()).hasValue()", 38),
            ("self.obj.?field.orValue('v') == 'a'", 5),
            ("self.l[?0].optMap(v, v == 'a').hasValue()", 22),
            ("self.obj.?field == optional.of('a')", 1_844_674_407_370_955_268),
        ],
    );
}

/// The figures are those of upstream's `compilation_test.go`.
#[test]
fn limits_make_rules_cheap() {
    let array = |of: Value, most: Option<u64>| match most {
        Some(most) => json!({"type": "array", "items": of, "maxItems": most}),
        None => list(of),
    };
    for (of, rule, free, most, bounded) in [
        ("number", "self.all(x, true)", 4_718_591, 10, 32),
        ("string", "self.all(x, true)", 3_145_727, 20, 62),
        ("boolean", "self.all(x, true)", 1_887_437, 5, 17),
        ("number", "self[1] == 0.0", 2, 5000, 2),
        ("number", "self.all(x, x == 0.0)", 6_291_454, 3 * 1024 * 2048, 25_165_826),
    ] {
        assert_eq!(estimate(&array(json!({"type": of}), None), rule), free, "{of}: {rule}");
        assert_eq!(estimate(&array(json!({"type": of}), Some(most)), rule), bounded, "{of}: {rule}");
    }
    let numbers = array(json!({"type": "number"}), Some(10));
    assert_eq!(estimate(&numbers, "self.all(x, self.all(y, true))"), 352);
    assert_eq!(estimate(&numbers, "self.all(x, self.all(y, self.all(z, true)))"), 3552);
    for (rule, free, most, bounded) in [
        ("self.contains('test')", 314_574, 10, 5),
        ("self.startsWith('test')", 2, 15, 2),
        ("size(self + \"hello\") > size(\"hello\")", 314_578, 4, 7),
        ("self.matches(\"x\")", 314_574, 50, 22),
        ("self.matches(\"\")", 1, 100, 1),
        ("self == \"x\"", 2, 0, 1),
        ("self.find('[0-9]+') == ''", 629_147, 10, 11),
        ("self.lowerAscii() == 'lower!'", 314_575, 10, 6),
    ] {
        assert_eq!(estimate(&text(), rule), free, "{rule}");
        assert_eq!(estimate(&json!({"type": "string", "maxLength": most}), rule), bounded, "{rule}");
    }
    for (rule, free, bounded) in
        [("self.join(' ') == 'aa bb'", 329_853_068_905, 43), ("self.isSorted() == true", 329_854_432_052, 52)]
    {
        assert_eq!(estimate(&list(text()), rule), free, "{rule}");
        let schema = array(json!({"type": "string", "maxLength": 10}), Some(10));
        assert_eq!(estimate(&schema, rule), bounded, "{rule}");
    }
    let replace = |most: Option<u64>| {
        let mut own = text();
        if let Some(most) = most {
            own["maxLength"] = most.into();
        }
        json!({"type": "object", "properties": {"str": own, "before": {"type": "string", "maxLength": 2},
            "after": {"type": "string", "maxLength": 4}}})
    };
    let rule = "self.str.replace(self.before, self.after) == 'does not matter'";
    assert_eq!((estimate(&replace(None), rule), estimate(&replace(Some(4)), rule)), (629_154, 12));
    assert_eq!(estimate(&json!({"type": "string", "enum": ["A", "LongValue"]}), "self.contains('A')"), 2);
    let either = json!({"x-kubernetes-int-or-string": true, "maxLength": 20});
    assert_eq!(estimate(&either, "isQuantity(self)"), 9);
    let whole = Declared::of(&json!({"type": "object"}), true).unwrap();
    let named = cel::parse("self.metadata.name.contains('x')").unwrap();
    assert_eq!(Estimator::new(&whole, false).estimate(&named).cost, 3 + 102);
}

fn faults(schema: &Value, unchanged: bool) -> Vec<String> {
    let mut errors = Errors::new();
    super::check(schema, At::root("s"), unchanged, &[], &mut errors);
    errors.done().iter().map(ToString::to_string).collect()
}

const HINT: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
/// Costs 3n² + 5n + 2.
const PAIRS: &str = "self.all(x, self.all(y, true))";

fn numbers(most: u64) -> Value {
    json!({"type": "array", "maxItems": most, "items": {"type": "number"}, "x-kubernetes-validations": [{"rule": PAIRS}]})
}

#[test]
fn a_rule_may_cost_ten_millions() {
    let of = |most: u64| json!({"type": "object", "properties": {"a": numbers(most)}});
    assert_eq!(faults(&of(1824), false), Vec::<String>::new());
    let refused = format!(
        "s.properties[a].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of 1.000100x {HINT}"
    );
    assert_eq!(faults(&of(1825), false), [refused]);
    // What was there before may stay.
    assert_eq!(faults(&of(1825), true), Vec::<String>::new());
    let text = faults(&of(4000), false).remove(0);
    assert!(text.contains("by factor of 4.8x (try"), "{text}");
    let endless = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"},
        "x-kubernetes-validations": [{"rule": PAIRS}]}}});
    let found = faults(&endless, false);
    let factor = format!("exceeds budget by factor of more than 100x {HINT}");
    assert_eq!(
        found,
        [
            format!("s.properties[a].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost {factor}"),
            "s.properties[a].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema".to_owned(),
            format!("s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema {factor}"),
        ]
    );
}

#[test]
fn a_rule_counts_as_often_as_its_value_may_be_there() {
    let of = |most: Value| {
        let item = json!({"type": "object", "properties": {"n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.n > 1 && self.n < 10"}]});
        let mut list = json!({"type": "array", "items": item});
        if !most.is_null() {
            list["maxItems"] = most;
        }
        json!({"type": "object", "properties": {"lists": {"type": "array", "maxItems": 1000, "items": list}}})
    };
    // Each costs 6.
    assert_eq!(faults(&of(json!(1666)), false), Vec::<String>::new());
    let found = faults(&of(json!(1667)), false);
    assert!(found[0].contains("properties[lists].items.items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of 1.000200x"), "{found:?}");
    // Without a limit, as often as objects fit into a request: 1,048,576 times.
    assert_eq!(faults(&of(Value::Null), false), Vec::<String>::new());
}

#[test]
fn all_rules_may_cost_a_hundred_millions() {
    let of = |count: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..count).map(|at| (format!("a{at:02}"), numbers(1824))).collect();
        json!({"type": "object", "properties": properties})
    };
    assert_eq!(faults(&of(10), false), Vec::<String>::new());
    let part = |name: &str| {
        format!(
            "s.properties[{name}].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        )
    };
    let whole = format!(
        "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of 1.098906x {HINT}"
    );
    let wanted = [part("a00"), part("a01"), part("a02"), part("a03"), whole];
    assert_eq!(faults(&of(11), false), wanted);
    // That limit holds for what was there before too, as upstream.
    assert_eq!(faults(&of(11), true), wanted);
}

#[test]
fn messages_are_judged() {
    let of = |message: &str| json!({"type": "string", "x-kubernetes-validations": [{"rule": "self != ''", "messageExpression": message}]});
    let pattern = |length: usize| format!("self.matches('{}') ? 'a' : 'b'", "a".repeat(length));
    assert_eq!(faults(&of(&pattern(124)), false), Vec::<String>::new());
    assert_eq!(
        faults(&of(&pattern(128)), false),
        [format!(
            "s.x-kubernetes-validations[0].messageExpression: Forbidden: estimated messageExpression cost exceeds budget by factor of 1.006634x {HINT}"
        )]
    );
    let found = faults(&of("self.size()"), false);
    assert!(found[0].ends_with("messageExpression must evaluate to a string"), "{found:?}");
    let found = faults(&of("self +"), false);
    assert!(found[0].contains("messageExpression compilation failed: ERROR: <input>:1:"), "{found:?}");
    let rule = json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.size()"}]});
    assert!(faults(&rule, false)[0].ends_with("cel expression must evaluate to a bool"));
}
