//! The pulse's connections, and the door that they share with the other calls between members.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use env::TaskGroup;
use futures::StreamExt as _;
use parking_lot::Mutex;
use prost::Message;
use protos::peer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use transport::{Accepted, Admission, Connection, Dialer, Listener, Room, Security};

use super::links::Word;
use crate::consensus::Node;
use crate::counters::Traffic;
use crate::inner::Inner;

/// What a connection of the pulse begins with, and its protocol's name with TLS.
const NAME: &[u8] = b"trierarch-pulse";
/// How long a connection may take to be opened: one that was under way when a network broke is slow when it works again.
const CONNECT: Duration = Duration::from_millis(250);
/// How long its handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// Pause before a member that cannot be reached is called again.
const REDIAL: Duration = Duration::from_millis(50);
/// How long a connection without answers is kept; a network that works again is slow to mend an old one.
const SILENT: Duration = Duration::from_millis(500);
/// How long a stranger may take to say what it wants.
const SNIFF: Duration = Duration::from_secs(5);
/// Strangers at a time.
const STRANGERS: usize = 256;
/// Connections that wait to be served.
pub(crate) const DOOR: usize = 64;

/// Calls a member for as long as it is polled, and beats while it answers.
pub(super) async fn call(inner: Arc<Inner>, id: u64, node: Node, dialer: Dialer) {
    let mut dialer = dialer.apart();
    (dialer.timeout, dialer.handshake) = (CONNECT, HANDSHAKE);
    loop {
        if let Ok(stream) = dialer.open(&node.peer_urls, NAME).await {
            // However it ends, there will be another.
            drop(beat(&inner, id, stream).await);
        }
        inner.env.clock.sleep(REDIAL).await;
    }
}

async fn beat(inner: &Inner, id: u64, mut stream: Connection) -> io::Result<()> {
    let traffic = Traffic::with(id);
    // The newest beat and when it left; older ones that are answered late are not measured.
    let left = Mutex::new((0, inner.env.clock.monotonic()));
    stream.write_all(NAME).await?;
    let hello = peer::PulseHello { cluster: inner.cluster.0, from: inner.me, to: id };
    send(&mut stream, &hello).await?;
    let (mut answers, mut beats) = tokio::io::split(stream);
    let mut next = inner.pulse.beat.subscribe();
    let beating = async {
        while next.changed().await.is_ok() {
            let beat = *next.borrow_and_update();
            *left.lock() = (beat.number, inner.env.clock.monotonic());
            traffic.sent.increment(send(&mut beats, &beat.word.to_wire(beat.number)).await?);
        }
        Ok(())
    };
    let listening = async {
        let mut first = true;
        loop {
            let answer: peer::Pulse = receive(&mut answers, SILENT).await?;
            let (now, (number, sent)) = (inner.env.clock.monotonic(), *left.lock());
            traffic.received.increment(answer.encoded_len() as u64);
            if answer.number == number {
                traffic.round_trip.record(now - sent);
            }
            inner.pulse.answered(id, answer.number, Word::from_wire(&answer), first, now);
            first = false;
        }
    };
    tokio::select! {
        ended = beating => ended,
        ended = listening => ended,
    }
}

/// Answers another member's beats.
async fn answer(inner: &Inner, mut stream: Connection) -> io::Result<()> {
    let mut name = [0; NAME.len()];
    tokio::time::timeout(SNIFF, stream.read_exact(&mut name)).await??;
    let hello: peer::PulseHello = receive(&mut stream, SNIFF).await?;
    let known = inner.node(hello.from).is_some();
    if name != NAME || hello.cluster != inner.cluster.0 || hello.to != inner.me || !known {
        return Ok(());
    }
    let mut first = true;
    loop {
        let beat: peer::Pulse = receive(&mut stream, SNIFF).await?;
        inner.pulse.heard(hello.from, Word::from_wire(&beat), first, inner.env.clock.monotonic());
        first = false;
        let word = inner.pulse.beat.borrow().word;
        send(&mut stream, &word.to_wire(beat.number)).await?;
    }
}

/// Sends a message, and says how many bytes it has.
async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<u64> {
    let length = u8::try_from(message.encoded_len()).map_err(io::Error::other)?;
    let mut bytes = vec![length];
    message.encode(&mut bytes).map_err(io::Error::other)?;
    tokio::time::timeout(SILENT, async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    })
    .await??;
    Ok(bytes.len() as u64)
}

async fn receive<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> io::Result<M> {
    let read = async {
        let length = stream.read_u8().await?;
        let mut bytes = [0; u8::MAX as usize];
        let bytes = &mut bytes[..usize::from(length)];
        stream.read_exact(bytes).await?;
        M::decode(&*bytes).map_err(io::Error::other)
    };
    tokio::time::timeout(patience, read).await?
}

/// An address for peers: what the pulse does not keep goes on to whoever serves the other calls.
pub(crate) struct Door {
    pub listener: Listener,
    pub security: Security,
    pub others: mpsc::Sender<Accepted>,
}

/// Takes connections until the store stops. Runs on the pulse's lane, so that a busy consensus keeps no beat waiting.
pub(crate) async fn serve_door(inner: Arc<Inner>, door: Door) {
    let tasks = TaskGroup::new("door", inner.shutdown.child());
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let admission = Arc::new(Admission { security: door.security, endpoint: "peer", protocol: Some(NAME) });
    let mut connections = Box::pin(transport::accepted(door.listener, Room::unlimited(), inner.env.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = connections.next() => accepted,
            () = inner.shutdown.wait() => break,
        };
        let Some(accepted) = accepted else { break };
        let Ok(permit) = strangers.clone().acquire_owned().await else { break };
        let (inner, others, admission) = (inner.clone(), door.others.clone(), admission.clone());
        tasks.spawn_detached("connection", async move {
            let stop = inner.shutdown.clone();
            let ended = tokio::select! {
                ended = take(&inner, accepted, (others, admission), permit) => ended,
                () = stop.wait() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of a peer ended");
            }
        });
    }
    drop(tasks.join(super::STOP).await);
}

/// Answers a connection of the pulse for as long as it lasts; another one goes on.
async fn take(
    inner: &Inner,
    accepted: Accepted,
    (others, admission): (mpsc::Sender<Accepted>, Arc<Admission>),
    permit: OwnedSemaphorePermit,
) -> io::Result<()> {
    let (accepted, ours) = tokio::time::timeout(SNIFF, accepted.speaks(NAME, &inner.env.clock)).await??;
    if !ours {
        return others.send(accepted).await.map_err(io::Error::other);
    }
    let admitted = transport::admit(accepted, admission).await;
    drop(permit);
    match admitted {
        Some(connection) => answer(inner, connection).await,
        None => Ok(()),
    }
}
