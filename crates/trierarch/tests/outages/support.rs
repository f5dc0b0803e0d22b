//! Members, clients of one member each, and waiting.

use std::path::Path;
use std::time::Duration;

use chaos::Network;
use chaos::etcd::Members;
use env::Env;
use etcd_client::{Client, ConnectOptions};

/// How long anything may take that is waited for.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How long one question may take: a member that sleeps does not answer at all.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// The key of most tests.
pub const KEY: &str = "k";

/// Plays a test of three members with further flags.
pub fn play(flags: &[String], test: impl AsyncFnOnce(Env, &mut Members<'_>)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (env, network) = (Env::real(), Network::loopback());
        let binary = Path::new(env!("CARGO_BIN_EXE_trierarch"));
        let mut members = Members::start(&env, binary, &network, 3, flags).await.expect("members");
        test(env, &mut members).await;
    });
}

/// Polls until `check` has an answer.
pub async fn eventually<T>(env: &Env, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = env.clock.monotonic() + DEADLINE;
    loop {
        if let Ok(Some(found)) = tokio::time::timeout(ASK_TIMEOUT, check()).await {
            return found;
        }
        assert!(env.clock.monotonic() < end, "{what} did not happen in {} s", DEADLINE.as_secs());
        env.clock.sleep(POLL).await;
    }
}

/// A client of one member, connected.
pub async fn client(env: &Env, members: &Members<'_>, index: usize) -> Client {
    let options = ConnectOptions::new().with_connect_timeout(ASK_TIMEOUT);
    eventually(env, "a connection", async || {
        let mut client = Client::connect([members.endpoint(index)], Some(options.clone())).await.ok()?;
        // Now it has a connection.
        client.get(KEY, None).await.ok()?;
        Some(client)
    })
    .await
}

/// Writes [`KEY`] until that is acknowledged by a member; the revision.
pub async fn write(env: &Env, members: &Members<'_>, index: usize, value: &str) -> i64 {
    let mut client = Client::connect([members.endpoint(index)], None).await.expect("lazy");
    eventually(env, &format!("{value} is written"), async || {
        client.put(KEY, value, None).await.ok()?.header().map(|header| header.revision())
    })
    .await
}

/// A member other than this one.
pub fn another(members: &Members<'_>, index: usize) -> usize {
    (index + 1) % members.size()
}
