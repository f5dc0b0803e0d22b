//! Logs: the node's agent has them, the server passes them on.

use api_types::Value;
use api_types::field::{FieldError, Path};
use api_types::status::Status;
use http::{Response, header};

use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::registry::Target;

/// Parameters that go on to the agent.
const PASSED: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
/// Bytes of an agent's error that are shown.
const MAX_ERROR_BYTES: usize = 64 << 10;

impl Api {
    pub(super) async fn log(&self, call: &Call, target: &Target) -> Result<Response<Body>, Status> {
        for name in ["sinceSeconds", "tailLines", "limitBytes"] {
            call.query.number(name)?;
        }
        check_options(call)?;
        let view = self.storage.fresh().await?;
        let pod = target.resource.decode(&self.find(&view, target)?)?;
        let container = container(target, &pod, call.query.get("container"))?;
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
            // A pod that is nowhere has written nothing.
            return Ok(self.log_as_asked(call, body::response(200, "text/plain", "")));
        };
        let node = self.node(&view, node)?;
        let client = self.node_client()?;
        let path = format!("/containerLogs/{}/{}/{container}{}", target.namespace, target.name, query(call));
        let response = client.get(&node, &path).await?;
        if response.status().is_success() {
            let mut response = response;
            response.headers_mut().remove(header::CONNECTION);
            response.headers_mut().remove(header::TRANSFER_ENCODING);
            body::set_header(&mut response, header::CONTENT_TYPE, "text/plain");
            return Ok(self.log_as_asked(call, response));
        }
        Err(refused(response).await)
    }
}

/// What an agent refuses, as a Status with its words.
async fn refused(response: Response<Body>) -> Status {
    let code = response.status().as_u16();
    let text = body::read_up_to(response.into_body(), MAX_ERROR_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match code {
        400 => Status::bad_request(text),
        404 => Status::failure(404, "NotFound", text),
        // It might lead anywhere.
        300..=399 => Status::internal("redirects forbidden"),
        code => Status::failure(code, "InternalError", text),
    }
}

fn query(call: &Call) -> String {
    let passed = call.query.iter().filter(|(key, value)| PASSED.contains(key) && !value.is_empty());
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in passed {
        text.append_pair(key, value);
    }
    match text.finish() {
        query if query.is_empty() => query,
        query => format!("?{query}"),
    }
}

fn check_options(call: &Call) -> Result<(), Status> {
    let mut errors = Vec::new();
    let number = |name: &str| call.query.get(name).parse::<i64>().ok();
    if number("tailLines").is_some_and(|lines| lines < 0) {
        let text = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&Path::new("tailLines"), number("tailLines"), text));
    }
    if number("limitBytes").is_some_and(|bytes| bytes < 1) {
        errors.push(FieldError::invalid(
            &Path::new("limitBytes"),
            number("limitBytes"),
            "must be greater than 0",
        ));
    }
    if call.query.has("sinceSeconds") && call.query.has("sinceTime") {
        let text = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::root(), text));
    } else if number("sinceSeconds").is_some_and(|seconds| seconds < 1) {
        let path = Path::new("sinceSeconds");
        errors.push(FieldError::invalid(&path, number("sinceSeconds"), "must be greater than 0"));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("", "PodLogOptions", &call.info.name, &errors)),
    }
}

/// The container that is meant: the named one, or the only one.
pub(super) fn container(target: &Target, pod: &Value, asked: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let list = pod["spec"][list].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if !asked.is_empty() {
        let known = main.iter().chain(&init).chain(&ephemeral).any(|name| name == asked);
        return match known {
            true => Ok(asked.to_owned()),
            false => {
                Err(Status::bad_request(format!("container {asked} is not valid for pod {}", target.name)))
            }
        };
    }
    if let [one] = main.as_slice() {
        return Ok(one.clone());
    }
    let mut text = format!(
        "a container name must be specified for pod {}, choose one of: [{}]",
        target.name,
        main.join(" ")
    );
    if !init.is_empty() {
        text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    Err(Status::bad_request(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;
    use serde_json::json;

    #[test]
    fn the_only_container_needs_no_name() {
        let target = Target::new(table::find("", "v1", "pods").unwrap(), "n", "p");
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&target, &one, "").unwrap(), "a");
        let first = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}});
        assert_eq!(container(&target, &first, "").unwrap(), "a");
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&target, &two, "b").unwrap(), "b");
        assert_eq!(
            container(&target, &two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(container(&target, &two, "c").unwrap_err().message, "container c is not valid for pod p");
    }
}
