//! Tokens that nobody uses end.
//!
//! Every member tells which tokens were used there; the leader notes when it was last told of one, by its own clock.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use mvcc::{AuthCommand, Command, TokenUse, View};
use tokio::time::Instant;

use super::tokens::Kind;
use crate::context::Context;

/// Pauses within a token's time.
const LOOKS: u32 = 10;
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Tokens that one command ends, at most.
const MAX_FORGOTTEN: usize = 1024;

/// Runs until the server stops.
pub(crate) async fn keep(context: Context) {
    let mut ages = Ages::default();
    loop {
        let pause = match &context.tokens.kind {
            Kind::Simple(simple) => (simple.ttl / LOOKS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
            Kind::Jwt(_) => LONGEST_PAUSE,
            Kind::None => return,
        };
        tokio::select! {
            () = context.env.clock.sleep(pause) => {}
            () = context.shutdown.wait() => return,
        }
        match &context.tokens.kind {
            Kind::Jwt(jwt) => jwt.refresh(),
            Kind::Simple(simple) => {
                let digests = simple.take_used();
                if !digests.is_empty() {
                    tell(&context, AuthCommand::TokensUsed { digests }).await;
                }
                if context.store.is_leader() {
                    let old = ages.old(&context.store.view(), context.env.clock.monotonic(), simple.ttl);
                    if !old.is_empty() {
                        tell(&context, AuthCommand::TokensForget { tokens: old }).await;
                    }
                } else {
                    ages = Ages::default();
                }
            }
            Kind::None => {}
        }
    }
}

/// If it fails a token ends a little too late or, if nobody uses it again, too early: its user asks for another.
async fn tell(context: &Context, command: AuthCommand) {
    if let Err(error) = context.store.propose(Command::Auth(command)).await {
        tracing::debug!(%error, "the use of tokens could not be told");
    }
}

/// Since when each token was not used. Pure.
#[derive(Debug, Default)]
struct Ages(HashMap<Bytes, (u64, Instant)>);

impl Ages {
    /// Which tokens were not used for longer than `ttl`.
    fn old(&mut self, view: &View, now: Instant, ttl: Duration) -> Vec<TokenUse> {
        let auth = view.auth();
        self.0.retain(|digest, _| auth.token(digest).is_some());
        let mut old = Vec::new();
        for (digest, token) in auth.tokens() {
            let (used, since) = self.0.entry(digest.clone()).or_insert((token.used, now));
            if *used != token.used {
                (*used, *since) = (token.used, now);
            }
            if now.duration_since(*since) >= ttl && old.len() < MAX_FORGOTTEN {
                old.push(TokenUse { digest: digest.clone(), used: token.used });
            }
        }
        old
    }
}
