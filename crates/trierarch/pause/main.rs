//! The process that holds a pod's namespaces open: it waits, collects orphans, and ends when asked to.
//!
//! Compiled by `build.rs` into a static executable of its own, so that the pod sandbox image needs nothing else.

use std::ffi::c_int;

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
const WNOHANG: c_int = 1;

unsafe extern "C" {
    fn signal(signal: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn pause() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
}

extern "C" fn stop(_signal: c_int) {
    // SAFETY: _exit is async-signal-safe and takes any status.
    unsafe { _exit(0) }
}

extern "C" fn reap(_signal: c_int) {
    // SAFETY: waitpid is async-signal-safe; a null status is allowed.
    while unsafe { waitpid(-1, std::ptr::null_mut(), WNOHANG) } > 0 {}
}

fn main() {
    // SAFETY: the handlers call only async-signal-safe functions and live as long as the process.
    unsafe {
        signal(SIGINT, stop);
        signal(SIGTERM, stop);
        signal(SIGCHLD, reap);
    }
    loop {
        // SAFETY: pause has no preconditions.
        unsafe { pause() };
    }
}
