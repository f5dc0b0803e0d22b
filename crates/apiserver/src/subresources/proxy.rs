//! `proxy`: requests to what a pod, a service or a node answers on a port, in the server's name.
//!
//! As upstream: a service is one of its ready endpoints that is a pod; loopback and link-local addresses are refused;
//! the client's credentials stay here; redirects within what is proxied are rewritten, and not followed.

use std::net::IpAddr;

use api_types::field::quote;
use api_types::status::Status;
use api_types::{Value, table};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;

use super::links::Links;
use crate::api::Api;
use crate::body::{self, Body, BoxError};
use crate::call::Call;
use crate::convert;
use crate::dial::{self, Connection};
use crate::forward::{self, asks_for_upgrade};
use crate::negotiate;
use crate::node_client::Endpoint;
use crate::reach;
use crate::registry::Target;
use crate::storage::View;

/// Segments of a path before what is the backend's: `/api/v1/nodes/n/proxy`, and with a namespace.
const SEGMENTS: [usize; 2] = [5, 7];

/// What is asked for: `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

/// A backend.
struct Backend {
    way: Way,
    /// `address:port`, as a client that reaches it itself would write it.
    authority: String,
    tls: bool,
}

/// How a backend is reached.
enum Way {
    /// The agent of a node.
    Agent(Endpoint),
    /// Another port of a node.
    Node(Endpoint),
    /// A port of a pod, by way of its node's agent.
    Pod { node: Endpoint, namespace: String, name: String, port: u16 },
}

impl Api {
    pub(super) async fn proxy(&self, call: &Call, target: &Target) -> Result<Response<Body>, Status> {
        let upgrades = asks_for_upgrade(call);
        let kind = target.resource.resource.as_str();
        if kind == "nodes" && upgrades {
            // An agent runs commands for whoever gets that far.
            self.must_be_allowed(call, "create").await?;
        }
        let singular = kind.trim_end_matches('s');
        let wanted = wanted(&target.name).ok_or_else(|| {
            Status::bad_request(format!("invalid {singular} request {}", quote(&target.name)))
        })?;
        let view = self.storage.fresh().await?;
        let backend = match kind {
            "nodes" => self.node_backend(&view, &wanted)?,
            "pods" => self.pod_backend(&view, &target.namespace, &wanted)?,
            _ => self.service_backend(&view, &target.namespace, &wanted)?,
        };
        drop(view);
        let path = rest(&call.info.raw, SEGMENTS[usize::from(target.resource.namespaced)]);
        if prefix(&call.info.raw, path).to_ascii_lowercase().contains("%2f") {
            // It cannot be told where what is the backend's begins.
            return Err(Status::path_not_found());
        }
        if path.is_empty() && !upgrades && matches!(call.method, Method::GET | Method::HEAD) {
            return Ok(redirect(call));
        }
        self.forward(call, &backend, path, upgrades).await
    }

    fn node_backend(&self, view: &View, wanted: &Wanted<'_>) -> Result<Backend, Status> {
        let agent = Endpoint::of(&self.node(view, wanted.name)?)?;
        if agent.host.parse::<IpAddr>().is_ok_and(|address| !dial::is_allowed(address)) {
            return Err(Status::bad_request("address not allowed"));
        }
        if wanted.port.is_empty() || wanted.port == agent.port.to_string() {
            return Ok(Backend { authority: agent.authority(), way: Way::Agent(agent), tls: false });
        }
        let node = Endpoint { port: port(wanted.port)?, ..agent };
        Ok(Backend { authority: node.authority(), way: Way::Node(node), tls: wanted.tls })
    }

    fn pod_backend(&self, view: &View, namespace: &str, wanted: &Wanted<'_>) -> Result<Backend, Status> {
        let pod = self.pod(view, namespace, wanted.name)?;
        let first = || {
            let mut containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            containers.find_map(|container| container["ports"][0]["containerPort"].as_u64())
        };
        let port = match wanted.port {
            "" => {
                first().and_then(|port| u16::try_from(port).ok()).unwrap_or(if wanted.tls { 443 } else { 80 })
            }
            named => port(named)?,
        };
        self.backend_of(view, namespace, &pod, port, wanted.tls)
    }

    fn backend_of(
        &self,
        view: &View,
        namespace: &str,
        pod: &Value,
        port: u16,
        tls: bool,
    ) -> Result<Backend, Status> {
        let address = pod["status"]["podIPs"][0]["ip"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
        let address = address.filter(|address| dial::is_allowed(*address));
        let address = address.ok_or_else(|| Status::bad_request("address not allowed"))?;
        let name = api_types::meta::name(pod).to_owned();
        let node = self.endpoint_of(view, &name, pod)?;
        let way = Way::Pod { node, namespace: namespace.to_owned(), name, port };
        Ok(Backend { way, authority: Endpoint { host: address.to_string(), port }.authority(), tls })
    }

    fn pod(&self, view: &View, namespace: &str, name: &str) -> Result<Value, Status> {
        let target = Target::new(super::pods(), namespace, name);
        convert::decode(super::pods(), &self.find(view, &target)?)
    }

    /// One of the pods behind a service's port that are ready.
    fn service_backend(&self, view: &View, namespace: &str, wanted: &Wanted<'_>) -> Result<Backend, Status> {
        let name = wanted.name;
        let none =
            || Status::service_unavailable(format!("no endpoints available for service {}", quote(name)));
        let port = match wanted.port.parse::<u64>() {
            Ok(number) => self.port_name(view, namespace, name, number)?,
            Err(_) => wanted.port.to_owned(),
        };
        let mut found = reach::ready(view, namespace, name, &port)?;
        while !found.is_empty() {
            let at = usize::try_from(self.storage.env.rng.below(found.len() as u64)).unwrap_or_default();
            let (endpoint, number) = found.swap_remove(at);
            let address = endpoint["addresses"][0].as_str().unwrap_or_default();
            if let Some(pod) = reach::pod_of(view, namespace, &endpoint, address) {
                return self.backend_of(view, namespace, &pod, number, wanted.tls);
            }
        }
        Err(none())
    }

    /// The name of a service's port.
    fn port_name(&self, view: &View, namespace: &str, name: &str, number: u64) -> Result<String, Status> {
        let services =
            table::find("", "v1", "services").expect("invariant: the table of kinds holds Service");
        let service = convert::decode(services, &self.find(view, &Target::new(services, namespace, name))?)?;
        let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["port"] == number).ok_or_else(|| {
            let why = format!("no service port {number} found for service {}", quote(name));
            Status::service_unavailable(why)
        })?;
        Ok(port["name"].as_str().unwrap_or_default().to_owned())
    }

    async fn connect(&self, backend: &Backend) -> Result<Connection, BoxError> {
        let client = self.node_client().map_err(|status| status.message)?;
        let (stream, host): (Connection, _) = match &backend.way {
            Way::Agent(agent) => return client.connect(agent, true).await,
            Way::Node(node) => {
                let connected = dial::tcp(&node.host, node.port, true);
                let connected = tokio::time::timeout(dial::CONNECT_TIMEOUT, connected).await;
                (Box::new(connected.map_err(|_| "dial tcp: i/o timeout")??), node.host.as_str())
            }
            Way::Pod { node, namespace, name, port } => {
                (client.connect_pod(node, (namespace, name), *port).await?, host(&backend.authority))
            }
        };
        match backend.tls {
            true => {
                let connector = dial::any_certificate()?;
                let secured = dial::tls(&connector, host, stream);
                tokio::time::timeout(dial::CONNECT_TIMEOUT, secured)
                    .await
                    .map_err(|_| "TLS handshake timeout")?
            }
            false => Ok(stream),
        }
    }

    async fn forward(
        &self,
        call: &Call,
        backend: &Backend,
        path: &str,
        upgrades: bool,
    ) -> Result<Response<Body>, Status> {
        let lost =
            |error: BoxError| Status::service_unavailable(format!("error trying to reach service: {error}"));
        let request = request(call, backend, path, upgrades).map_err(|error| lost(error.into()))?;
        let stream = self.connect(backend).await.map_err(lost)?;
        let answer = dial::send(stream, request, &self.tasks);
        if upgrades {
            let answer = tokio::time::timeout(dial::UPGRADE_TIMEOUT, answer).await;
            let answer = answer.unwrap_or_else(|_| Err("i/o timeout".into())).map_err(lost)?;
            return self.take_over(call, answer).await;
        }
        let mut response = answer.await.map_err(lost)?.map(body::incoming);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it, and what follows would be taken for this server's words.
            let to = response.headers().get(header::UPGRADE).and_then(|to| to.to_str().ok());
            let to = quote(to.unwrap_or_default());
            return Err(lost(
                format!("backend tried to switch protocol {to} when \"\" was requested").into(),
            ));
        }
        forward::settle(&mut response);
        let headers = response.headers_mut();
        let own = Own {
            backend: backend.authority.clone(),
            host: call.header(header::HOST).to_owned(),
            prefix: prefix(&call.info.raw, path).to_owned(),
        };
        if let Some(location) = headers.get(header::LOCATION) {
            let rewritten = location.to_str().ok().and_then(|location| own.rewrite(location));
            if let Some(location) = rewritten.and_then(|location| HeaderValue::from_str(&location).ok()) {
                headers.insert(header::LOCATION, location);
            }
            return Ok(response);
        }
        Ok(if is_page(headers) { with_links(response, own) } else { response })
    }
}

/// Reads `[scheme:]name[:port]`.
fn wanted(id: &str) -> Option<Wanted<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https");
    (known && !name.is_empty()).then_some(Wanted { tls: scheme == "https", name, port })
}

fn port(text: &str) -> Result<u16, Status> {
    let number = text.parse::<u16>().ok().filter(|port| *port > 0);
    number.ok_or_else(|| {
        Status::service_unavailable(format!("error trying to reach service: invalid port {}", quote(text)))
    })
}

/// What of a path follows its first segments, as it was written: empty, or from a slash on.
fn rest(path: &str, segments: usize) -> &str {
    let (mut rest, mut left) = (path, segments);
    while left > 0 {
        rest = rest.trim_start_matches('/');
        rest = rest.find('/').map_or("", |end| &rest[end..]);
        left -= 1;
    }
    rest
}

/// What of a path stands before its rest.
fn prefix<'a>(path: &'a str, rest: &str) -> &'a str {
    &path[..path.len() - rest.len()]
}

fn host(authority: &str) -> &str {
    authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']'])
}

/// `/proxy` to `/proxy/`, so that relative links of the page are below it.
fn redirect(call: &Call) -> Response<Body> {
    let query = match call.wire.query.as_str() {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    body::set_header(&mut response, header::LOCATION, &format!("{}/{query}", call.info.raw));
    response
}

/// What the backend is asked.
fn request(call: &Call, backend: &Backend, path: &str, upgrades: bool) -> Result<Request<Body>, http::Error> {
    let below = if path.is_empty() { "/" } else { path };
    let mut request = forward::request(call, below, upgrades)?;
    let headers = request.headers_mut();
    let host = call.header(header::HOST);
    forward::set(headers, "x-forwarded-uri", &format!("{}{path}", prefix(&call.info.raw, path)));
    forward::set(headers, "host", if host.is_empty() { &backend.authority } else { host });
    Ok(request)
}

/// Whether an answer is a page whose links can be read.
fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    negotiate::media_type(kind) == "text/html" && !headers.contains_key(header::CONTENT_ENCODING)
}

/// A page with its links rewritten, as it comes.
fn with_links(response: Response<Body>, own: Own) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    let begin = Some((body, Links::default(), own));
    let pieces = futures::stream::unfold(begin, |state| async move {
        let (mut body, mut links, own) = state?;
        loop {
            let (piece, last) = match body.frame().await {
                None => (links.push(&[], true, &|link| own.rewrite(link)), true),
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    (links.push(&data, false, &|link| own.rewrite(link)), false)
                }
            };
            if last {
                return Some((Ok(piece.into()), None));
            }
            if !piece.is_empty() {
                return Some((Ok(piece.into()), Some((body, links, own))));
            }
        }
    });
    Response::from_parts(head, body::stream(pieces))
}

/// What is within a proxy.
struct Own {
    /// The backend's address.
    backend: String,
    /// The address at which the client asks this server.
    host: String,
    /// The path before the backend's.
    prefix: String,
}

impl Own {
    /// A link as the client must follow it; none: it is to be left as it is.
    fn rewrite(&self, link: &str) -> Option<String> {
        let (own, path) = match link.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                rest.split_at(end)
            }
            _ if link.starts_with("//") => {
                let end = link[2..].find(['/', '?', '#']).map_or(link.len(), |end| end + 2);
                (&link[2..end], &link[end..])
            }
            _ => ("", link),
        };
        let ours = own.is_empty() || own == self.backend || own == self.host;
        if !ours || !path.starts_with('/') || path.starts_with(&self.prefix) {
            return None;
        }
        Some(format!("{}{path}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_scheme_and_port() {
        let of = |id| wanted(id).map(|Wanted { tls, name, port }| (tls, name, port));
        assert_eq!(of("web"), Some((false, "web", "")));
        assert_eq!(of("web:http"), Some((false, "web", "http")));
        assert_eq!(of("https:web:"), Some((true, "web", "")));
        assert_eq!(of("http:web:80"), Some((false, "web", "80")));
        assert!(
            of("ftp:web:21").is_none() && of("").is_none() && of(":80").is_none() && of("a:b:c:d").is_none()
        );
    }

    #[test]
    fn the_backends_path_is_as_it_was_written() {
        let pod = "/api/v1/namespaces/proxy/pods/proxy/proxy";
        for below in ["", "/", "/a/b/", "//a%2Fb/%20", "/proxy/proxy"] {
            let path = format!("{pod}{below}");
            assert_eq!((rest(&path, 7), prefix(&path, below)), (below, pod));
        }
        assert_eq!(rest("/api/v1/nodes/n/proxy/metrics", 5), "/metrics");
    }

    fn example() -> (Call, Backend) {
        let mut call = Call::internal();
        let path = "/api/v1/namespaces/n/pods/p:80/proxy/a%20b/";
        call.info.raw = path.to_owned();
        call.wire.query = "x=1&y=%20".to_owned();
        for (name, value) in [(header::HOST, "master:6443"), (header::AUTHORIZATION, "Bearer secret")] {
            call.headers.insert(name, HeaderValue::from_static(value));
        }
        let node = Endpoint { host: "10.0.0.1".into(), port: 10250 };
        let way = Way::Pod { node, namespace: "n".into(), name: "p".into(), port: 80 };
        (call, Backend { way, authority: "10.1.2.3:80".into(), tls: false })
    }

    #[test]
    fn the_backend_is_asked_in_the_clients_words() {
        let (call, backend) = example();
        let asked = request(&call, &backend, "/a%20b/", false).unwrap();
        assert_eq!(asked.uri(), "/a%20b/?x=1&y=%20");
        assert!(!asked.headers().contains_key("authorization"));
        assert_eq!(asked.headers()["host"], "master:6443");
        assert_eq!(asked.headers()["x-forwarded-uri"], "/api/v1/namespaces/n/pods/p:80/proxy/a%20b/");
    }

    #[test]
    fn redirects_stay_within_the_proxy() {
        let prefix = "/api/v1/namespaces/n/pods/p:80/proxy";
        let own =
            Own { backend: "10.1.2.3:80".into(), host: "master:6443".into(), prefix: prefix.to_owned() };
        let to = |link: &str| own.rewrite(link);
        assert_eq!(to("/login?next=/x").unwrap(), format!("{prefix}/login?next=/x"));
        assert_eq!(to("http://10.1.2.3:80/a").unwrap(), format!("{prefix}/a"));
        assert_eq!(to("https://master:6443/a").unwrap(), format!("{prefix}/a"));
        assert_eq!(to("//master:6443/a").unwrap(), format!("{prefix}/a"));
        assert_eq!(to("/a?next=http://elsewhere/").unwrap(), format!("{prefix}/a?next=http://elsewhere/"));
        for left in ["relative", "http://elsewhere/a", "//elsewhere/a", &format!("{prefix}/a")] {
            assert!(to(left).is_none(), "{left}");
        }
    }
}
