//! Single requests of fifty clients on ten connections: creates, GETs, merge patches of the status.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};

use super::Work;
use super::masters::{Masters, get as json};
use super::objects::{self, JSON, Kind, POD, expect, pod_path};
use crate::load::{CONNECTIONS, Client, closed, closed_for};
use crate::report::Notes;
use crate::values::Dice;
use crate::wire::{Connection, Request};

const CLIENTS: u64 = 50;
/// The form of a merge patch (RFC 7386).
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// More than any number of objects takes.
const FILLING: Duration = Duration::from_secs(3600);

/// The rows on masters that hold nothing yet.
pub async fn empty(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    if work.bench.wants("idle") {
        work.bench.env.clock.sleep(work.settle).await;
        notes.note("idle memory", masters.memory().0);
    }
    if work.bench.wants("create-50") {
        objects::namespaces(work, masters).await?;
        let clients = creators(POD, 0..u64::MAX - CLIENTS, CLIENTS);
        notes.outcome("create-50", &closed(&work.bench, masters, CONNECTIONS, clients).await?.0);
    }
    Ok(())
}

/// Creates objects with all numbers of a range.
pub async fn fill(work: &Work, masters: &Masters, kind: Kind, numbers: Range<u64>) -> Result<()> {
    let clients = creators(kind, numbers, CLIENTS);
    closed_for(&work.bench, masters, CONNECTIONS, clients, FILLING).await?;
    Ok(())
}

/// So many clients that create objects of a kind.
fn creators(kind: Kind, numbers: Range<u64>, clients: u64) -> Vec<Creator> {
    let of = |first| Creator { kind, next: numbers.start + first, step: clients, end: numbers.end };
    (0..clients).map(of).collect()
}

struct Creator {
    kind: Kind,
    next: u64,
    step: u64,
    end: u64,
}

impl Client for Creator {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        let (path, body) = ((self.kind.path)(self.next), (self.kind.body)(self.next));
        self.next += self.step;
        let body = Some((JSON, body.as_bytes()));
        connection.request(Request { method: "POST", path: &path, accept: JSON, body })
    }

    fn is_done(&self) -> bool {
        self.next >= self.end
    }

    fn read(&self, body: BytesMut) -> Result<Bytes> {
        expect(body, self.kind.name)
    }
}

/// GETs of pods.
pub async fn get(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    if work.bench.wants("get-50") {
        let clients = (0..CLIENTS).map(|seed| Getter { dice: Dice::new(seed + 1), pods: work.pods });
        let (outcome, _) = closed(&work.bench, masters, CONNECTIONS, clients.collect()).await?;
        notes.outcome("get-50", &outcome);
    }
    Ok(())
}

struct Getter {
    dice: Dice,
    pods: u64,
}

impl Client for Getter {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        connection.request(json(&pod_path(self.dice.below(self.pods))))
    }

    fn read(&self, body: BytesMut) -> Result<Bytes> {
        expect(body, POD.name)
    }
}

/// Merge patches of statuses.
pub async fn patch(work: &Work, masters: &Masters, notes: &mut Notes<'_>) -> Result<()> {
    if work.bench.wants("patch-50") {
        let clients = (0..CLIENTS).map(|seed| Patcher { dice: Dice::new(seed + 1), pods: work.pods });
        let (outcome, _) = closed(&work.bench, masters, CONNECTIONS, clients.collect()).await?;
        notes.outcome("patch-50", &outcome);
    }
    Ok(())
}

struct Patcher {
    dice: Dice,
    pods: u64,
}

impl Client for Patcher {
    fn call(&mut self, connection: &mut Connection) -> u32 {
        let stamp = self.dice.next();
        status_patch(connection, self.dice.below(self.pods), stamp)
    }

    fn read(&self, body: BytesMut) -> Result<Bytes> {
        expect(body, POD.name)
    }
}

/// Begins a patch that writes a stamp into a pod's status.
pub fn status_patch(connection: &mut Connection, pod: u64, stamp: u64) -> u32 {
    let path = format!("{}/status?fieldManager=bench", pod_path(pod));
    let body = format!(r#"{{"status":{{"message":"stamp-{stamp:016x}"}}}}"#);
    let body = Some((MERGE_PATCH, body.as_bytes()));
    connection.request(Request { method: "PATCH", path: &path, accept: JSON, body })
}
