//! As much of S3 as a backup needs, in memory: objects by path, in one request or in parts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

type Objects = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A server; it ends with the test's process.
pub struct S3 {
    pub endpoint: String,
    pub objects: Objects,
}

impl S3 {
    pub fn start() -> Self {
        let objects = Objects::default();
        let (tell, told) = std::sync::mpsc::channel();
        let shared = objects.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
                tell.send(listener.local_addr().expect("address")).expect("tell");
                loop {
                    let (stream, _) = listener.accept().await.expect("accept");
                    let objects = shared.clone();
                    let service = service_fn(move |request| answer(objects.clone(), request));
                    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    drop(served.await);
                }
            });
        });
        Self { endpoint: format!("http://{}", told.recv().expect("an address")), objects }
    }
}

fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("etag", "\"1\"")
        .header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        // One connection is served at a time.
        .header("connection", "close")
        .body(Full::new(body.into()))
        .expect("a response")
}

async fn answer(objects: Objects, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default();
    let parameter = |name: &str| {
        query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let mut objects = objects.lock().expect("lock");
    Ok(match (head.method, parameter("partNumber")) {
        (Method::PUT, Some(number)) => {
            objects.insert(format!("part {path} {number:0>5}"), body);
            respond(StatusCode::OK, "")
        }
        (Method::PUT, None) => {
            objects.insert(path, body);
            respond(StatusCode::OK, "")
        }
        (Method::GET, _) => match objects.get(&path) {
            Some(found) => respond(StatusCode::OK, found.clone()),
            None => respond(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>"),
        },
        (Method::DELETE, _) => {
            objects.remove(&path);
            respond(StatusCode::NO_CONTENT, "")
        }
        (Method::POST, _) if query.starts_with("uploads") => respond(
            StatusCode::OK,
            "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>",
        ),
        (Method::POST, _) if query.starts_with("uploadId") => {
            let parts = format!("part {path} ");
            let names: Vec<String> =
                objects.keys().filter(|name| name.starts_with(&parts)).cloned().collect();
            let whole: Vec<u8> =
                names.iter().flat_map(|name| objects.remove(name).expect("a part")).collect();
            objects.insert(path, whole.into());
            let etag = "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>";
            respond(StatusCode::OK, etag)
        }
        (Method::POST, _) => {
            let text = String::from_utf8_lossy(&body).into_owned();
            let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
            let gone: Vec<String> = keys.map(str::to_owned).collect();
            for key in &gone {
                objects.remove(&format!("{}/{key}", path.trim_end_matches('/')));
            }
            let said: String =
                gone.iter().map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
            respond(StatusCode::OK, format!("<DeleteResult>{said}</DeleteResult>"))
        }
        _ => respond(StatusCode::METHOD_NOT_ALLOWED, ""),
    })
}
