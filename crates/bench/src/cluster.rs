//! A whole cluster on the simulated runtime, left alone.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::Env;

use crate::proc;
use crate::report::median;

/// How long a cluster is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(10);
/// Away from the ports of a cluster that may be up.
const PORT_OFFSET: &str = "--port-offset=400";

/// Brings clusters up one after the other and prints medians.
pub fn idle(env: &Env, binary: &Path, runs: usize) -> Result<()> {
    let (mut times, mut memories, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let folder = tempfile::tempdir()?;
        let dir = folder.path().join("cluster");
        let begun = env.clock.monotonic();
        run(Command::new(binary).args(["up", "--simulated", PORT_OFFSET, "--dir"]).arg(&dir))?;
        times.push((env.clock.monotonic() - begun).as_secs_f64());
        let pids: Vec<u32> = ["m1", "m2", "m3"].iter().map(|name| pid(&dir, name)).collect::<Result<_>>()?;
        std::thread::sleep(SETTLE);
        let (cpu, at) = (cpu(&pids), env.clock.monotonic());
        std::thread::sleep(SETTLE);
        let used = (self::cpu(&pids) - cpu).as_secs_f64() / (env.clock.monotonic() - at).as_secs_f64();
        loads.push(used * 100.0 / pids.len() as f64);
        memories.extend(pids.iter().map(|pid| proc::memory_kib(*pid).0 as f64 / 1024.0));
        run(Command::new(binary).args(["down", "--dir"]).arg(&dir))?;
    }
    println!("## A cluster of three masters and two simulated nodes, idle; medians of {runs}\n");
    println!("| what | figure | wanted |\n|---|---:|---:|");
    println!("| `up` until everything is Ready | {:.1} s | 15 s |", median(times));
    println!("| resident memory of a master | {:.0} MiB | 100 MiB |", median(memories));
    println!("| processor of a master | {:.1} % of a core | |\n", median(loads));
    Ok(())
}

fn cpu(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| proc::cpu(*pid)).sum()
}

fn pid(dir: &Path, name: &str) -> Result<u32> {
    let record = std::fs::read_to_string(dir.join("run").join(format!("{name}.json")))?;
    let digits = record.split("\"pid\":").nth(1).context("a record holds a pid")?;
    Ok(digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse()?)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
