//! Flags whose effect is seen from outside.

use std::process::Command;

use crate::cluster::Members;
use crate::shared::eventually;

/// What a command line that starts nothing prints to both outputs, and its exit code.
fn told(words: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_trierarch")).arg("etcd").args(words).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn there_may_be_as_many_learners_as_the_flag_says() {
    for most in [0, 2] {
        let members = Members::start_with(1, &[&format!("--max-learners={most}")]);
        let cli = members.cli("etcdctl".as_ref());
        let add = |number: usize| {
            let url = format!("http://127.0.0.1:{number}");
            cli.run(&["member", "add", &format!("l{number}"), "--learner", "--peer-urls", &url])
        };
        for number in 1..=most {
            eventually("a learner is added", || add(number).0.then_some(()));
        }
        let (good, text) = add(9);
        assert!(!good && text.contains("too many learner members in cluster"), "{most}: {text}");
    }
}

#[test]
fn memory_is_locked_and_tracing_is_warned_of() {
    let flags = ["--memory-mlock", "--enable-distributed-tracing", "--distributed-tracing-service-name=s"];
    let members = Members::start_with(1, &flags);
    let status = std::fs::read_to_string(format!("/proc/{}/status", members.process(0))).expect("it runs");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")?.trim().strip_suffix(" kB"));
    let locked: u64 = locked.and_then(|kib| kib.parse().ok()).expect("a number");
    assert!(locked > 1024, "{locked} KiB are locked");
    assert!(members.log(0).contains("no spans are exported"));
}

#[test]
fn subcommands_print_their_help() {
    for kind in ["gateway", "grpc-proxy"] {
        for words in [&[kind, "--help"][..], &[kind, "-h"], &[kind], &[kind, "nonsense"]] {
            let (code, out, errors) = told(words);
            assert_eq!((code, errors.as_str()), (Some(0), ""), "{words:?}");
            assert!(out.contains(&format!("etcd {kind} [command]")), "{words:?}: {out}");
        }
        for words in [&[kind, "start", "--help"][..], &[kind, "start", "--endpoints=a:1", "-h"]] {
            let (code, out, errors) = told(words);
            assert_eq!((code, errors.as_str()), (Some(0), ""), "{words:?}");
            assert!(out.contains("--endpoints (default 127.0.0.1:2379)"), "{words:?}: {out}");
        }
        let (code, out, errors) = told(&[kind, "start", "--nonsense"]);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(errors.starts_with("Error: unknown flag: --nonsense\nUsage:\n"), "{errors}");
    }
}

#[test]
fn what_cannot_be_used_ends_with_a_line_and_etcds_code() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("c.yaml");
    let refused = |words: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trierarch"));
        command.arg("etcd").args(words).envs(variables.iter().copied()).current_dir(folder.path());
        let output = command.output().expect("it runs");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{words:?} {variables:?}: {text}");
        text
    };
    let text = refused(&[], &[("ETCD_SNAPSHOT_COUNT", "x")]);
    assert!(text.contains("for ETCD_SNAPSHOT_COUNT: parse error") && text.lines().count() == 1, "{text}");
    let text = refused(&["--name=a"], &[("ETCD_NAME", "a")]);
    assert!(text.contains("conflicting environment variable") && text.lines().count() == 1, "{text}");
    std::fs::write(&file, "snapshot-count: x\n").expect("written");
    let words = ["--config-file", file.to_str().expect("text")];
    let text = refused(&words, &[("ETCD_CONFIG_FILE", "nothing"), ("ETCD_MAX_WALS", "x")]);
    assert!(text.contains("for snapshot-count: parse error") && text.lines().count() == 1, "{text}");
    assert!(refused(&["--initial-cluster="], &[]).contains("couldn't find local name \\\"default\\\""));
    assert!(refused(&["--name="], &[]).contains("couldn't find local name \\\"\\\""));
}
