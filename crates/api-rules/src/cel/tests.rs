use super::*;
use serde_json::json;

fn scope() -> Scope {
    Scope { params: true, authorizer: true, patches: true, ..Scope::default() }
}

fn run(source: &str, object: &Value) -> Result<Value, String> {
    let expression = Expression::compile(source, &scope())?;
    let inputs = Inputs { object: Some(object), ..Inputs::default() };
    evaluate(&inputs, &Variables::default(), BUDGET, |evaluation| evaluation.value(&expression))
}

#[test]
fn optional_fields_may_be_missing() {
    let object = json!({"metadata": {"name": "a"}, "spec": {"n": 3}});
    assert_eq!(run("object.spec.?n.orValue(1)", &object), Ok(json!(3)));
    assert_eq!(run("object.spec.?m.orValue(1)", &object), Ok(json!(1)));
    assert_eq!(run("object.?status.?m.orValue(1)", &object), Ok(json!(1)));
    assert_eq!(run("!('x' in object.metadata.?labels.orValue({}))", &object), Ok(json!(true)));
    assert_eq!(run("object.spec.?n.optMap(v, v + 1).orValue(0)", &object), Ok(json!(4)));
}

#[test]
fn objects_are_built() {
    let source = "Object{metadata: Object.metadata{labels: Object.metadata.labels{a: 'b'}}}";
    assert_eq!(run(source, &json!({})), Ok(json!({"metadata": {"labels": {"a": "b"}}})));
    let misplaced = run("Object{spec: Object.wrong{a: 1}}", &json!({})).unwrap_err();
    assert!(
        misplaced
            .starts_with("type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\""),
        "{misplaced}"
    );
    let patch = "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 1}]";
    assert_eq!(
        run(patch, &json!({})),
        Ok(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": 1}]))
    );
    assert_eq!(*Expression::compile(patch, &scope()).unwrap().kind(), Kind::patches());
    assert_eq!(*Expression::compile(source, &scope()).unwrap().kind(), Kind::object());
}

#[test]
fn variables_run_when_they_are_read() {
    let none = Scope::default();
    let of = |name: &str, source: &str| (name.to_owned(), Expression::compile(source, &none).unwrap());
    let list = Arc::new(vec![of("good", "object.n + 1"), of("bad", "object.missing.x")]);
    let scope =
        Scope { variables: vec![("good".into(), Kind::Dyn), ("bad".into(), Kind::Dyn)], ..Scope::default() };
    let fine = Expression::compile("variables.good == 4", &scope).unwrap();
    let broken = Expression::compile("variables.bad == 4", &scope).unwrap();
    let object = json!({"n": 3});
    let inputs = Inputs { object: Some(&object), ..Inputs::default() };
    evaluate(&inputs, &list, BUDGET, |evaluation| {
        assert_eq!(evaluation.holds(&fine), Ok(true));
        assert_eq!(
            evaluation.holds(&broken),
            Err("expression 'variables.bad == 4' resulted in error: no such key: missing".to_owned())
        );
    });
}

#[test]
fn loops_are_bounded() {
    let items: Vec<i64> = (0..600).collect();
    let object = json!({"items": items});
    assert_eq!(run("object.items.all(x, x >= 0)", &object), Ok(json!(true)));
    let error = run("object.items.all(x, object.items.all(y, x + y >= 0))", &object).unwrap_err();
    assert!(error.ends_with("resulted in error: operation cancelled: actual cost limit exceeded"), "{error}");
}

#[test]
fn what_is_wrong_is_said_before_it_runs() {
    let refused = |source: &str| Expression::compile(source, &Scope::default()).unwrap_err();
    assert_eq!(
        refused("nobody.spec"),
        "compilation failed: ERROR: <input>:1:1: undeclared reference to 'nobody' (in container '')\n | nobody.spec\n | ^"
    );
    assert!(refused("params.x").contains("undeclared reference to 'params'"));
    assert!(refused("object.x +").starts_with("compilation failed: ERROR: <input>:1:"));
    assert!(refused("Object{a: 1}").contains("undeclared reference to 'Object'"));
    assert!(refused("request.nothing").contains("undefined field 'nothing'"));
    assert!(refused("math.abs(1) == 1").contains("undeclared reference to 'math'"));
    assert!(
        refused("request.name == null")
            .contains("no matching overload for '_==_' applied to '(string, null)'")
    );
    assert!(Expression::compile("object.x == null && oldObject == null", &Scope::default()).is_ok());
    assert!(refused(&"(".repeat(5000)).contains("expression recursion limit exceeded: 250"));
    assert!(
        refused(&format!("1{} == 1", "+1".repeat(9000))).contains("expression recursion limit exceeded: 250")
    );
    assert!(
        refused(&format!("object{} == 1", ".a".repeat(9000)))
            .contains("expression recursion limit exceeded: 250")
    );
    let long = vec!["object.a.b == '((((.....'"; 300].join(" && ");
    assert!(Expression::compile(&long, &Scope::default()).is_ok());
    let wanted = |source: &str| Expression::compile_as(source, &Scope::default(), &[Kind::Bool]).map(|_| ());
    assert_eq!(wanted("1 + 1"), Err("must evaluate to bool but got int".to_owned()));
    assert_eq!(wanted("object.spec.replicas < 3 && has(object.x)"), Ok(()));
    let text = "'n ' + string(object.n) + ' exceeds ' + params.data.max";
    assert_eq!(*Expression::compile(text, &scope()).unwrap().kind(), Kind::String);
    assert_eq!(wanted("object.items.exists(i, i.name == 'a') || object.items.size() > 2"), Ok(()));
}

#[test]
fn a_schema_shows_what_does_not_exist() {
    let schema = Schema { object: api_types::schema::lookup("apps", "v1", "Deployment"), params: None };
    let of = |source: &str| warnings(source, &Scope::default(), &schema).1;
    assert_eq!(
        of("object.spec.replicaz <= 3"),
        ["ERROR: <input>:1:12: undefined field 'replicaz'\n | object.spec.replicaz <= 3\n | ...........^"]
    );
    assert!(
        of("object.spec.replicas > '1'")[0]
            .contains("found no matching overload for '_>_' applied to '(int, string)'")
    );
    assert!(
        of("'wants ' + object.spec.replicas")[0]
            .contains("found no matching overload for '_+_' applied to '(string, int)'")
    );
    let fine = "object.spec.template.spec.containers.all(c, c.image.startsWith('a') && c.?resources.hasValue()) && object.metadata.labels['x'] == 'y'";
    assert!(of(fine).is_empty(), "{:?}", of(fine));
}

struct Odd;

impl Authorize for Odd {
    fn allows(&self, question: &Question) -> bool {
        question.resource == "pods" && question.verb == "get" && question.namespace == "n"
    }
}

#[test]
fn the_authorizer_is_asked() {
    let inputs = Inputs {
        authorizer: Some(Arc::new(Odd)),
        question: Question { resource: "secrets".into(), ..Question::default() },
        ..Inputs::default()
    };
    let holds = |source: &str| {
        let expression = Expression::compile(source, &scope()).unwrap();
        evaluate(&inputs, &Variables::default(), BUDGET, |evaluation| evaluation.holds(&expression)).unwrap()
    };
    assert!(holds("authorizer.group('').resource('pods').namespace('n').check('get').allowed()"));
    assert!(!holds("authorizer.group('').resource('pods').namespace('m').check('get').allowed()"));
    assert!(!holds("authorizer.requestResource.check('get').allowed()"));
}

/// Allows pods of one node, and those with one label.
struct Selecting;

impl Authorize for Selecting {
    fn allows(&self, question: &Question) -> bool {
        (question.fields.as_str(), question.labels.as_str()) == ("spec.nodeName=n", "app=a,b")
    }
}

#[test]
fn the_authorizer_is_asked_about_some_objects() {
    let inputs = Inputs { authorizer: Some(Arc::new(Selecting)), ..Inputs::default() };
    let lists = |selected: &str| {
        let source = format!("authorizer.group('').resource('pods'){selected}.check('list').allowed()");
        let expression = Expression::compile(&source, &scope()).unwrap();
        evaluate(&inputs, &Variables::default(), BUDGET, |evaluation| evaluation.holds(&expression)).unwrap()
    };
    let (fields, labels) = (".fieldSelector('spec.nodeName=n')", ".labelSelector('app=a,b')");
    assert!(lists(&format!("{fields}{labels}")));
    assert!(lists(&format!("{labels}.fieldSelector('x'){fields}")), "the last one counts");
    assert!(!lists(fields) && !lists(labels) && !lists(""));
}

fn cost(rule: &str, own: &Value) -> u64 {
    let outcome = Rule::compile(rule).unwrap().run(&vec![("self", to_cel(own))]);
    assert!(outcome.result.is_ok(), "{rule}: {:?}", outcome.result.err());
    outcome.cost
}

/// The figures are those of upstream's `celcoststability_test.go`.
#[test]
fn costs_are_upstreams() {
    let numbers = json!({"val1": [1, 2, 3], "val2": [1, 2, 3]});
    for (rule, wanted) in [
        ("1 in self.val1", 5),
        ("self.val2[0] in self.val1", 8),
        ("!(0 in self.val1)", 6),
        ("self.val1 + self.val2 == [1, 2, 3, 1, 2, 3]", 6),
        ("self.val1 + [4, 5] == [1, 2, 3, 4, 5]", 4),
        ("has(self.val1)", 1),
        ("has(self.val1) && has(self.val2)", 2),
        ("sets.contains(self.val1, [1])", 6),
        ("sets.equivalent(self.val1, [1, 2, 3])", 21),
        ("lists.range(4) == [0,1,2,3]", 16),
        ("[5,1,2,3].reverse() == [3,2,1,5]", 16),
        ("[1,2,3,4].slice(1, 3) == [2, 3]", 14),
        ("[4, 3, 2, 1].sort() == [1, 2, 3, 4]", 44),
        ("[-2, 5, -2, 1, 1, 5, -2, 1].distinct() == [-2, 5, 1]", 140),
        ("double(5) < 10.0", 1),
        ("optional.of('a').hasValue()", 2),
        ("optional.of('a').or(optional.of('a')).hasValue()", 2),
        ("optional.none().or(optional.of('a')).hasValue()", 3),
        ("optional.of('a').optMap(v, v == 'value').hasValue()", 8),
        ("isQuantity('200M')", 1),
        ("quantity('50Mi').isGreaterThan(quantity('50M'))", 3),
        ("quantity('200M').compareTo(quantity('0.2G')) == 0", 4),
    ] {
        assert_eq!(cost(rule, &numbers), wanted, "{rule}");
    }
    let text = json!({"val1": "Rook takes 👑", "val2": "Rook takes 👑"});
    for (rule, wanted) in [
        ("self.val1.startsWith('Rook')", 3),
        ("!self.val1.startsWith('knight')", 4),
        ("self.val1.matches('^[^0-9]*$')", 8),
        ("!self.val1.matches('^[0-9]*$')", 7),
        ("type(self.val1) == string", 4),
        ("size(self.val1) == 12", 4),
        ("self.val1.charAt(3) == 'k'", 4),
        ("self.val1.indexOf('o') == 1", 4),
        ("self.val1.replace(' ', 'x') == 'Rookxtakesx👑'", 7),
        ("self.val1.split(' ') == ['Rook', 'takes', '👑']", 6),
        ("self.val1.substring(0, 4) == 'Rook'", 5),
        ("self.val1.substring(4, 10).trim() == 'takes'", 6),
        ("self.val1.lowerAscii() == self.val1.lowerAscii()", 10),
        ("self.val1 in ['Pending', 'Available']", 2),
    ] {
        assert_eq!(cost(rule, &text), wanted, "{rule}");
    }
    let map = json!({"val": {"b": 1, "d": 2}, "a": {"b": 1}, "a1": {"b1": {"c1": 4}}});
    for (rule, wanted) in [
        ("!('a' in self.val)", 4),
        ("'b' in self.val", 3),
        ("has(self.a.b)", 2),
        ("has(self.a1.b1.c1)", 3),
        ("!(has(self.a1.d2) && has(self.a1.d2.e2))", 3),
        ("self.val.all(k, self.val[k] > 0)", 17),
        ("!self.val.exists(k, self.val[k] == 3)", 20),
        ("self.val.exists_one(k, self.val[k] == 2)", 14),
        ("!self.val.exists_one(k, self.val[k] > 0)", 17),
        ("size(self.val) == 2", 4),
        ("size(self.val.filter(k, self.val[k] > 1)) == 1", 26),
    ] {
        assert_eq!(cost(rule, &map), wanted, "{rule}");
    }
    let nested = json!({"mapOfMap": {"x": {"y": "b"}}, "obj": {"field": "a"}, "m": {"k": "v"}, "l": ["a"],
        "listMapOfObj": [{"k2": "2", "v2": "f"}]});
    for (rule, wanted) in [
        ("self.obj.field == 'a'", 4),
        ("self.mapOfMap['x']['y'] == 'b'", 5),
        ("self.listMapOfObj.exists(e, e.k2 == '2' && e.v2 == 'f')", 13),
        ("self.mapOfMap.map(k, k).map(k, k).size() == 1", 32),
        ("self.mapOfMap.map(k, self.mapOfMap[k].map(m, m)).size() == 1", 34),
        ("self.obj.?field == optional.of('a')", 5),
        ("self.obj.?absentField == optional.none()", 4),
        ("self.obj.?field.orValue('v') == 'a'", 4),
        ("self.m[?'k'] == optional.of('v')", 5),
        ("self.l[?0] == optional.of('a')", 5),
    ] {
        assert_eq!(cost(rule, &nested), wanted, "{rule}");
    }
}

#[test]
fn lists_grow_in_place() {
    let many: Vec<i64> = (0..60_000).collect();
    let rule = "self.map(x, x * 2).filter(x, x >= 0).size() == self.size()";
    let own = json!(many[..30_000]);
    let outcome = Rule::compile(rule).unwrap().run(&vec![("self", to_cel(&own))]);
    assert_eq!(outcome.result, Ok(Cel::Bool(true)));
    let outcome = Rule::compile(rule).unwrap().run(&vec![("self", to_cel(&json!(many)))]);
    assert!(outcome.is_cancelled(), "{}", outcome.cost);
}

#[test]
fn an_evaluation_has_a_budget() {
    let all: Vec<i64> = (0..576).collect();
    let object = json!(all);
    let inputs = Inputs { object: Some(&object), ..Inputs::default() };
    let expression = Expression::compile("object.all(x, object.all(y, true))", &Scope::default()).unwrap();
    // Each costs 998,210.
    let run = |budget: i64| {
        evaluate(&inputs, &Variables::default(), budget, |evaluation| {
            let found: Vec<_> = (0..3).map(|_| evaluation.holds(&expression)).collect();
            (found, evaluation.is_spent())
        })
    };
    assert_eq!(run(3 * 998_210), (vec![Ok(true), Ok(true), Ok(true)], false));
    let spent = Err(OUT_OF_BUDGET.to_owned());
    assert_eq!(run(3 * 998_210 - 1), (vec![Ok(true), Ok(true), spent.clone()], true));
    assert_eq!(run(998_209), (vec![spent.clone(), spent.clone(), spent], true));
}

#[test]
fn variables_pay_from_the_budget_of_who_reads_them() {
    let all: Vec<i64> = (0..576).collect();
    let object = json!(all);
    let inputs = Inputs { object: Some(&object), ..Inputs::default() };
    let of = |source: &str| Expression::compile(source, &Scope::default()).unwrap();
    let list = Arc::new(vec![("v".to_owned(), of("object.all(x, object.all(y, true))"))]);
    let scope = Scope { variables: vec![("v".into(), Kind::Bool)], ..Scope::default() };
    let reader = Expression::compile("variables.v", &scope).unwrap();
    let run = |budget: i64| {
        evaluate(&inputs, &list, budget, |evaluation| (evaluation.holds(&reader), evaluation.holds(&reader)))
    };
    // What was read once costs no more than reading it.
    assert_eq!(run(998_210 + 2 + 2), (Ok(true), Ok(true)));
    assert_eq!(run(998_210 + 2 + 1).1, Err(OUT_OF_BUDGET.to_owned()));
    assert_eq!(run(998_210 + 1).0, Err(OUT_OF_BUDGET.to_owned()));
}

#[test]
fn errors_beside_what_decides_do_not_count_but_a_spent_budget_does() {
    let object = json!({"items": (0..600).collect::<Vec<i64>>()});
    assert_eq!(run("object.missing.x || object.items[0] == 0", &object), Ok(json!(true)));
    assert_eq!(run("object.missing.x && object.items[0] == 1", &object), Ok(json!(false)));
    assert_eq!(run("[1, 2].exists(x, object.missing.y == x || x == 2)", &object), Ok(json!(true)));
    let error = run("object.items.all(x, object.items.all(y, x + y >= 0)) || true", &object).unwrap_err();
    assert!(error.ends_with("actual cost limit exceeded"), "{error}");
}

#[test]
fn values_are_what_cel_says() {
    let object = json!({"name": "Rook 👑", "n": 3, "list": [1, 2], "none": null});
    for (source, wanted) in [
        ("size(object.name)", json!(6)),
        ("object.name.size()", json!(6)),
        ("-object.n", json!(-3)),
        ("7 % object.n + 7 / object.n", json!(3)),
        ("object.n > 2.5", json!(true)),
        ("b'ab' < b'b'", json!(true)),
        ("b'a' + b'b' == b'ab'", json!(true)),
        ("type(object.n) == int", json!(true)),
        ("type(duration('1h')) == google.protobuf.Duration", json!(true)),
        ("has(object.none) || has(object.nothing)", json!(true)),
        ("object.list[1] + object.list[0]", json!(3)),
        ("{'a': 1, ?'b': optional.none(), ?'c': object.?n}", json!({"a": 1, "c": 3})),
        ("[1, ?optional.none(), ?object.?n]", json!([1, 3])),
        ("object.?list[0].orValue(9) + object.?no[0].orValue(9)", json!(10)),
        ("[3, 1, 2].sort()", json!([1, 2, 3])),
        ("{'b': 1, 'a': 2}.map(k, k)", json!(["a", "b"])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("object.list.exists_one(x, x == 2) ? 'one' : 'other'", json!("one")),
        ("dyn(1) == 1.0", json!(true)),
    ] {
        assert_eq!(run(source, &object), Ok(wanted), "{source}");
    }
    for (source, wanted) in [
        ("object.list[5] == 1", "index out of bounds: 5"),
        ("object.nothing", "no such key: nothing"),
        ("object.n / 0", "division by zero"),
        ("9223372036854775807 + object.n", "integer overflow"),
        ("object.name < object.n", "no such overload"),
        ("object.none.x", "no such key: x"),
    ] {
        let found = run(source, &object).unwrap_err();
        assert!(found.ends_with(&format!("resulted in error: {wanted}")), "{source}: {found}");
    }
}

/// Test threads have the stack of a worker.
#[test]
fn the_deepest_expression_runs_on_a_workers_stack() {
    let chain = |part: &str, count: usize| part.repeat(count);
    for rule in [
        format!("1{} == 241", chain("+1", 240)),
        format!("{}true{}", "(".repeat(45), ")".repeat(45)),
        format!("{}true{}", "[".repeat(80), "]".repeat(80)) + ".size() > 0",
        format!("self{} == 1", chain("[0]", 80)),
        format!("[1].all(a, {}true{})", "[1].all(b, ".repeat(40), ")".repeat(40)),
        chain("self == [] ? false : ", 60) + "true",
    ] {
        let mut own = json!(1);
        for _ in 0..80 {
            own = json!([own]);
        }
        let outcome = Rule::compile(&rule).unwrap().run(&vec![("self", to_cel(&own))]);
        assert_eq!(outcome.result, Ok(Cel::Bool(true)), "{}", &rule[..20]);
    }
}
