//! Leaders that end.

use chaos::etcd::Members;
use env::Env;
use etcd_client::{Client, GetOptions};
use nix::sys::signal::Signal;

use crate::support::{another, client, eventually, play};

/// Writes a key of its own with each call; the next is asked for when the last was acknowledged.
struct Writer {
    client: Client,
    acknowledged: Vec<String>,
    attempts: usize,
}

impl Writer {
    async fn new(env: &Env, members: &Members<'_>, index: usize) -> Self {
        Self { client: client(env, members, index).await, acknowledged: Vec::new(), attempts: 0 }
    }

    async fn write(&mut self, env: &Env, count: usize) {
        for _ in 0..count {
            let key = eventually(env, "a write", async || {
                self.attempts += 1;
                let key = format!("w{}", self.attempts);
                self.client.put(key.clone(), key.clone(), None).await.ok()?;
                Some(key)
            })
            .await;
            self.acknowledged.push(key);
        }
    }

    /// Every member holds all that was acknowledged, and the same as the others.
    async fn all_is_there(&self, env: &Env, members: &Members<'_>) {
        for index in 0..members.size() {
            members.serves(index).await.expect("it serves");
            let mut reader = client(env, members, index).await;
            let all = GetOptions::new().with_prefix().with_keys_only();
            let held =
                eventually(env, "a read", async || reader.get("w", Some(all.clone())).await.ok()).await;
            let held: Vec<&[u8]> = held.kvs().iter().map(etcd_client::KeyValue::key).collect();
            let missing = self.acknowledged.iter().find(|key| !held.contains(&key.as_bytes()));
            assert_eq!(missing, None, "member {index} holds only {} keys", held.len());
        }
        assert_eq!(members.same_hashes().await, None);
    }
}

#[test]
fn a_leader_that_is_killed_is_replaced_and_comes_back_with_everything() {
    play(&[], async |env, members| {
        for _ in 0..3 {
            let leader = members.leader().await.expect("a leader");
            let mut writer = Writer::new(&env, members, another(members, leader)).await;
            writer.write(&env, 20).await;
            members.member(leader).kill().expect("killed");
            writer.write(&env, 20).await;
            members.member(leader).start().expect("started");
            writer.all_is_there(&env, members).await;
        }
    });
}

#[test]
fn a_leader_that_is_stopped_hands_over_and_ends() {
    play(&[], async |env, members| {
        let leader = members.leader().await.expect("a leader");
        let mut writer = Writer::new(&env, members, another(members, leader)).await;
        writer.write(&env, 20).await;
        members.member(leader).signal(Signal::SIGTERM).expect("asked");
        writer.write(&env, 20).await;
        eventually(&env, "the end of the leader", async || members.member(leader).has_ended().then_some(()))
            .await;
        let text = members.log(leader);
        assert!(!text.contains("panicked"), "{text}");
        members.member(leader).start().expect("started");
        writer.all_is_there(&env, members).await;
    });
}

#[test]
fn what_was_acknowledged_outlives_the_death_of_all() {
    play(&[], async |env, members| {
        let mut writer = Writer::new(&env, members, 0).await;
        for _ in 0..3 {
            writer.write(&env, 20).await;
            (0..members.size()).for_each(|index| members.member(index).kill().expect("killed"));
            (0..members.size()).for_each(|index| members.member(index).start().expect("started"));
            writer.all_is_there(&env, members).await;
        }
    });
}
