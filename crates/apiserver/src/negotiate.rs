//! Which form an answer takes, from the `Accept` header; which form a body has, from `Content-Type`.

use api_types::status::Status;

/// JSON.
pub(crate) const JSON: &str = "application/json";
/// YAML.
pub(crate) const YAML: &str = "application/yaml";
/// Protobuf in its envelope.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const OFFERED: [&str; 3] = [JSON, YAML, PROTOBUF];
/// What an object is without all but its metadata, and a list of such.
pub(crate) const PARTIAL: &str = "PartialObjectMetadata";
pub(crate) const PARTIAL_LIST: &str = "PartialObjectMetadataList";

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// What of an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    Object,
    Table,
    Metadata,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Media {
    pub format: Format,
    pub shape: Shape,
    /// Whether metadata were asked for as those of a list.
    pub of_list: bool,
    pub pretty: bool,
}

impl Media {
    pub const JSON: Self = Self { format: Format::Json, shape: Shape::Object, of_list: false, pretty: false };
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let quality = parameters.iter().find(|(key, _)| *key == "q");
            let quality = quality.and_then(|(_, value)| value.parse().ok()).unwrap_or(1.0);
            Some(Clause { media, parameters, quality })
        })
        .collect();
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

/// Chooses the form of an answer. `shapes`: whether the endpoint can write tables and bare metadata.
pub(crate) fn accept(header: &str, shapes: bool) -> Result<Media, Status> {
    if header.trim().is_empty() {
        return Ok(Media::JSON);
    }
    clauses(header)
        .iter()
        .find_map(|clause| choose(clause, shapes))
        .ok_or_else(|| Status::not_acceptable(&OFFERED))
}

fn choose(clause: &Clause<'_>, shapes: bool) -> Option<Media> {
    let format = match clause.media {
        JSON | "*/*" | "application/*" => Format::Json,
        YAML => Format::Yaml,
        PROTOBUF => Format::Protobuf,
        _ => return None,
    };
    let parameter =
        |name: &str| clause.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let pretty = parameter("pretty") == Some("1");
    if parameter("stream").is_some_and(|stream| stream != "watch") {
        return None;
    }
    if parameter("as").or(parameter("g")).or(parameter("v")).is_none() {
        return Some(Media { format, pretty, ..Media::JSON });
    }
    let meta = parameter("g") == Some("meta.k8s.io") && parameter("v") == Some("v1");
    let kind = parameter("as").unwrap_or_default();
    let shape = match kind {
        "Table" if format != Format::Protobuf => Shape::Table,
        PARTIAL | PARTIAL_LIST => Shape::Metadata,
        _ => return None,
    };
    (meta && shapes).then_some(Media { format, shape, of_list: kind == PARTIAL_LIST, pretty })
}

/// What a watch is written in, besides [`OFFERED`].
const STREAMS: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Whether a built-in path has a representation that the client takes at all, whatever else its clauses say: upstream's
/// routes look first, at media types letter by letter (go-restful's `matchesAccept`).
pub(crate) fn check_accept(header: &str, offered: &[&str]) -> Result<(), Status> {
    let taken = |clause: &str| {
        let media = clause.split(';').next().unwrap_or_default().trim();
        media == "*/*" || offered.iter().any(|one| one.split(';').next() == Some(media))
    };
    match header.is_empty() || header.split(',').any(taken) {
        true => Ok(()),
        false => Err(Status::no_representation(offered)),
    }
}

/// [`check_accept`] for objects; `streams`: whether the path can be watched.
pub(crate) fn check_object_accept(header: &str, streams: bool) -> Result<(), Status> {
    match streams {
        true => check_accept(header, &[OFFERED.as_slice(), STREAMS.as_slice()].concat()),
        false => check_accept(header, &OFFERED),
    }
}

/// 406 of a watch in a form that does not come in pieces.
pub(crate) fn not_a_stream() -> Status {
    Status::not_acceptable(&STREAMS)
}

/// The form of aggregated discovery; none when the plain one is preferred.
pub(crate) fn aggregated_discovery(header: &str) -> Option<Format> {
    let all = clauses(header);
    let clause = all.first()?;
    let has = |name, value| clause.parameters.contains(&(name, value));
    let asked = has("g", "apidiscovery.k8s.io") && has("v", "v2") && has("as", "APIGroupDiscoveryList");
    match clause.media {
        JSON if asked => Some(Format::Json),
        PROTOBUF if asked => Some(Format::Protobuf),
        _ => None,
    }
}

/// Names and values of what follows a media type.
pub(crate) type Parameters<'a> = Vec<(&'a str, &'a str)>;

/// The media types of an `Accept` header with their parameters, those that the client likes best first.
pub(crate) fn wanted(header: &str) -> Vec<(&str, Parameters<'_>)> {
    let wanted = clauses(header).into_iter().filter(|clause| clause.quality > 0.0);
    wanted.map(|clause| (clause.media, clause.parameters)).collect()
}

/// The media types of an `Accept` header, those that the client likes best first.
pub(crate) fn accepted(header: &str) -> Vec<&str> {
    let wanted = clauses(header).into_iter().filter(|clause| clause.quality > 0.0);
    wanted.map(|clause| clause.media).collect()
}

/// The media type of a header without its parameters, in small letters.
pub(crate) fn media_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The form of a request's body; JSON when it is not said.
pub(crate) fn content_type(header: &str) -> Result<Format, Status> {
    // As Go reads it (`mime.ParseMediaType`).
    let is_parameter = |part: &str| part.trim().is_empty() || part.contains('=');
    if !header.split(';').skip(1).all(is_parameter) {
        return Err(Status::unsupported_media(&OFFERED));
    }
    match media_type(header).as_str() {
        "" | JSON => Ok(Format::Json),
        YAML => Ok(Format::Yaml),
        PROTOBUF => Ok(Format::Protobuf),
        _ => Err(Status::unsupported_media(&OFFERED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_clause_that_fits_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl, true).unwrap().shape, Shape::Table);
        assert_eq!(accept(kubectl, false).unwrap().shape, Shape::Object);
        let informer = "application/vnd.kubernetes.protobuf, application/json";
        assert_eq!(accept(informer, true).unwrap().format, Format::Protobuf);
        assert_eq!(accept("application/json;q=0.5, application/yaml", true).unwrap().format, Format::Yaml);
        assert_eq!(accept("*/*", true).unwrap(), Media::JSON);
    }

    #[test]
    fn what_is_not_offered_is_406() {
        let status = accept("text/csv", true).unwrap_err();
        assert_eq!(status.code, 406);
        assert_eq!(
            status.message,
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        );
        assert_eq!(accept("application/json;as=Table;v=v1;g=meta.k8s.io", false).unwrap_err().code, 406);
    }

    #[test]
    fn bodies_of_other_types_are_415() {
        assert_eq!(content_type("application/json; charset=utf-8").unwrap(), Format::Json);
        assert_eq!(content_type("application/json;").unwrap(), Format::Json);
        for odd in ["text/plain", "application/json; charset"] {
            assert_eq!(content_type(odd).unwrap_err().code, 415, "{odd}");
        }
    }
}
