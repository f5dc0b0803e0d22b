//! Compiles the pod sandbox's `pause` program into a static executable that the binary carries, and has what the loader
//! fills in of the binary itself written in few bytes.

use std::path::Path;
use std::process::Command;

/// The first glibc whose loader reads packed relocations. What is linked with them runs with no older one.
const PACKED_RELOCATIONS: (u32, u32) = (2, 36);

fn main() {
    compile_pause();
    if glibc().is_some_and(|version| version >= PACKED_RELOCATIONS) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the C library that the program is linked to; none of another library, or of another machine.
fn glibc() -> Option<(u32, u32)> {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    if of("TARGET") != of("HOST") {
        return None;
    }
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn compile_pause() {
    println!("cargo::rerun-if-changed=pause/main.rs");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let rustc = std::env::var("RUSTC").expect("cargo sets RUSTC");
    let pause = Path::new(&out).join("pause");
    let status = Command::new(rustc)
        .args(["--edition=2024", "-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat"])
        .args(["-Ctarget-feature=+crt-static", "--crate-name=pause", "-o"])
        .arg(&pause)
        .arg("pause/main.rs")
        .status()
        .expect("rustc runs");
    assert!(status.success(), "pause/main.rs does not compile to a static executable");
}
