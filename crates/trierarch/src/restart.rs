//! Starting again in place of this process: the same program with the same arguments under the same process id.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by whatever cannot go on without a start from the beginning.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Asks for it, when everything has ended in order.
pub fn ask() {
    ASKED.store(true, Ordering::Relaxed);
}

/// Whether it was asked for.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Starts again. It returns only what keeps it from that.
pub fn now() -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).exec()
}
