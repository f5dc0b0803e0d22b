//! Lists of all pods, whole and in pages, as JSON and as protobuf.

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;

use super::Work;
use super::masters::{Masters, ask};
use super::objects::{JSON, PROTOBUF, check, position};
use crate::load::{Meter, Servers as _};
use crate::report::Notes;
use crate::wire::{Connection, Request, find};

const PODS: &str = "/api/v1/pods";
const PAGE: u64 = 500;
/// Lists of a row at least, however long they take.
const LISTS: usize = 3;
/// Bytes of a pod in a list at least: a list that lost some is none.
const SMALLEST: u64 = 1500;
/// Where a page says how to go on, as JSON.
const HEAD: usize = 4096;

/// Runs the rows.
pub async fn run(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    for (row, accept, paged) in [
        ("list-json", JSON, false),
        ("list-proto", PROTOBUF, false),
        ("page-json", JSON, true),
        ("page-proto", PROTOBUF, true),
    ] {
        if work.bench.wants(row) {
            list(work, masters, row, accept, paged, notes).await?;
        }
    }
    Ok(())
}

async fn list(
    work: &Work,
    masters: &Masters,
    row: &str,
    accept: &'static str,
    paged: bool,
    notes: &mut Notes<'_>,
) -> Result<()> {
    let bench = &work.bench;
    let mut door = masters.connect(0).await?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    let meter = Meter::start(bench, masters);
    let end = bench.now() + bench.length;
    while times.len() < LISTS || bench.now() < end {
        let begun = bench.now();
        bytes += match paged {
            true => pages(&mut door, accept).await?,
            false => whole(&mut door, accept).await?,
        };
        times.push(bench.now() - begun);
    }
    let lists = times.len() as u64;
    let outcome = meter.stop(bench, masters, lists, times);
    ensure!(bytes > lists * work.pods * SMALLEST, "{row}: {lists} lists had {bytes} bytes");
    // A byte in a microsecond is a megabyte in a second.
    notes.note(&format!("{row} speed"), bytes as f64 / (outcome.cpu * lists as f64).max(1.0));
    notes.note(&format!("{row} p50"), outcome.p50);
    notes.note(&format!("{row} size"), bytes as f64 / (lists * work.pods) as f64 / 1e3);
    Ok(())
}

/// One list: its bytes.
async fn whole(door: &mut Connection, accept: &'static str) -> Result<u64> {
    let (mut bytes, mut head) = (0, BytesMut::new());
    let stream = door.request(Request { method: "GET", path: PODS, accept, body: None });
    door.answer(stream, |piece| {
        bytes += piece.len() as u64;
        if head.is_empty() {
            head.extend_from_slice(&piece[..piece.len().min(HEAD)]);
        }
    })
    .await?;
    check(&head, "PodList")?;
    Ok(bytes)
}

/// A list page by page: the bytes of all.
async fn pages(door: &mut Connection, accept: &'static str) -> Result<u64> {
    let (mut bytes, mut path) = (0, format!("{PODS}?limit={PAGE}"));
    loop {
        let page = ask(door, Request { method: "GET", path: &path, accept, body: None }).await?;
        check(&page, "PodList")?;
        bytes += page.len() as u64;
        match next_page(&page, accept) {
            Some(token) => path = format!("{PODS}?limit={PAGE}&continue={}", escaped(token)?),
            None => return Ok(bytes),
        }
    }
}

/// What leads to the next page, if there is one.
fn next_page<'a>(page: &'a [u8], accept: &str) -> Option<&'a [u8]> {
    let token = if accept == PROTOBUF {
        // `runtime.Unknown.raw`, `PodList.metadata`, `ListMeta.continue`.
        let list = page.strip_prefix(b"k8s\0").and_then(|page| find(page, 2))?;
        find(find(list, 1)?, 3)?
    } else {
        let head = &page[..page.len().min(HEAD)];
        let rest = &head[position(head, br#""continue":""#)? + 12..];
        &rest[..position(rest, b"\"")?]
    };
    (!token.is_empty()).then_some(token)
}

fn escaped(token: &[u8]) -> Result<String> {
    let token = std::str::from_utf8(token).context("a continue token is text")?;
    Ok(token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_leads_to_the_next_in_both_forms() {
        let json = br#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"abc="},"items":[]}"#;
        assert_eq!(next_page(json, JSON), Some(&b"abc="[..]));
        assert_eq!(escaped(b"abc=").expect("text"), "abc%3D");
        let last = br#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[]}"#;
        assert_eq!(next_page(last, JSON), None);
        // Type (v1, PodList), then the list: resourceVersion 7, continue abc.
        let page = b"k8s\0\n\x0d\n\x02v1\x12\x07PodList\x12\x0a\n\x08\x12\x017\x1a\x03abc";
        assert_eq!(next_page(page, PROTOBUF), Some(&b"abc"[..]));
        let last = b"k8s\0\n\x0d\n\x02v1\x12\x07PodList\x12\x07\n\x05\x12\x017\x1a\x00";
        assert_eq!(next_page(last, PROTOBUF), None);
    }
}
