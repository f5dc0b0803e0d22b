//! `/openapi/v2`, `/openapi/v3` and what is below: headers, forms and hashes as upstream's `kube-openapi/pkg/handler`
//! and `handler3` have them.

use std::sync::Arc;

use api_types::status::Status;
use api_types::time;
use http::{Response, header};

use super::documents::{self, Form, Packed};
use crate::aggregation::Parts;
use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::catalog::Definitions;
use crate::compress;
use crate::negotiate::{self, JSON};

/// The media types of protobuf, with the names that older clients ask for, which are none by the rules for their `@`.
const V2: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];
const V3: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
];
/// Milliseconds that a document with its hash in the URL may be kept by a client: a year.
const FRESH_MILLIS: i64 = 365 * 24 * 3600 * 1000;

impl Api {
    /// Answers `/openapi/…`; none for other paths.
    pub(crate) async fn openapi(&self, call: &Call) -> Result<Option<Response<Body>>, Status> {
        let Some(path) = call.info.path.trim_matches('/').strip_prefix("openapi/") else { return Ok(None) };
        let view = self.storage.view();
        let definitions = self.catalog.all(&view)?;
        match path.strip_prefix("v3/") {
            _ if path == "v2" => {
                self.openapi_v2(call, definitions, self.aggregation.v2(&view)).await.map(Some)
            }
            _ if path == "v3" => Ok(Some(index(call, &definitions, self.aggregation.v3(&view)))),
            Some(path) => self.openapi_v3(call, path, definitions).await,
            None => Ok(None),
        }
    }

    async fn openapi_v2(
        &self,
        call: &Call,
        definitions: Arc<Definitions>,
        others: Parts,
    ) -> Result<Response<Body>, Status> {
        let form = form(call, &V2)?;
        let hash = documents::v2_hash(&definitions, &others.hash);
        if let Some(unchanged) = unchanged(call, &hash) {
            return Ok(unchanged);
        }
        let (documents, of) = (self.documents.clone(), hash.clone());
        let packed = make(move || documents.v2(form, &of, &definitions, &others.parts)).await?;
        Ok(answer(call, packed, media_type(form, &V2), &hash).await)
    }

    async fn openapi_v3(
        &self,
        call: &Call,
        path: &str,
        definitions: Arc<Definitions>,
    ) -> Result<Option<Response<Body>>, Status> {
        let Some(hash) = documents::v3_hash(path, &definitions) else { return Ok(None) };
        let form = form(call, &V3)?;
        let asked = call.query.get("hash");
        if !asked.is_empty() && asked != hash {
            return Ok(Some(moved(&documents::url(path, &hash))));
        }
        let mut response = match unchanged(call, &hash) {
            Some(unchanged) => unchanged,
            None => {
                let (documents, path, of) = (self.documents.clone(), path.to_owned(), hash.clone());
                let made = make(move || documents.v3(&path, form, &of, &definitions)).await?;
                let Some(packed) = made else { return Ok(None) };
                answer(call, packed, media_type(form, &V3), &hash).await
            }
        };
        if !asked.is_empty() {
            body::set_header(&mut response, header::CACHE_CONTROL, "public, immutable");
            body::set_header(&mut response, header::EXPIRES, &time::http_date(self.now() + FRESH_MILLIS));
        }
        Ok(Some(response))
    }
}

/// Making a document takes a fraction of a second of one core: not on a thread that serves connections.
async fn make<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(Status::internal)
}

fn media_type(form: Form, protobuf: &[&'static str; 2]) -> &'static str {
    match form {
        Form::Json => JSON,
        Form::Protobuf => protobuf[0],
    }
}

/// The first form that the client takes.
fn form(call: &Call, protobuf: &[&'static str; 2]) -> Result<Form, Status> {
    let accept = call.header(header::ACCEPT);
    if accept.trim().is_empty() {
        return Ok(Form::Json);
    }
    let form = |media: &str| match media {
        JSON | "*/*" | "application/*" | "*/json" => Some(Form::Json),
        media => protobuf.contains(&media).then_some(Form::Protobuf),
    };
    let accepted = negotiate::accepted(accept).into_iter().find_map(form);
    accepted.ok_or_else(|| Status::not_acceptable(&[JSON, protobuf[0]]))
}

fn index(call: &Call, definitions: &Definitions, others: Vec<(String, String)>) -> Response<Body> {
    let json = documents::index(definitions, others).to_string();
    let hash = documents::hash(json.as_bytes());
    unchanged(call, &hash).unwrap_or_else(|| {
        let mut response = body::response(200, JSON, json);
        body::set_header(&mut response, header::ETAG, &format!("\"{hash}\""));
        response
    })
}

/// 304 for who has the document.
fn unchanged(call: &Call, hash: &str) -> Option<Response<Body>> {
    let etag = format!("\"{hash}\"");
    let known = call.header(header::IF_NONE_MATCH).split(',').map(str::trim);
    let mut known = known.map(|known| known.strip_prefix("W/").unwrap_or(known));
    known.any(|known| known == etag || known == "*").then(|| {
        let mut response = Response::new(body::full(""));
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        body::set_header(&mut response, header::ETAG, &etag);
        body::set_header(&mut response, header::VARY, "Accept");
        response
    })
}

fn moved(to: &str) -> Response<Body> {
    let mut response = body::response(301, "text/plain; charset=utf-8", "");
    body::set_header(&mut response, header::LOCATION, to);
    response
}

async fn answer(call: &Call, packed: Packed, media: &str, hash: &str) -> Response<Body> {
    let wants_gzip = compress::is_wanted(&call.headers);
    let bytes = match wants_gzip {
        true => packed.gzip,
        false => make(move || packed.unpack()).await.unwrap_or_default().into(),
    };
    let mut response = body::response(200, media, bytes);
    if wants_gzip {
        body::set_header(&mut response, header::CONTENT_ENCODING, "gzip");
    }
    body::set_header(&mut response, header::ETAG, &format!("\"{hash}\""));
    body::set_header(&mut response, header::VARY, "Accept, Accept-Encoding");
    response
}
