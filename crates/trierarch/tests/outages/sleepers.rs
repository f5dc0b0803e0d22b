//! Members that are frozen and wake up: they show nothing old (etcd's #20418), and a leader that sleeps is replaced.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chaos::etcd::Members;
use env::{Env, Shutdown, TaskGroup};
use etcd_client::{Client, GetOptions, WatchOptions};
use nix::sys::signal::Signal;
use parking_lot::Mutex;

use crate::support::{DEADLINE, KEY, another, client, eventually, play, write};

/// Clients that ask a member while it sleeps, and what each of them asks.
const CLIENTS: usize = 4;
const QUESTIONS: usize = 16;
/// Reads of a member that has woken.
const READS: usize = 50;
/// Requests reach the sleeper meanwhile; if they come later the test shows less, but does not fail.
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// What a watch of [`KEY`] at one member was told.
#[derive(Default)]
struct Told {
    /// Revisions of changes, in the order they came.
    changes: Vec<i64>,
    /// Something that must not be.
    wrong: Option<String>,
}

impl Told {
    fn take(&mut self, answer: &etcd_client::WatchResponse) {
        let header = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        for change in answer.events().iter().filter_map(etcd_client::Event::kv) {
            let revision = change.mod_revision();
            let last = self.changes.last().copied().unwrap_or(0);
            if revision <= last || revision > header {
                self.wrong = Some(format!("{revision} came after {last}, the header says {header}"));
            }
            self.changes.push(revision);
        }
    }
}

/// Watches until told to stop; when the stream breaks it goes on behind what it has seen.
async fn watch(env: Env, mut client: Client, from: i64, told: Arc<Mutex<Told>>, stop: Shutdown) {
    let follow = async |client: &mut Client, from: i64| -> Option<()> {
        let options = WatchOptions::new().with_start_revision(from);
        let mut stream = client.watch(KEY, Some(options)).await.ok()?;
        while let Ok(Some(answer)) = stream.message().await {
            told.lock().take(&answer);
        }
        Some(())
    };
    while !stop.is_triggered() {
        let next = told.lock().changes.last().map_or(from, |last| last + 1);
        tokio::select! {
            _ = follow(&mut client, next) => env.clock.sleep(ON_THE_WAY).await,
            () = stop.wait() => {}
        }
    }
}

/// The revision of [`KEY`] in an answer to a linearizable read, if there is an answer.
async fn read(client: &mut Client) -> Option<i64> {
    let answer = client.get(KEY, None).await.ok()?;
    Some(answer.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision))
}

/// Freezes a member, writes elsewhere meanwhile, wakes it and looks at what it shows.
async fn sleep_and_wake(env: &Env, members: &mut Members<'_>, sleeper: usize, round: usize) {
    let tasks = TaskGroup::new("clients", Shutdown::new());
    let first = write(env, members, sleeper, &format!("before-{round}")).await;
    let told = Arc::<Mutex<Told>>::default();
    let watcher = client(env, members, sleeper).await;
    let stop = tasks.shutdown().clone();
    tasks.spawn_detached("watch", watch(env.clone(), watcher, first, told.clone(), stop));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(client(env, members, sleeper).await);
    }

    members.member(sleeper).signal(Signal::SIGSTOP).expect("stopped");
    let written = write(env, members, another(members, sleeper), &format!("during-{round}")).await;
    let answers = Arc::<Mutex<Vec<i64>>>::default();
    let asked_late = Arc::<Mutex<Told>>::default();
    for client in &clients {
        for _ in 0..QUESTIONS {
            let (mut client, answers) = (client.clone(), answers.clone());
            tasks.spawn_detached("read", async move {
                // It need not answer: it may know that it cannot.
                let seen = read(&mut client).await;
                answers.lock().extend(seen);
            });
        }
    }
    let (late, stop) = (clients[0].clone(), tasks.shutdown().clone());
    tasks.spawn_detached("late watch", watch(env.clone(), late, written, asked_late.clone(), stop));
    env.clock.sleep(ON_THE_WAY).await;
    members.member(sleeper).signal(Signal::SIGCONT).expect("woken");

    for _ in 0..READS {
        let seen = eventually(env, "a read of the sleeper", async || read(&mut clients[0]).await).await;
        assert!(seen >= written, "round {round}: read revision {seen} although {written} was acknowledged");
    }
    let last = write(env, members, sleeper, &format!("after-{round}")).await;
    eventually(env, "the watches of the sleeper are level", async || {
        let level = |told: &Mutex<Told>| told.lock().changes.last() == Some(&last);
        (level(&told) && level(&asked_late)).then_some(())
    })
    .await;
    let own = GetOptions::new().with_serializable();
    let answer = clients[0].get(KEY, Some(own)).await.expect("it answers by itself");
    assert_eq!(answer.kvs()[0].mod_revision(), last);

    tasks.shutdown().trigger();
    tasks.join(DEADLINE).await.expect("they end");
    for told in [told, asked_late] {
        let told = told.lock();
        assert_eq!(told.wrong, None, "round {round}, a watch was told of {:?}", told.changes);
    }
    let old = answers.lock().iter().copied().find(|seen| *seen < written);
    assert_eq!(old, None, "round {round}: read although {written} was acknowledged before");
}

/// Freezes the leader again and again; who led before does not when it wakes, unless it was elected again.
async fn leaders_sleep(env: &Env, members: &mut Members<'_>, rounds: usize) {
    for round in 0..rounds {
        let (leader, term) = members.leadership().await.expect("a leader");
        sleep_and_wake(env, members, leader, round).await;
        let now = members.leadership().await.expect("a leader");
        assert!(now.1 > term, "somebody wrote in term {term} while its leader {leader} slept: now {now:?}");
    }
    assert_eq!(members.same_hashes().await, None);
}

#[test]
fn a_leader_that_was_frozen_shows_nothing_old_when_it_wakes() {
    play(&[], async |env, members| leaders_sleep(&env, members, 6).await);
}

#[test]
fn a_follower_that_was_frozen_shows_nothing_old_when_it_wakes() {
    play(&[], async |env, members| {
        for round in 0..4 {
            let leader = members.leader().await.expect("a leader");
            sleep_and_wake(&env, members, another(members, leader), round).await;
        }
    });
}

/// Certificates for three members from one authority, and the flags that use them.
fn certificates(folder: &Path) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trierarch"));
    command.arg("pki").arg("--dir").arg(folder);
    command.args((0..3).map(|index| format!("--master=m{index}g0=127.0.0.1")));
    let output = command.output().expect("pki");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = |name: &str| folder.join("etcd").join(name).display().to_string();
    vec![
        "--peer-client-cert-auth=true".to_owned(),
        format!("--peer-cert-file={}", file("peer-{name}.crt")),
        format!("--peer-key-file={}", file("peer-{name}.key")),
        format!("--peer-trusted-ca-file={}", file("ca.crt")),
    ]
}

/// The consensus would wait for longer than the pulse is patient at most, so that only the pulse can have noticed.
#[test]
fn the_pulse_replaces_a_leader_that_is_frozen_behind_tls() {
    let folder = tempfile::tempdir().expect("folder");
    let mut flags = certificates(folder.path());
    flags.extend(["--heartbeat-interval=100".to_owned(), "--election-timeout=5000".to_owned()]);
    play(&flags, async |env, members| {
        leaders_sleep(&env, members, 3).await;
        let stood = "a quorum is out of touch with the leader, standing for election";
        let times: usize = (0..members.size()).map(|index| members.log(index).matches(stood).count()).sum();
        // On a machine that stalls for seconds the consensus may be first now and then.
        assert!(times > 0, "the pulse never had anybody stand");
    });
}
