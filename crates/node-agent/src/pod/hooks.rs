//! Lifecycle hooks: what runs after a container's start and before its stop. Driver, its texts pure.
//!
//! Upstream's rules: a hook runs at least once; an answer to an HTTP hook is success whatever its code; a `tcpSocket`
//! is accepted by the API and fails here.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::http_get;
use crate::context::Context;

/// Upstream bounds a `postStart` by nothing; a call to the runtime must have a bound.
pub(super) const POST_START_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Whose hook it is.
pub(super) struct Whose<'a> {
    /// `name_namespace(uid)` of the pod.
    pub pod: &'a str,
    /// The pod's address, for HTTP hooks that name no host.
    pub ip: &'a str,
    /// The container's spec.
    pub container: &'a Container,
    /// The container's id.
    pub id: &'a str,
}

/// Runs `handler` to its end, at most for `limit`.
///
/// # Errors
/// Upstream's message for the container's status. It may hold secrets and belongs into no event.
pub(super) async fn run(
    context: &Context,
    whose: &Whose<'_>,
    handler: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    let done = tokio::time::timeout(limit, attempt(context, whose, handler, limit)).await;
    let failed = |(error, output): (String, Option<String>)| message(whose, handler, &error, output);
    done.unwrap_or_else(|_| Err(("deadline exceeded".to_owned(), None))).map_err(failed)
}

/// What went wrong, and what the command had written.
type Failure = (String, Option<String>);

async fn attempt(
    context: &Context,
    whose: &Whose<'_>,
    handler: &LifecycleHandler,
    limit: Duration,
) -> Result<(), Failure> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        return exec_hook(context, whose.id, command, limit).await;
    }
    let plain = |error: String| (error, None);
    if let Some(action) = &handler.http_get {
        if context.runtime.is_simulated() {
            return Ok(());
        }
        let get = http_get::request(action, whose.container, whose.ip, "kube-lifecycle").map_err(plain)?;
        return http_get::status(&get).await.map(drop).map_err(plain);
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        context.env.clock.sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err(plain("invalid handler".to_owned()))
}

async fn exec_hook(
    context: &Context,
    id: &str,
    command: Vec<String>,
    limit: Duration,
) -> Result<(), Failure> {
    let text = command.join(" ");
    let answer = context.runtime.exec_sync(id.to_owned(), command, limit).await;
    let answer = answer.map_err(|error| (error.to_string(), Some(String::new())))?;
    if answer.exit_code == 0 {
        return Ok(());
    }
    let output = [answer.stdout, answer.stderr].concat();
    let error = format!("command '{text}' exited with {}: ", answer.exit_code);
    Err((error, Some(String::from_utf8_lossy(&output).into_owned())))
}

/// Upstream's text of a hook that failed.
fn message(whose: &Whose<'_>, handler: &LifecycleHandler, error: &str, output: Option<String>) -> String {
    let (kind, what) = match handler {
        LifecycleHandler { exec: Some(exec), .. } => {
            ("Exec", exec.command.clone().unwrap_or_default().join(" "))
        }
        LifecycleHandler { http_get: Some(get), .. } => ("HTTP", get.path.clone().unwrap_or_default()),
        LifecycleHandler { sleep: Some(sleep), .. } => ("Sleep", sleep.seconds.to_string()),
        _ => return format!("Cannot run handler: {error}"),
    };
    let what = if kind == "Exec" { format!("[{what}]") } else { what };
    let (name, pod) = (&whose.container.name, whose.pod);
    let text = format!(
        "{kind} lifecycle hook ({what}) for Container \"{name}\" in Pod \"{pod}\" failed - error: {error}"
    );
    match output {
        Some(output) => format!("{text}, message: {output:?}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn text(handler: Value, output: Option<&str>) -> String {
        let container = Container { name: "c".into(), ..Container::default() };
        let whose = Whose { pod: "p_n(u)", ip: "", container: &container, id: "" };
        let handler = serde_json::from_value(handler).expect("a handler");
        message(&whose, &handler, "e", output.map(str::to_owned))
    }

    #[test]
    fn failures_have_upstreams_words() {
        let rest = "for Container \"c\" in Pod \"p_n(u)\" failed - error: e";
        assert_eq!(
            text(json!({"exec": {"command": ["sh", "-c"]}}), Some("o\"x")),
            format!("Exec lifecycle hook ([sh -c]) {rest}, message: \"o\\\"x\"")
        );
        let http = text(json!({"httpGet": {"path": "/a", "port": 1}}), None);
        assert_eq!(http, format!("HTTP lifecycle hook (/a) {rest}"));
        assert_eq!(text(json!({"sleep": {"seconds": 3}}), None), format!("Sleep lifecycle hook (3) {rest}"));
        assert_eq!(text(json!({"tcpSocket": {"port": 1}}), None), "Cannot run handler: e");
    }
}
