//! Running the system's own tools (`ip`, `mount`, `ctr`) with errors that name the whole command.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Runs a command given as one line; words are split at spaces.
pub fn run(line: &str) -> Result<String> {
    run_words(&line.split_whitespace().collect::<Vec<_>>())
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// With the command and what it said on standard error, unless it exits with 0.
pub fn run_words(words: &[&str]) -> Result<String> {
    let output = output(words)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}", words.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command exits with 0.
pub fn succeeds(line: &str) -> bool {
    output(&line.split_whitespace().collect::<Vec<_>>()).is_ok_and(|output| output.status.success())
}

/// Whether a program is on the path that the tools use.
pub fn exists(program: &str) -> bool {
    SEARCH_PATH.split(':').any(|folder| std::path::Path::new(folder).join(program).exists())
}

/// Where the system's tools are; a user's own path may lack the folders for root's.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn output(words: &[&str]) -> Result<Output> {
    let (program, arguments) = words.split_first().context("a command has a program")?;
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:{SEARCH_PATH}"))
        .output()
        .with_context(|| format!("cannot run `{}`", words.join(" ")))
}
