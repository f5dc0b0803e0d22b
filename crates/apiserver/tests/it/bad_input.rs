//! Requests that are too large, too deep or too many for what they ask. `docs/security.md` is the table that these tests
//! are named in. Sizes are measured, not times.

use serde_json::{Value, json};

use crate::cluster::{Answer, Ask, CONFIG_MAPS, Cluster, Running, ask, config_map};

const YAML: &str = "application/yaml";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

fn reason(answer: &Answer) -> String {
    answer.json()["reason"].as_str().unwrap_or_default().to_owned()
}

/// Asks over TLS as the administrator.
async fn send(cluster: &Running, asked: Ask) -> Answer {
    cluster.send_as(asked, &cluster.admin).await.expect("answer")
}

fn post(content_type: &str, body: impl Into<bytes::Bytes>) -> Ask {
    ask("POST", CONFIG_MAPS).body(content_type, body)
}

fn patch(kind: &str, body: impl Into<bytes::Bytes>) -> Ask {
    ask("PATCH", &format!("{CONFIG_MAPS}/a?fieldManager=tests")).body(kind, body)
}

#[tokio::test]
async fn bodies_that_multiply_themselves_are_refused() {
    let cluster = Cluster::start().await;
    let levels = (1..10).map(|level| {
        let names = vec![format!("*a{}", level - 1); 10].join(",");
        format!("a{level}: &a{level} [{names}]\n")
    });
    let aliases = format!("a0: &a0 [lol,lol,lol,lol,lol]\n{}", levels.collect::<String>());
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(200_000), close.repeat(200_000));
    let bodies = [
        (YAML, aliases),
        (YAML, nested("[", "]")),
        (YAML, nested("{a: ", "}")),
        (YAML, "- ".repeat(500_000)),
        (YAML, format!("a: &a {{<<: {}}}", vec!["*a"; 100_000].join(","))),
        ("application/json", nested("[", "]")),
        ("application/json", nested("{\"a\":", "}")),
        ("application/json", format!("{{\"data\":{}", "[".repeat(1 << 20))),
        ("application/vnd.kubernetes.protobuf", "k8s\0\u{a}\u{7f}".to_owned()),
        ("application/vnd.kubernetes.protobuf", "nothing".to_owned()),
    ];
    for (kind, body) in bodies {
        let shown: String = body.chars().take(40).collect();
        let answer = send(&cluster, post(kind, body)).await;
        assert_eq!(
            (answer.code, reason(&answer).as_str()),
            (400, "BadRequest"),
            "{kind} {shown}: {}",
            answer.text()
        );
        assert!(answer.bytes.len() < 4096, "{kind} {shown}: an error of {} bytes", answer.bytes.len());
    }
    let usual = "metadata: {name: a, labels: &labels {x: \"1\"}, annotations: *labels}\n";
    let made = send(&cluster, post(YAML, usual)).await.expect(201);
    assert_eq!(made["metadata"]["annotations"], json!({"x": "1"}));
}

#[tokio::test]
async fn a_body_is_as_large_as_it_may_be_and_no_larger() {
    let cluster = Cluster::start().await;
    for megabytes in [4, 10] {
        let answer = send(&cluster, post("application/json", vec![b' '; megabytes << 20])).await;
        assert_eq!(
            (answer.code, reason(&answer).as_str()),
            (413, "RequestEntityTooLarge"),
            "{}",
            answer.text()
        );
        assert_eq!(message(&answer), "Request entity too large: limit is 3145728");
    }
    let mut object = config_map("a");
    object["data"]["k"] = json!("x".repeat(1_000_000));
    send(&cluster, ask("POST", CONFIG_MAPS).json(&object)).await.expect(201);
    object["metadata"]["name"] = json!("b");
    object["data"]["k"] = json!("x".repeat(1_100_000));
    let answer = send(&cluster, ask("POST", CONFIG_MAPS).json(&object)).await;
    answer.expect(422);
    assert!(message(&answer).contains("Too long"), "{}", message(&answer));
}

#[tokio::test]
async fn patches_do_not_grow_what_they_change() {
    let cluster = Cluster::start().await;
    let before = cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let test = json!({"op": "test", "path": "/data/k", "value": "v"});
    let many = |count: usize| Value::Array(vec![test.clone(); count]).to_string();
    send(&cluster, patch(JSON_PATCH, many(10_000))).await.expect(200);
    let answer = send(&cluster, patch(JSON_PATCH, many(10_001))).await;
    assert_eq!((answer.code, reason(&answer).as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(
        message(&answer),
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    // Copies of copies.
    let wide = (0..40)
        .map(|number| json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/x{number}")}));
    // Deeper and deeper: what is too deep cannot be walked, nor dropped.
    let mut paths = vec!["/metadata/annotations".to_owned()];
    for _ in 0..16 {
        let last = paths.last().expect("one").clone();
        paths.push(format!("{last}{}", last.trim_start_matches("/metadata")));
    }
    let deep = paths.iter().map(
        |path| json!({"op": "copy", "from": "/metadata/annotations", "path": format!("{path}/annotations")}),
    );
    let begin = json!({"op": "add", "path": "/metadata/annotations", "value": {"annotations": {}}});
    let tower = (0..100).fold(json!({}), |inner, _| json!({"a": inner}));
    let adds = (0..100).map(
        |at| json!({"op": "add", "path": format!("/data{}", "/a".repeat(at * 100 + 1)), "value": tower}),
    );
    let copied = std::iter::once(json!({"op": "add", "path": "/data/x", "value": "y".repeat(1 << 20)}))
        .chain(
            (0..10)
                .map(|number| json!({"op": "copy", "from": "/data/x", "path": format!("/data/c{number}")})),
        );
    let bombs: [Vec<Value>; 4] =
        [wide.collect(), std::iter::once(begin).chain(deep).collect(), adds.collect(), copied.collect()];
    for bomb in bombs {
        let first = bomb[0].to_string();
        let answer = send(&cluster, patch(JSON_PATCH, Value::Array(bomb).to_string())).await;
        assert_eq!(answer.code, 422, "{:.80}: {:.200}", first, answer.text());
        assert!(answer.bytes.len() < 4096, "{first:.80}");
    }
    for (kind, body) in [
        (MERGE_PATCH, "{\"data\":".repeat(100_000)),
        ("application/strategic-merge-patch+json", "{\"data\":".repeat(100_000)),
        (JSON_PATCH, "[".repeat(1 << 20)),
    ] {
        let answer = send(&cluster, patch(kind, body)).await;
        assert_eq!(answer.code, 400, "{kind}: {}", answer.text());
    }
    let after = cluster.root(ask("GET", &format!("{CONFIG_MAPS}/a"))).await.expect(200);
    assert_eq!((&after["data"], &after["metadata"]["uid"]), (&before["data"], &before["metadata"]["uid"]));
}

#[tokio::test]
async fn faults_are_told_in_no_more_words_than_fit() {
    let cluster = Cluster::start().await;
    let long = |letter: &str| letter.repeat(900_000);
    let mut object = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    for letter in ["x", "y", "z"] {
        object[long(letter)] = json!(1);
    }
    let answer =
        send(&cluster, ask("POST", &format!("{CONFIG_MAPS}?fieldValidation=Warn")).json(&object)).await;
    answer.expect(201);
    let warnings: usize = answer.headers.get_all("warning").iter().map(|warning| warning.len()).sum();
    assert!((200..8192).contains(&warnings), "{warnings} bytes");
    // A hundred faults, each below the same key of a megabyte.
    let fields = vec![r#""b":1"#; 200].join(",");
    let body = format!(r#"{{"metadata":{{"name":"b"}},"{}":{{{fields}}}}}"#, "k".repeat(1 << 20));
    let answer = send(
        &cluster,
        ask("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict")).body("application/json", body),
    )
    .await;
    answer.expect(400);
    assert!(answer.bytes.len() < 8 << 20, "{} bytes", answer.bytes.len());
}

#[tokio::test]
async fn selectors_may_be_long() {
    let cluster = Cluster::start().await;
    let mut object = config_map("a");
    object["metadata"]["labels"] = json!({"app": "v7"});
    cluster.create(CONFIG_MAPS, &object).await;
    let values: Vec<String> = (0..8000).map(|number| format!("v{number}")).collect();
    let names = |selector: &str, value: &str| format!("{CONFIG_MAPS}?{selector}={value}");
    let found =
        send(&cluster, ask("GET", &names("labelSelector", &format!("app+in+({})", values.join(","))))).await;
    assert_eq!(found.expect(200)["items"].as_array().map(Vec::len), Some(1));
    let unequal: Vec<String> = (0..2000).map(|number| format!("metadata.name!%3Dx{number}")).collect();
    send(&cluster, ask("GET", &names("fieldSelector", &unequal.join(",")))).await.expect(200);
    for bad in ["%28%28%28%28", "a+in+%28", "a%3D%3D%3D%3Db", "%00", "!!a"] {
        let answer = send(&cluster, ask("GET", &names("labelSelector", bad))).await;
        assert_eq!((answer.code, reason(&answer).as_str()), (400, "BadRequest"), "{bad}: {}", answer.text());
    }
    // More than headers may have.
    if let Ok(answer) =
        cluster.send_as(ask("GET", "/version").header("x-long", &"x".repeat(500_000)), &cluster.admin).await
    {
        assert_eq!(answer.code, 431);
    }
    send(&cluster, ask("GET", "/version")).await.expect(200);
}

/// Bytes of memory that this process uses.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages");
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_watches_of_one_client_are_served() {
    use http_body_util::BodyExt as _;
    let cluster = Cluster::start().await;
    const WATCHES: usize = 3000;
    let before = memory();
    let mut watches = Vec::with_capacity(WATCHES);
    for _ in 0..WATCHES {
        let response = cluster.begin(ask("GET", &format!("{CONFIG_MAPS}?watch=1&resourceVersion=0"))).await;
        assert_eq!(response.status(), 200);
        watches.push(response.into_body());
    }
    let each = memory().saturating_sub(before) / WATCHES;
    assert!(each < 64 << 10, "{each} bytes a watch");
    cluster.create(CONFIG_MAPS, &config_map("seen")).await;
    for watch in &mut watches {
        let mut text = String::new();
        while !text.contains("\"seen\"") {
            let frame = tokio::time::timeout(crate::cluster::DEADLINE, watch.frame()).await.expect("in time");
            let frame = frame.expect("open").expect("a frame");
            text.push_str(&String::from_utf8_lossy(frame.data_ref().expect("data")));
        }
    }
}
