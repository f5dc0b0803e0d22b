//! How the server behind an APIService is reached, who this server says it is, and what it asks in its own name.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api_types::field::quote;
use bytes::Bytes;
use env::TaskGroup;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio_rustls::TlsConnector;

use super::Aggregation;
use super::identity::Keyed;
use crate::api::Api;
use crate::body::{self, Body, BoxError, ReadError};
use crate::dial::{self, Connection};
use crate::node_client::Endpoint;
use crate::reach::{Answerer, answerers};
use crate::storage::View;
use crate::tls;
use crate::user::UserInfo;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA_PREFIX: &str = "x-remote-extra-";
/// Endpoints that one request tries to connect to, at most.
const MAX_TRIES: usize = 3;

/// Who serves an APIService.
pub(crate) struct Remote {
    pub namespace: String,
    pub service: String,
    pub port: u16,
    /// As its status says.
    pub is_available: bool,
    pub(super) trust: Arc<Trust>,
}

/// Whose certificates are believed.
pub(super) struct Trust {
    /// Authorities, PEM; empty: the system's.
    bundle: Vec<u8>,
    /// Whoever answers is believed.
    is_insecure: bool,
    /// Of the certificate that this server shows.
    connector: Mutex<Option<(Option<Arc<Keyed>>, Connector)>>,
}

type Connector = Result<TlsConnector, String>;

impl Trust {
    pub fn new(bundle: Vec<u8>, is_insecure: bool) -> Self {
        Self { bundle, is_insecure, connector: Mutex::default() }
    }

    pub fn is(&self, bundle: &[u8], is_insecure: bool) -> bool {
        self.bundle == bundle && self.is_insecure == is_insecure
    }

    /// Made when it is first needed: reading the system's authorities takes a while.
    fn connector(&self, identity: Option<Arc<Keyed>>) -> Connector {
        let mut kept = self.connector.lock();
        let is_same = |known: &Option<Arc<Keyed>>| match (known, &identity) {
            (Some(known), Some(identity)) => Arc::ptr_eq(known, identity),
            (known, identity) => known.is_none() && identity.is_none(),
        };
        if let Some((known, connector)) = &*kept
            && is_same(known)
        {
            return connector.clone();
        }
        let connector = self.connect_as(identity.as_deref());
        *kept = Some((identity, connector.clone()));
        connector
    }

    fn connect_as(&self, identity: Option<&Keyed>) -> Connector {
        let authority = (!self.is_insecure).then_some(self.bundle.as_slice());
        let config = tls::of_kubeconfig(authority, identity);
        let config = config.map_err(|error| format!("unable to load root certificates: {error}"))?;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// An answer, read whole.
pub(super) struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What this server asks in its own name.
pub(super) struct Question<'a> {
    pub path: &'a str,
    pub accept: &'a str,
    /// The `ETag` of what is known already.
    pub known: &'a str,
    /// As whom.
    pub user: &'a UserInfo,
    pub timeout: Duration,
    /// Bytes of the answer, at most.
    pub limit: usize,
}

impl Remote {
    /// The name in the server's certificate.
    pub fn server(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// Where it answers: ready endpoints of the service, a random one first.
    pub(super) fn endpoints(&self, api: &Api, view: &View) -> Result<Vec<Answerer>, String> {
        let mut found = answerers(api, view, &self.namespace, &self.service, self.port)?;
        let first = api.storage.env.rng.below(found.len().max(1) as u64);
        found.rotate_left(usize::try_from(first).unwrap_or_default());
        found.truncate(MAX_TRIES);
        Ok(found)
    }

    /// Whether the server can be called at all: its authorities can be read.
    pub(super) fn check(&self, aggregation: &Aggregation) -> Result<(), String> {
        self.trust.connector(aggregation.identity.current()).map(drop)
    }

    /// A connection to the first endpoint that takes one, and which that is.
    pub(super) async fn connect<'a>(
        &self,
        aggregation: &Aggregation,
        endpoints: &'a [Answerer],
    ) -> Result<(Connection, &'a Endpoint), BoxError> {
        let connector = self.trust.connector(aggregation.identity.current())?;
        let connected = async {
            let mut failure: BoxError = "no address is known".into();
            for endpoint in endpoints {
                match endpoint.connect().await {
                    Ok(stream) => {
                        let secured = dial::tls(&connector, &self.server(), stream).await;
                        return Ok((secured.map_err(in_gos_words)?, &endpoint.at));
                    }
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        };
        tokio::time::timeout(dial::CONNECT_TIMEOUT, connected).await.map_err(|_| "dial tcp: i/o timeout")?
    }

    /// Asks in this server's own name, up to the head of the answer.
    pub(super) async fn ask(
        &self,
        api: &Api,
        endpoints: &[Answerer],
        question: &Question<'_>,
    ) -> Result<Response<Incoming>, BoxError> {
        let (stream, endpoint) = self.connect(&api.aggregation, endpoints).await?;
        let mut request = Request::get(question.path)
            .header(header::HOST, endpoint.authority())
            .header(header::ACCEPT, question.accept)
            .header(header::USER_AGENT, "kube-aggregator")
            .body(body::full(""))?;
        if !question.known.is_empty() {
            request.headers_mut().insert(header::IF_NONE_MATCH, HeaderValue::from_str(question.known)?);
        }
        tell(request.headers_mut(), question.user)?;
        send(stream, request, &api.tasks).await
    }

    /// Gets a document, or says why there is none.
    pub(super) async fn get(&self, api: &Api, question: &Question<'_>) -> Result<Answer, String> {
        let endpoints = self.endpoints(api, &api.storage.view())?;
        let asked = async {
            let response = self.ask(api, &endpoints, question).await?;
            let (head, body) = response.into_parts();
            let body = match body::read_up_to(body::incoming(body), question.limit).await {
                Ok(body) => body,
                Err(ReadError::TooLarge(_)) => {
                    return Err(format!("the answer is larger than {} bytes", question.limit).into());
                }
                Err(ReadError::Broken(error)) => return Err(error),
            };
            Ok::<_, BoxError>(Answer { code: head.status.as_u16(), headers: head.headers, body })
        };
        let answer = tokio::time::timeout(question.timeout, asked).await;
        let answer = answer.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        answer.map_err(|error| format!("Get {}: {error}", quote(question.path)))
    }
}

/// Sends a request; a connection that ends before the answer is an `EOF`, as Go says it.
pub(super) async fn send(
    stream: Connection,
    request: Request<Body>,
    tasks: &TaskGroup,
) -> Result<Response<Incoming>, BoxError> {
    let sent = dial::send(stream, request, tasks).await;
    sent.map_err(|error| match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
            "EOF".into()
        }
        _ => error,
    })
}

/// Go's words for what TLS says.
fn in_gos_words(error: BoxError) -> BoxError {
    match error.downcast::<io::Error>() {
        Ok(error) => tls::in_gos_words(&error).into(),
        Err(error) => error,
    }
}

/// Says in a request's headers in whose name it is. Whatever they said of it before was somebody else's word.
///
/// # Errors
/// A name that no header can hold: the request must not be sent without it.
pub(super) fn tell(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), BoxError> {
    let said: Vec<HeaderName> = headers.keys().filter(|name| is_said(name)).cloned().collect();
    said.iter().for_each(|name| drop(headers.remove(name)));
    let mut add = |name: &str, value: &str| {
        let bad =
            || -> BoxError { format!("net/http: invalid header field value for {}", quote(name)).into() };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?;
        headers.try_append(header, value).map_err(|_| bad())?;
        Ok::<_, BoxError>(())
    };
    add(USER, &user.name)?;
    if !user.uid.is_empty() {
        add(UID, &user.uid)?;
    }
    for group in &user.groups {
        add(GROUP, group)?;
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA_PREFIX}{}", escaped(key));
        for value in values {
            add(&name, value)?;
        }
    }
    Ok(())
}

fn is_said(name: &HeaderName) -> bool {
    matches!(name.as_str(), USER | UID | GROUP) || name.as_str().starts_with(EXTRA_PREFIX)
}

/// A key with what no header's name may hold, and `%`, as `%XX` (client-go's `headerKeyEscape`).
fn escaped(key: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().fold(String::new(), |mut text, byte| {
        match is_plain(byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_server_says_who_asks() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (USER, "root"),
            (GROUP, "system:masters"),
            (UID, "0"),
            ("x-remote-extra-scopes", "all"),
            ("x-other", "1"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut user = UserInfo::new("jane", &["devs"]);
        user.extra.insert("example.org/Scope a".into(), vec!["x".into(), "y".into()]);
        tell(&mut headers, &user).unwrap();
        let all = |name: &str| -> Vec<&str> {
            headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(all(USER), ["jane"]);
        assert_eq!(all(GROUP), ["devs", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.org%2fscope%20a"), ["x", "y"]);
        assert!(all(UID).is_empty() && all("x-remote-extra-scopes").is_empty());
        assert_eq!(all("x-other"), ["1"]);
    }

    #[test]
    fn a_name_that_fits_in_no_header_is_not_left_out() {
        let user = UserInfo::new("jane\r\nX-Remote-Group: system:masters", &[]);
        let error = tell(&mut HeaderMap::new(), &user).unwrap_err();
        assert!(error.to_string().contains("invalid header field value for \"x-remote-user\""), "{error}");
    }
}
