//! `/statusz` and `/flagz` (KEP-4827, KEP-4828): what runs here since when, and with which flags. A text for people, or
//! an object for who asks for `application/json` or `application/yaml` with `as`, `g` and `v`.

use std::fmt::Write as _;

use api_types::codec;
use api_types::status::Status;
use http::{Response, header};
use serde_json::{Value, json};

use crate::api::Api;
use crate::body::{self, Body};
use crate::call::Call;
use crate::health;
use crate::negotiate::{self, Format};

/// Who speaks.
const COMPONENT: &str = "apiserver";
/// The group of the objects.
const GROUP: &str = "config.k8s.io";
/// Their versions; the first is deprecated.
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];
const TEXT: &str = "text/plain";
/// Paths that are told of for looking at the server.
const PATHS: [&str; 6] = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/version"];

/// One of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Status,
    Flags,
}

impl Page {
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/statusz" => Some(Self::Status),
            "/flagz" => Some(Self::Flags),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Status => "statusz",
            Self::Flags => "flagz",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Status => "Statusz",
            Self::Flags => "Flagz",
        }
    }
}

/// How a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// With a version.
    Object(Format, &'static str),
}

/// The first form that is wanted and there is.
fn form(accept: &str, page: Page) -> Result<Form, Status> {
    if accept.trim().is_empty() {
        return Ok(Form::Text);
    }
    let found = negotiate::wanted(accept).into_iter().find_map(|(media, parameters)| {
        let parameter =
            |name: &str| parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value);
        let asked = [parameter("as"), parameter("g"), parameter("v")];
        let format = match media {
            TEXT | "text/*" | "*/*" if asked == ["", "", ""] => return Some(Form::Text),
            negotiate::JSON | "application/*" | "*/*" => Format::Json,
            negotiate::YAML => Format::Yaml,
            _ => return None,
        };
        let version = VERSIONS.into_iter().find(|version| *version == asked[2])?;
        (asked[0] == page.kind() && asked[1] == GROUP).then_some(Form::Object(format, version))
    });
    found.ok_or_else(|| Status::not_acceptable(&[negotiate::JSON, negotiate::YAML, TEXT]))
}

impl Api {
    /// Answers with one of the pages.
    pub(crate) fn zpage(&self, call: &Call, page: Page) -> Result<Response<Body>, Status> {
        match form(call.header(header::ACCEPT), page)? {
            Form::Text => Ok(body::response(200, "text/plain; charset=utf-8", self.page_text(page))),
            Form::Object(format, version) => {
                if version == VERSIONS[0] {
                    let name = page.name();
                    call.warn(format!(
                        "This version of the {name} endpoint is deprecated. Please use a newer version."
                    ));
                }
                let object = self.page_object(page, version);
                let bytes = match format {
                    Format::Yaml => codec::encode_yaml(&object),
                    _ => format!("{object}\n"),
                };
                Ok(body::response(200, format.media_type(), bytes))
            }
        }
    }

    /// Seconds since the server was built.
    fn uptime(&self) -> i64 {
        (self.now() - self.started).max(0) / 1000
    }

    fn page_text(&self, page: Page) -> String {
        let mut out = format!(
            "\n{COMPONENT} {}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n",
            page.name()
        );
        match page {
            Page::Flags => {
                for (name, value) in &self.flags {
                    // Writing to a text cannot fail.
                    let _ = writeln!(out, "{name}={value}");
                }
            }
            Page::Status => {
                let (up, version) = (self.uptime(), health::kubernetes_version());
                let _ = write!(
                    out,
                    "\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: \nBinary version: {version}\nEmulation version: {}\nPaths: {}\n",
                    api_types::time::from_millis(self.started),
                    up / 3600,
                    up / 60 % 60,
                    up % 60,
                    health::EMULATED,
                    PATHS.join(" ")
                );
            }
        }
        out
    }

    fn page_object(&self, page: Page, version: &str) -> Value {
        let mut object = json!({
            "kind": page.kind(),
            "apiVersion": format!("{GROUP}/{version}"),
            "metadata": {"name": COMPONENT},
        });
        let more = match page {
            Page::Flags => json!({"flags": self.flags}),
            Page::Status => json!({
                "startTime": api_types::time::from_millis(self.started),
                "uptimeSeconds": self.uptime(),
                "goVersion": "",
                "binaryVersion": health::kubernetes_version(),
                "emulationVersion": health::EMULATED,
                "paths": PATHS,
            }),
        };
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_a_text_and_programs_what_they_name() {
        let of = |accept: &str| form(accept, Page::Status).map_err(|status| status.code);
        for accept in ["", "text/plain", "*/*", "application/json, */*"] {
            assert_eq!(of(accept), Ok(Form::Text), "{accept}");
        }
        let json = "application/json;as=Statusz;v=v1beta1;g=config.k8s.io";
        assert_eq!(of(json), Ok(Form::Object(Format::Json, "v1beta1")));
        let yaml = "application/yaml;as=Statusz;v=v1alpha1;g=config.k8s.io, text/plain";
        assert_eq!(of(yaml), Ok(Form::Object(Format::Yaml, "v1alpha1")));
        for accept in ["application/json", "application/json;as=Flagz;v=v1beta1;g=config.k8s.io", "image/png"]
        {
            assert_eq!(of(accept), Err(406), "{accept}");
        }
    }
}
