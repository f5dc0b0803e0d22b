//! What cannot work ends with one line that says why, and exit code 1; nothing is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cluster::{outcome, program};
use crate::shared::eventually;

pub(crate) struct Member {
    folder: tempfile::TempDir,
    client: u16,
    peer: u16,
}

impl Member {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        Self { folder, client: env::ports::free(), peer: env::ports::free() }
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, data: &Path) -> Command {
        let mut command = program();
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.client), format!("http://127.0.0.1:{}", self.peer));
        command
            .args(["etcd", "--name", "a", "--data-dir"])
            .arg(data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("a={peer}")]);
        command
    }

    pub fn start(&self, data: &Path) -> Running {
        self.start_with(data, &[])
    }

    fn start_with(&self, data: &Path, flags: &[&str]) -> Running {
        let child = self
            .command(data)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start");
        let running = Running(child);
        eventually("the member serves", || self.etcdctl(&["endpoint", "health"]).0.then_some(()));
        running
    }

    pub fn etcdctl(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("127.0.0.1:{}", self.client)]);
        outcome(command.args(arguments))
    }
}

pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn refused(command: &mut Command, wanted: &str) {
    let (good, text) = outcome(command);
    let last = text.lines().last().unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{text}"));
    let why = line["error"].as_str().unwrap_or_default();
    assert!(!good && line["level"] == "error" && why.contains(wanted), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let (good, text) = outcome(Command::new("cp").arg("-r").arg(from).arg(to));
    assert!(good, "{text}");
}

#[test]
fn a_port_or_folder_in_use_is_named() {
    let member = Member::new();
    let running = member.start(&member.data());
    refused(&mut member.command(&member.folder.path().join("other")), "address already in use");
    let other = Member { folder: tempfile::tempdir().expect("folder"), ..Member::new() };
    refused(&mut other.command(&member.data()), "is in use by another process");
    drop(running);
}

/// As with etcd, flags for the first start mean nothing on a folder that has been used.
#[test]
fn a_folder_stays_its_clusters_whatever_the_flags_say() {
    let member = Member::new();
    let cluster = || member.etcdctl(&["endpoint", "status", "-w", "fields"]).1;
    let id = |text: String| text.lines().find(|line| line.starts_with("\"ClusterID\"")).map(str::to_owned);
    let running = member.start(&member.data());
    assert!(member.etcdctl(&["put", "k", "v"]).0);
    let before = id(cluster());
    drop(running);
    let running = member.start_with(&member.data(), &["--initial-cluster-token", "another"]);
    assert_eq!(member.etcdctl(&["get", "k", "--print-value-only"]).1.trim(), "v");
    assert!(before.is_some() && id(cluster()) == before, "{before:?}");
    drop(running);
}

/// The newest file of a folder's log.
pub fn log_of(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder.join("wal")).expect("folder").map(|entry| entry.expect("entry").path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "wal")).max().expect("a log")
}

/// A log's file as the next version of the program would begin it: the version is the last byte of what it is, and the
/// checksum covers that and a number.
fn of_a_newer_version(log: &[u8]) -> Vec<u8> {
    let mut newer = log.to_vec();
    newer[7] += 1;
    let sum = crc32c(&newer[..16]).to_le_bytes();
    newer[16..20].copy_from_slice(&sum);
    newer
}

fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |sum: u32, _| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0x82f6_3b78 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), shift))
}

#[test]
fn a_torn_last_write_is_forgotten_and_a_damaged_folder_is_named() {
    let member = Member::new();
    let running = member.start(&member.data());
    assert!(member.etcdctl(&["put", "k", "v"]).0);
    drop(running);
    let log = log_of(&member.data());
    let bytes = fs::read(&log).expect("read");
    let damage = |name: &str, file: &Path, bytes: &[u8]| {
        let folder = member.folder.path().join(name);
        copy(&member.data(), &folder);
        fs::write(folder.join(file.strip_prefix(member.data()).unwrap_or(file)), bytes).expect("write");
        refused(&mut member.command(&folder), "cannot use the data folder");
    };
    damage("state", Path::new("state/1/CURRENT"), b"garbage");
    damage("head", &log, b"garbage");
    let mut flipped = bytes.clone();
    flipped[60] ^= 1;
    damage("flipped", &log, &flipped);
    // Cut within what was written, and cut behind it: nobody knows what was there.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    damage("cut", &log, &bytes[..written / 2]);
    damage("cut short", &log, &bytes[..written.next_multiple_of(8)]);
    let newer = of_a_newer_version(&bytes);
    damage("newer", &log, &newer);
    refused(&mut member.command(&member.folder.path().join("newer")), "by another version of the program");
    // The beginning of a record of 4 KiB, of which nothing more came to the disk.
    let mut torn = bytes;
    let end = torn.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(512));
    let half = [&4096u32.to_le_bytes()[..], b"half a rec"].concat();
    torn[end..end + half.len()].copy_from_slice(&half);
    fs::write(&log, torn).expect("write");
    let running = member.start(&member.data());
    assert_eq!(member.etcdctl(&["get", "k", "--print-value-only"]).1.trim(), "v");
    drop(running);
}

#[test]
fn a_file_in_place_of_the_folder_is_named() {
    let member = Member::new();
    fs::write(member.data(), "").expect("write");
    refused(&mut member.command(&member.data()), "cannot use the data folder");
}

/// As kube-apiserver, a master does not start without the audit log that it is to write.
#[test]
fn a_bad_audit_policy_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let pki = at("pki");
    let (good, text) = outcome(program().args(["pki", "--master", "a=127.0.0.1", "--dir"]).arg(&pki));
    assert!(good, "{text}");
    fs::write(at("policy.yaml"), "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Some}]\n")
        .expect("policy");
    let server = |policy: &Path| {
        let url = |scheme: &str| format!("{scheme}://127.0.0.1:{}", env::ports::free());
        let peer = url("https");
        outcome(
            program()
                .args([
                    "server",
                    "--name",
                    "a",
                    "--listen-peer-url",
                    &peer,
                    "--listen-client-url",
                    &url("http"),
                ])
                .args(["--initial-cluster", &format!("a={peer}"), "--bind"])
                .arg(format!("127.0.0.1:{}", env::ports::free()))
                .args(["--audit-log-path", "-", "--audit-policy-file"])
                .arg(policy)
                .arg("--pki-dir")
                .arg(&pki)
                .arg("--data-dir")
                .arg(policy.with_extension("data")),
        )
    };
    let (good, text) = server(&at("policy.yaml"));
    let wanted =
        "error: loading audit policy file: rules[0].level: Unsupported value: \"Some\": supported values: ";
    assert!(!good && text.contains(wanted) && !text.contains("panicked"), "{text}");
    let (good, text) = server(&at("none.yaml"));
    assert!(!good && text.contains("error: loading audit policy file: failed to read file path"), "{text}");
}
