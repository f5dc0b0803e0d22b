//! Members whose files are damaged, or whose state differs, under real RocksDB: found out, fenced, healed from the others.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use tempfile::TempDir;

use crate::bad_input::{self, copy, log_of};
use crate::cluster::{outcome, program};
use crate::shared::eventually;

const KEYS: usize = 200;

/// What is done to a data folder.
type Damage = fn(&Path);

/// Three members.
struct Members {
    folder: TempDir,
    /// Of clients, of peers, of failpoints.
    ports: Vec<[u16; 3]>,
    processes: Vec<Option<Child>>,
    runtime: tokio::runtime::Runtime,
}

impl Members {
    fn start() -> Self {
        let mut members = Self {
            folder: tempfile::tempdir().expect("folder"),
            ports: (0..3).map(|_| [(); 3].map(|()| env::ports::free())).collect(),
            processes: vec![None, None, None],
            runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime"),
        };
        (0..3).for_each(|index| members.start_one(index));
        members
    }

    fn data(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("m{index}"))
    }

    fn log(&self, index: usize) -> String {
        fs::read_to_string(self.folder.path().join(format!("m{index}.log"))).unwrap_or_default()
    }

    fn start_one(&mut self, index: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let named = self.ports.iter().enumerate().map(|(n, ports)| format!("m{n}={}", url(ports[1])));
        let named: Vec<String> = named.collect();
        let [client, peer, failpoints] = self.ports[index];
        let log = self.folder.path().join(format!("m{index}.log"));
        let log = File::options().create(true).append(true).open(log).expect("log");
        let mut command = program();
        command.env("GOFAIL_HTTP", format!("127.0.0.1:{failpoints}"));
        command.args(["etcd", "--name", &format!("m{index}"), "--data-dir"]).arg(self.data(index));
        command.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
        command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
        command.args(["--initial-cluster", &named.join(",")]);
        // The log does not reach back to the beginning: only a snapshot heals.
        command.args(["--snapshot-count=50", "--snapshot-catchup-entries=20"]);
        let out = log.try_clone().expect("log");
        self.processes[index] =
            Some(command.stdin(Stdio::null()).stdout(out).stderr(log).spawn().expect("start"));
    }

    /// Stops a member in order, so that all it knows is in its files.
    fn stop(&mut self, index: usize) {
        let mut process = self.processes[index].take().expect("running");
        let (good, text) = outcome(Command::new("kill").args(["-TERM", &process.id().to_string()]));
        assert!(good, "{text}");
        process.wait().expect("ended");
    }

    /// Waits until a member has ended by itself; its exit code.
    fn ended(&mut self, index: usize) -> Option<i32> {
        let process = self.processes[index].as_mut().expect("running");
        let status = eventually("it ends", || process.try_wait().expect("a child"));
        self.processes[index] = None;
        status.code()
    }

    async fn client(&self, index: usize) -> Option<Client> {
        let options = etcd_client::ConnectOptions::new().with_timeout(Duration::from_secs(3));
        Client::connect([format!("127.0.0.1:{}", self.ports[index][0])], Some(options)).await.ok()
    }

    /// Writes all keys, the same value to each.
    fn write(&self, at: usize, value: &str) {
        eventually("all keys are written", || {
            self.runtime.block_on(async {
                let mut client = self.client(at).await?;
                for number in 0..KEYS {
                    client.put(format!("k{number}"), value, None).await.ok()?;
                }
                Some(())
            })
        });
    }

    /// What a member itself holds of one key; `None` when it does not say.
    fn holds(&self, at: usize, key: &str) -> Option<String> {
        self.runtime.block_on(async {
            let own = GetOptions::new().with_serializable();
            let answer = self.client(at).await?.get(key, Some(own)).await.ok()?;
            Some(answer.kvs().first().map_or_else(String::new, |kv| kv.value_str().unwrap_or("?").to_owned()))
        })
    }

    /// Waits until all members hold the same, and there is no alarm.
    fn agree(&self) {
        eventually("all members hold the same", || {
            self.runtime.block_on(async {
                let mut hashes = Vec::new();
                let revision = self.client(0).await?.get("k0", None).await.ok()?.header()?.revision();
                for index in 0..3 {
                    let mut client = self.client(index).await?;
                    hashes.push(client.hash_kv(revision).await.ok()?.hash());
                    let alarms =
                        client.alarm(etcd_client::AlarmAction::Get, etcd_client::AlarmType::None, None);
                    hashes.extend(alarms.await.ok()?.alarms().iter().map(|_| 0));
                }
                (hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0])).then_some(())
            })
        });
    }

    /// Has a member lose the next entry of the log, as a bug would.
    fn lose_an_entry(&self, index: usize) {
        let address = ("127.0.0.1", self.ports[index][2]);
        let mut stream = TcpStream::connect(address).expect("failpoints");
        let term = "1*return(\"lost\")";
        let head = format!("PUT /applyLosesOneEntry HTTP/1.1\r\nHost: x\r\nContent-Length: {}", term.len());
        write!(stream, "{head}\r\nConnection: close\r\n\r\n{term}").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(" 204 "), "{answer}");
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// The files of a state whose names begin or end so.
fn files(data: &Path, named: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let states = fs::read_dir(data.join("state")).expect("states").map(|state| state.expect("state").path());
    let files =
        states.flat_map(|state| fs::read_dir(state).expect("files")).map(|file| file.expect("file").path());
    let found: Vec<_> =
        files.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&named)).collect();
    assert!(!found.is_empty(), "nothing to damage");
    found
}

fn tables(data: &Path) -> Vec<PathBuf> {
    files(data, |name| name.ends_with(".sst"))
}

/// One bit in every 512 bytes.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 4);
    fs::write(file, bytes).expect("write");
}

fn truncate(file: &Path) {
    let length = fs::metadata(file).expect("size").len();
    File::options().write(true).open(file).expect("open").set_len(length / 2).expect("cut");
}

#[test]
fn a_member_whose_files_are_damaged_heals_from_the_others() {
    let mut members = Members::start();
    let damages: [(&str, Damage); 4] = [
        ("bits of tables are flipped", |data| tables(data).iter().for_each(|file| flip(file))),
        ("tables are cut short", |data| tables(data).iter().for_each(|file| truncate(file))),
        ("the manifest is damaged", |data| {
            files(data, |name| name.starts_with("MANIFEST")).iter().for_each(|file| flip(file))
        }),
        ("a table is gone", |data| fs::remove_file(&tables(data)[0]).expect("remove")),
    ];
    members.write(0, "first");
    for (index, (name, damage)) in damages.into_iter().enumerate() {
        let damaged = index % 3;
        members.stop(damaged);
        damage(&members.data(damaged));
        members.write((damaged + 1) % 3, name);
        members.start_one(damaged);
        let seen = eventually("it answers", || members.holds(damaged, "k7"));
        assert!([name, ""].contains(&seen.as_str()) || index > 0, "{seen}");
        members.agree();
        assert_eq!(members.holds(damaged, "k7").as_deref(), Some(name));
        assert!(members.log(damaged).contains("log and vote stay"), "{name}");
    }
}

#[test]
fn a_member_that_lost_an_entry_is_found_out_and_heals_by_itself() {
    let members = Members::start();
    members.write(0, "first");
    members.agree();
    members.lose_an_entry(1);
    members.write(0, "second");
    eventually("it is fenced", || members.log(1).contains("fenced").then_some(()));
    members.write(0, "third");
    eventually("it started again", || members.log(1).contains("starting again").then_some(()));
    // From here on it never shows anything but what is right.
    let healed = eventually("it answers again", || members.holds(1, "k0"));
    assert_eq!(healed, "third");
    members.agree();
    assert!(members.log(1).contains("this member's state differs from what the majority holds"));
}

/// A log cannot be had from the others: what it promised, they believe.
#[test]
fn a_member_whose_log_is_damaged_says_so_and_the_others_go_on() {
    let mut members = Members::start();
    members.write(0, "first");
    members.agree();
    let damages: [(&str, Damage); 2] = [
        ("a bit is flipped", |log| {
            let mut bytes = fs::read(log).expect("read");
            bytes[60] ^= 1;
            fs::write(log, bytes).expect("write");
        }),
        ("it is cut", truncate),
    ];
    for (name, damage) in damages {
        members.stop(1);
        let log = log_of(&members.data(1));
        let whole = fs::read(&log).expect("read");
        damage(&log);
        members.start_one(1);
        assert_eq!(members.ended(1), Some(1), "{name}");
        let said = members.log(1);
        let last = said.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let last = last.unwrap_or_else(|| panic!("{name}: {said}"));
        let why = last["error"].as_str().unwrap_or_default();
        assert!(last["level"] == "error" && why.contains("the log is damaged"), "{name}: {last}");
        assert!(!said.contains("panicked"), "{name}");
        members.write(2, name);
        fs::write(&log, whole).expect("write");
        members.start_one(1);
        members.agree();
        assert_eq!(members.holds(1, "k7").as_deref(), Some(name));
    }
}

#[test]
fn a_folder_of_another_cluster_takes_no_part_in_this_one() {
    let other = bad_input::Member::new();
    let running = other.start(&other.data());
    assert!(other.etcdctl(&["put", "k7", "the other cluster's"]).0);
    drop(running);
    let mut members = Members::start();
    members.write(0, "first");
    members.agree();
    members.stop(1);
    let own = members.folder.path().join("own");
    fs::rename(members.data(1), &own).expect("rename");
    copy(&other.data(), &members.data(1));
    members.start_one(1);
    eventually("it is refused", || members.log(1).contains("request cluster ID mismatch").then_some(()));
    members.write(0, "second");
    assert_eq!(members.holds(1, "k7").as_deref(), Some("the other cluster's"));
    members.stop(1);
    fs::remove_dir_all(members.data(1)).expect("remove");
    fs::rename(own, members.data(1)).expect("rename");
    members.start_one(1);
    members.agree();
    assert_eq!(members.holds(1, "k7").as_deref(), Some("second"));
}

#[test]
fn a_removed_member_ends_and_ends_again_whenever_it_is_started() {
    const REMOVED: &str = "the member has been permanently removed from the cluster";
    let mut members = Members::start();
    members.write(0, "first");
    members.agree();
    eventually("it is removed", || {
        members.runtime.block_on(async {
            let mut client = members.client(0).await?;
            let list = client.member_list().await.ok()?;
            match list.members().iter().find(|member| member.name() == "m2") {
                Some(member) => drop(client.member_remove(member.id()).await.ok()?),
                None => return Some(()),
            }
            None
        })
    });
    for times in 1..=2 {
        members.ended(2);
        assert_eq!(members.log(2).matches(REMOVED).count().min(times), times, "{}", members.log(2));
        assert!(!members.log(2).contains("panicked"));
        members.start_one(2);
    }
    members.ended(2);
    members.write(0, "second");
}
