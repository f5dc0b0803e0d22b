//! Container logs in CRI's format: reads, filters, follows. Driver, with the line handling pure.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use env::Timestamp;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, text};
use crate::context::Context;
use crate::pod::config::log_path;
use crate::pod::paths::PodPaths;

/// Read from a file at a time, in bytes.
const CHUNK: usize = 64 << 10;
/// Chunks on their way to a slow reader.
const CHUNKS: usize = 8;
/// A followed file is looked at this often.
const FOLLOW_POLL: Duration = Duration::from_millis(200);

/// What a reader asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<usize>,
    limit_bytes: Option<usize>,
    /// Lines before this are left out.
    since: Option<i64>,
}

/// Reads the query; `now` is what `sinceSeconds` counts from.
fn options(query: &str, now: Timestamp) -> Result<Options, String> {
    let mut options = Options::default();
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let number = || value.parse::<i64>().map_err(|_| format!("invalid value {value:?} of {name}"));
        let size = || number().map(|number| usize::try_from(number).ok());
        let truth = matches!(value, "true" | "1");
        match name {
            "follow" => options.follow = truth,
            "previous" => options.previous = truth,
            "timestamps" => options.timestamps = truth,
            "tailLines" => options.tail = size()?,
            "limitBytes" => options.limit_bytes = size()?,
            "sinceSeconds" => options.since = Some(now.millis() - number()?.saturating_mul(1000)),
            "sinceTime" => {
                let decoded = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+");
                options.since = api_types::time::to_millis(&decoded);
            }
            _ => {}
        }
    }
    Ok(options)
}

/// A line of the log: `<time> <stream> <F|P> <text>`.
struct Line<'a> {
    time: &'a str,
    text: &'a [u8],
    partial: bool,
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let tags = parts.next()?;
    Some(Line { time, text: parts.next().unwrap_or_default(), partial: tags.starts_with(b"P") })
}

/// Turns the file's lines into what the reader sees.
struct Printer {
    options: Options,
    left: Option<usize>,
    mid_line: bool,
}

impl Printer {
    fn new(options: Options) -> Self {
        Self { left: options.limit_bytes, options, mid_line: false }
    }

    fn print(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        if let Some(since) = self.options.since
            && api_types::time::to_millis(line.time).is_some_and(|at| at < since)
        {
            return;
        }
        let start = out.len();
        if self.options.timestamps && !self.mid_line {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.mid_line = line.partial;
        if let Some(left) = &mut self.left {
            out.truncate(start + (out.len() - start).min(*left));
            *left -= out.len() - start;
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }
}

/// Where the last `lines` lines of `file` begin; reads it backwards, `block` bytes at a time.
async fn tail_start<F>(file: &mut F, lines: usize, block: usize) -> std::io::Result<u64>
where
    F: AsyncRead + AsyncSeek + Unpin,
{
    let length = file.seek(SeekFrom::End(0)).await?;
    let (mut start, mut ends) = (length, 0);
    let mut buffer = vec![0; block];
    while start > 0 && lines > 0 {
        let count = block.min(usize::try_from(start).unwrap_or(block));
        start -= count as u64;
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut buffer[..count]).await?;
        for (at, _) in buffer[..count].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + at as u64 + 1;
            // The end of the last line begins no other.
            ends += usize::from(after < length);
            if ends == lines {
                return Ok(after);
            }
        }
    }
    Ok(start)
}

/// Answers a request for a container's log.
pub(super) async fn serve(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &str,
) -> Response<Body> {
    let options = match options(query, context.env.clock.now()) {
        Ok(options) => options,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let Some(object) = context.pods.get(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
    };
    let uid = api_types::meta::uid(&object).to_owned();
    let paths = PodPaths::of(&context.root, namespace, pod, &uid);
    let (file, id) = match find(context, &paths, &uid, container, options.previous).await {
        Ok(found) => found,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let task = context.clone();
    context.tasks.spawn_detached("log", async move {
        let shutdown = task.tasks.shutdown().clone();
        tokio::select! {
            result = send(&task, &file, &id, options, &sender) => if let Err(error) = result {
                tracing::debug!(file = %file.display(), %error, "a log was not read");
            },
            () = sender.closed() => {}
            () = shutdown.wait() => {}
        }
    });
    let mut response = text(StatusCode::OK, "");
    *response.body_mut() = StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync();
    response
}

type Sender = mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>;

/// The log file of the newest (or the previous) run, and the container's id.
async fn find(
    context: &Context,
    paths: &PodPaths,
    uid: &str,
    container: &str,
    previous: bool,
) -> Result<(PathBuf, String), String> {
    let listed =
        context.runtime.list_containers(Some(uid.to_owned())).await.map_err(|error| error.to_string())?;
    let attempt = |one: &protos::cri::Container| one.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let mut own: Vec<_> = listed
        .into_iter()
        .filter(|one| one.metadata.as_ref().is_some_and(|metadata| metadata.name == container))
        .collect();
    own.sort_by_key(|one| std::cmp::Reverse(attempt(one)));
    let missing = || match previous {
        true => format!("previous terminated container \"{container}\" in pod not found"),
        false => format!("container \"{container}\" in pod is waiting to start"),
    };
    let one = own.into_iter().nth(usize::from(previous)).ok_or_else(missing)?;
    Ok((paths.logs.join(log_path(container, attempt(&one))), one.id))
}

async fn is_running(context: &Context, id: &str) -> bool {
    let status = context.runtime.container_status(id.to_owned()).await;
    status.is_ok_and(|status| status.state == protos::cri::ContainerState::ContainerRunning as i32)
}

async fn send(
    context: &Context,
    path: &Path,
    id: &str,
    options: Options,
    sender: &Sender,
) -> std::io::Result<()> {
    let mut file = match open(path).await {
        // A simulated container has no log.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if let Some(lines) = options.tail {
        let start = tail_start(&mut file, lines, CHUNK).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let follow = options.follow;
    let mut printer = Printer::new(options);
    let mut rest = BytesMut::new();
    // The file that has taken the place of the one being read, found one round ago: the runtime may have written a
    // last line into the old one after it had made the new one.
    let mut next: Option<tokio::fs::File> = None;
    loop {
        let running = !follow || is_running(context, id).await;
        let mut read = 0;
        loop {
            rest.reserve(CHUNK);
            let count = file.read_buf(&mut rest).await?;
            read += count;
            let mut out = Vec::new();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n')
                && !printer.is_full()
            {
                let line = rest.split_to(end + 1);
                printer.print(&line[..end], &mut out);
            }
            if !out.is_empty() && sender.send(Ok(Frame::data(Bytes::from(out)))).await.is_err() {
                return Ok(());
            }
            if count == 0 || printer.is_full() {
                break;
            }
        }
        if !follow || printer.is_full() {
            return Ok(());
        }
        if let Some(next) = next.take() {
            file = next;
            rest.clear();
            continue;
        }
        next = replacement(&file, path).await;
        if next.is_none() && read == 0 && !running {
            return Ok(());
        }
        context.env.clock.sleep(FOLLOW_POLL).await;
    }
}

/// Opens a log for reading. Runtimes write files: a link that stands there was put there by somebody who may write to the
/// folder and wants to be shown what he may not read.
async fn open(path: &Path) -> std::io::Result<tokio::fs::File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = tokio::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).await?;
    match file.metadata().await?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("the log is no file")),
    }
}

/// After a rotation the path names another file: that one.
async fn replacement(file: &tokio::fs::File, path: &Path) -> Option<tokio::fs::File> {
    use std::os::unix::fs::MetadataExt;
    let named = open(path).await.ok()?;
    let (old, new) = (file.metadata().await.ok()?, named.metadata().await.ok()?);
    (old.ino() != new.ino()).then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(query: &str, lines: &[&str]) -> String {
        let mut printer = Printer::new(options(query, Timestamp::from_millis(10_000)).expect("a query"));
        let mut out = Vec::new();
        for line in lines {
            printer.print(line.as_bytes(), &mut out);
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parts_of_a_line_are_joined_and_old_lines_left_out() {
        let lines = [
            "1970-01-01T00:00:01.5Z stdout F old",
            "1970-01-01T00:00:09.5Z stdout P ab",
            "1970-01-01T00:00:09.6Z stdout F cd",
            "nonsense",
        ];
        assert_eq!(printed("", &lines), "old\nabcd\n");
        assert_eq!(printed("sinceSeconds=5", &lines), "abcd\n");
        assert_eq!(printed("sinceSeconds=5&timestamps=true", &lines), "1970-01-01T00:00:09.5Z abcd\n");
        assert_eq!(printed("limitBytes=6", &lines), "old\nab");
        assert!(options("tailLines=x", Timestamp::from_millis(0)).is_err());
    }

    #[tokio::test]
    async fn a_log_is_a_file_and_no_link_to_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (secret, link, log) =
            (folder.path().join("secret"), folder.path().join("1.log"), folder.path().join("0.log"));
        std::fs::write(&secret, "s").expect("written");
        std::fs::write(&log, "l").expect("written");
        std::os::unix::fs::symlink(&secret, &link).expect("linked");
        assert!(open(&log).await.is_ok());
        assert!(open(&link).await.is_err() && open(folder.path()).await.is_err());
        let pipe = folder.path().join("2.log");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("made");
        assert!(open(&pipe).await.is_err(), "nobody waits for a pipe");
    }

    #[tokio::test]
    async fn the_tail_begins_at_a_line() {
        for block in [1, 2, 3, 64] {
            let tail = async |data: &str, lines| {
                let mut file = std::io::Cursor::new(data.as_bytes().to_vec());
                tail_start(&mut file, lines, block).await.expect("read")
            };
            assert_eq!(tail("a\nb\nc\n", 2).await, 2);
            assert_eq!(tail("a\nb\nc", 2).await, 2);
            assert_eq!(tail("a\nb\nc\n", 9).await, 0);
            assert_eq!(tail("a\nb\n", 0).await, 4);
            assert_eq!(tail("", 3).await, 0);
        }
    }
}
