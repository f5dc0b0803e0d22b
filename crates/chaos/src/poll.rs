//! Asking until the answer is the one that is waited for.

use std::time::Duration;

use anyhow::{Result, anyhow};
use env::Env;

/// Between two questions.
const POLL: Duration = Duration::from_millis(20);
/// How long one question may take: a master that was struck does not answer at all.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks until there is an answer.
///
/// # Errors
/// The last one of `ask`, once `patience` is over.
pub async fn until<T>(env: &Env, patience: Duration, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = env.clock.monotonic() + patience;
    loop {
        let asked = tokio::time::timeout(ASK_TIMEOUT, ask()).await;
        match asked.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", ASK_TIMEOUT.as_secs()))) {
            Ok(answer) => return Ok(answer),
            Err(why) if env.clock.monotonic() > deadline => return Err(why),
            Err(_) => env.clock.sleep(POLL).await,
        }
    }
}
