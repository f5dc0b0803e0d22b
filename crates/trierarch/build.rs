//! Compiles the pod sandbox's `pause` program into a static executable that the binary carries.

use std::path::Path;
use std::process::Command;

fn main() {
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
