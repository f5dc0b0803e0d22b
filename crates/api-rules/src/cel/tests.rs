use super::*;
use serde_json::json;

fn scope() -> Scope {
    Scope { params: true, authorizer: true, variables: Vec::new(), patches: true }
}

fn run(source: &str, object: &Value) -> Result<Value, String> {
    let expression = Expression::compile(source, &scope())?;
    let inputs = Inputs { object: Some(object), ..Inputs::default() };
    evaluate(&inputs, &Variables::default(), |evaluation| evaluation.value(&expression))
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
    evaluate(&inputs, &list, |evaluation| {
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
    assert!(error.contains("cost budget"), "{error}");
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
    assert_eq!(wanted("1 + 1"), Err("must evaluate to bool".to_owned()));
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
        evaluate(&inputs, &Variables::default(), |evaluation| evaluation.holds(&expression)).unwrap()
    };
    assert!(holds("authorizer.group('').resource('pods').namespace('n').check('get').allowed()"));
    assert!(!holds("authorizer.group('').resource('pods').namespace('m').check('get').allowed()"));
    assert!(!holds("authorizer.requestResource.check('get').allowed()"));
}
