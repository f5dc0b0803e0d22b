//! `trierarch import --follow`: a running etcd is copied, and followed until the clients move.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use crate::member::{Member, Site, etcd, fill, good, trierarch};
use crate::shared::eventually;

/// An import that follows; it is killed when it is dropped.
struct Import<'a> {
    site: &'a Site,
    process: Child,
}

impl<'a> Import<'a> {
    /// Starts one, and waits until the copy is there.
    fn start(site: &'a Site, member: &Member, flags: &[&str]) -> Self {
        let mut command = trierarch();
        command
            .args(["import", "--endpoints", &member.endpoint])
            .args(site.restore_flags("ours"))
            .args(flags);
        let output = File::create(site.path("import.log")).expect("a log");
        command.stdout(output.try_clone().expect("a log")).stderr(Stdio::from(output));
        let import = Self { site, process: command.spawn().expect("start") };
        eventually("the copy is there", || import.said().contains(", following\n").then_some(()));
        import
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.site.path("import.log")).expect("a log")
    }

    fn signal(&self, name: &str) {
        good(Command::new("kill").args(["-s", name, &self.process.id().to_string()]));
    }

    /// Waits until it ends; what it said, and whether all went well.
    fn ends(mut self) -> (bool, String) {
        let status = eventually("the import ends", || self.process.try_wait().expect("a child"));
        (status.success(), self.said())
    }
}

impl Drop for Import<'_> {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn an_etcd_34_is_followed_until_the_clients_move() {
    follow("3.4", "TERM");
}

#[test]
fn an_etcd_35_is_followed_until_the_clients_move() {
    follow("3.5", "INT");
}

#[test]
fn an_etcd_37_is_followed_until_the_clients_move() {
    follow("3.7.1", "TERM");
}

fn grant(member: &Member, seconds: u32) -> String {
    let granted = member.ask(&format!("lease grant {seconds}"));
    granted.split_whitespace().nth(1).expect("a lease").to_owned()
}

/// Of every kind of change one, also while the etcd is away for a while.
fn follow(version: &str, signal: &str) {
    let site = Site::new();
    let member = site.start_etcd(&etcd(version), "etcd");
    let lease = fill(&member);
    let import = Import::start(&site, &member, &["--follow"]);
    let late = grant(&member, 500);
    let unused = grant(&member, 700);
    for words in [
        format!("put --lease={late} /late x"),
        "del /k1 --prefix".into(),
        "put /k1 new".into(),
        format!("lease revoke {lease}"),
    ] {
        member.ask(&words);
    }
    // Killed, and started again: what was read is not read twice, and nothing is left out.
    drop(member);
    let member = site.start_etcd(&etcd(version), "etcd");
    for words in [
        "put /k3 newer",
        "del /k4",
        "put /k4 back",
        "user delete reader",
        "user add reader:other",
        "role add late",
        "role grant-permission late write /w",
        "user grant-role reader late",
    ] {
        member.ask(words);
    }
    let picture = member.picture(None);
    let history = member.history(8..=member.revision());
    import.signal(signal);
    let (good, said) = import.ends();
    assert!(good && said.contains(&format!("Followed to revision {}\n", member.revision())), "{said}");
    let revision = member.revision();
    member.stop();

    let member = site.start("ours");
    assert_eq!(member.picture(None), picture);
    assert_eq!(member.history(8..=revision), history);
    assert!(member.ask(&format!("lease timetolive {late} --keys")).contains("TTL(500s)"));
    assert!(member.ask(&format!("lease timetolive {unused} --keys")).contains("TTL(700s)"));
    assert!(member.ask(&format!("lease timetolive {lease}")).contains("already expired"));
    assert!(member.ask("put /next x -w json").contains(&format!("\"revision\":{}", revision + 1)));
    member.ask(&format!("lease revoke {late}"));
    assert_eq!(member.ask("get /late"), "");
    member.ask("auth enable");
    member.ask("--user reader:other put /w x");
}

#[test]
fn an_import_that_was_killed_is_begun_again_with_a_folder_of_its_own_for_the_log() {
    let site = Site::new();
    let member = site.start_etcd(&etcd("3.7.1"), "etcd");
    fill(&member);
    let log = site.path("log").display().to_string();
    let flags = ["--follow", "--wal-dir", &log];
    let import = Import::start(&site, &member, &flags);
    eventually("its log has a folder", || site.path("ours.restoring/wal").exists().then_some(()));
    drop(import);
    let import = Import::start(&site, &member, &flags);
    member.ask("put /late x");
    import.signal("TERM");
    let (good, said) = import.ends();
    assert!(good, "{said}");
    let left =
        site.folder.path().read_dir().expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["etcd", "etcd.log", "import.log", "log", "ours"]);
    let picture = member.picture(None);
    member.stop();
    let member = site.start("ours");
    assert_eq!(member.picture(None), picture);
}

#[test]
fn an_import_ends_by_itself_at_the_revision_that_it_is_told() {
    let site = Site::new();
    let member = site.start_etcd(&etcd("3.7.1"), "etcd");
    fill(&member);
    let last = member.revision() + 3;
    let import = Import::start(&site, &member, &["--until-revision", &last.to_string()]);
    let lease = grant(&member, 500);
    member.ask("put /more0 x");
    member.ask("put /more1 x");
    member.ask(&format!("put --lease={lease} /leased x"));
    // Behind the last one.
    member.ask(&format!("lease revoke {lease}"));
    member.ask("put /more2 x");
    let (good, said) = import.ends();
    assert!(good && said.contains(&format!("Followed to revision {last}\n")), "{said}");
    let history = member.history(8..=last);
    member.stop();
    let member = site.start("ours");
    assert_eq!(member.history(8..=last), history);
    assert_eq!(member.ask("get /more2"), "");
    // Whether it was asked for before it was revoked is chance.
    eventually("no key stays without its lease", || {
        let listed = member.ask("lease list").contains(&lease);
        (listed || member.ask("get /leased").is_empty()).then_some(())
    });
}

/// A new password makes an end of the user's tokens, also where it is the old one.
#[test]
fn an_import_whose_token_is_given_up_takes_another_one() {
    let site = Site::new();
    let member = site.start_etcd(&etcd("3.7.1"), "etcd");
    fill(&member);
    member.ask("auth enable");
    let import = Import::start(&site, &member, &["--follow", "--user", "root:pw"]);
    let mut passwd = member.etcdctl();
    passwd.args(["--user", "root:pw", "user", "passwd", "root", "--interactive=false"]);
    let mut passwd = passwd.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start");
    passwd.stdin.take().expect("a pipe").write_all(b"pw\n").expect("written");
    assert!(passwd.wait().expect("a child").success());
    member.ask("--user root:pw put /late x");
    import.signal("TERM");
    let (good, said) = import.ends();
    assert!(good && said.contains("invalid auth token"), "{said}");
    let picture = member.picture(Some("root:pw"));
    member.stop();
    let member = site.start("ours");
    assert_eq!(member.picture(Some("root:pw")), picture);
}

#[test]
fn changes_that_are_compacted_before_they_are_read_end_an_import() {
    let site = Site::new();
    let member = site.start_etcd(&etcd("3.7.1"), "etcd");
    member.ask("put k v");
    let import = Import::start(&site, &member, &["--follow"]);
    import.signal("STOP");
    drop(member);
    let member = site.start_etcd(&etcd("3.7.1"), "etcd");
    for value in ["a", "b", "c"] {
        member.ask(&format!("put k {value}"));
    }
    member.ask(&format!("compact {}", member.revision()));
    import.signal("CONT");
    let (good, said) = import.ends();
    assert!(!good && said.contains("was compacted before it was read"), "{said}");
    assert!(!site.path("ours").exists(), "nothing is half done");
    for left in ["ours.restoring", "ours.copying"] {
        assert!(!site.path(left).exists(), "and nothing is left over");
    }
}
