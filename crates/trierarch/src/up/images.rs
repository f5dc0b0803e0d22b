//! The two images that a cluster without a registry starts with, built from static executables as OCI archives
//! (OCI image specification 1.1, "Image Layout"): the pod sandbox's `pause`, and a small busybox.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The sandbox image's name.
pub const PAUSE_IMAGE: &str = "trierarch.local/pause:1";
/// The image of the walk-through: busybox with its applets in `/bin`.
pub const DEMO_IMAGE: &str = "trierarch.local/busybox:1";
/// Where Debian's busybox-static puts the executable.
pub const BUSYBOX: &str = "/bin/busybox";

const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
const EXECUTABLE: u32 = 0o755;
const READABLE: u32 = 0o644;

/// The applets that get a link in `/bin`; those that a container's scripts commonly call.
const APPLETS: &str = "sh ash cat ls cp mv rm mkdir rmdir ln touch echo printf sleep true false test [ env id \
    hostname httpd wget nc ping ip ifconfig route netstat nslookup ps top kill killall grep egrep sed awk cut sort \
    uniq wc head tail tr tee xargs find date df du free mount umount chmod chown stat sync dd od hexdump md5sum \
    sha256sum base64 tar gzip gunzip zcat vi less more yes seq expr timeout time watch uname whoami which dirname \
    basename readlink realpath mktemp trap setsid nohup telnet pgrep pkill uptime sysctl ulimit";

/// Writes the sandbox image's archive.
pub fn write_pause(path: &Path) -> Result<()> {
    let mut layer = Layer::default();
    layer.file("pause", PAUSE, EXECUTABLE)?;
    write_archive(path, PAUSE_IMAGE, layer, &json!({"Entrypoint": ["/pause"], "WorkingDir": "/"}))
}

/// Writes the walk-through image's archive from the machine's static busybox.
pub fn write_demo(path: &Path) -> Result<()> {
    let busybox =
        fs::read(BUSYBOX).with_context(|| format!("no {BUSYBOX}: apt-get install busybox-static"))?;
    let mut layer = Layer::default();
    for folder in ["bin/", "etc/", "tmp/", "var/", "root/"] {
        layer.folder(folder)?;
    }
    layer.file("bin/busybox", &busybox, EXECUTABLE)?;
    for applet in APPLETS.split_whitespace() {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    layer.file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        READABLE,
    )?;
    layer.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", READABLE)?;
    layer.folder("www/")?;
    // Without arguments the image serves the pod's name, so that `kubectl create deployment` has something that stays
    // up and a Service something to spread over. The shell ends on SIGTERM; process 1 would ignore it by itself.
    let serve = "trap 'exit 0' TERM; hostname > /www/index.html; httpd -f -p 80 -h /www & wait";
    let config = json!({
        "Env": ["PATH=/bin"],
        "Cmd": ["/bin/sh", "-c", serve],
        "WorkingDir": "/",
    });
    write_archive(path, DEMO_IMAGE, layer, &config)
}

/// One file-system layer, as an uncompressed tar with fixed times and owners: the same bytes each time.
#[derive(Default)]
struct Layer(Option<tar::Builder<Vec<u8>>>);

impl Layer {
    fn builder(&mut self) -> &mut tar::Builder<Vec<u8>> {
        self.0.get_or_insert_with(|| tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        Ok(self.builder().append_data(&mut header, path, content)?)
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, EXECUTABLE);
        Ok(self.builder().append_data(&mut header, path, std::io::empty())?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        Ok(self.builder().append_link(&mut header, path, target)?)
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.builder();
        Ok(self.0.take().context("a layer has a builder")?.into_inner()?)
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), bytes }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len()})
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an OCI image layout as one tar, which `ctr images import` takes.
fn write_archive(path: &Path, name: &str, layer: Layer, config: &Value) -> Result<()> {
    let tar = layer.finish()?;
    let diff_id = sha256(&tar);
    let layer = Blob::new(gzip(&tar)?);
    let config = Blob::json(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
    }))?;
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
    }))?;
    let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] =
        json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

    let mut archive = Layer::default();
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, READABLE)?;
    archive.file("index.json", &index, READABLE)?;
    for blob in [&layer, &config, &manifest] {
        archive.file(&format!("blobs/sha256/{}", blob.digest), &blob.bytes, READABLE)?;
    }
    fs::write(path, archive.finish()?).with_context(|| format!("cannot write {}", path.display()))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// The machine's architecture by its OCI name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_a_layout_whose_digests_agree() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pause.tar");
        write_pause(&path).expect("written");
        let first = fs::read(&path).expect("read");
        write_pause(&path).expect("written again");
        assert_eq!(first, fs::read(&path).expect("read"), "the same input gives the same archive");
        let mut names = Vec::new();
        for entry in tar::Archive::new(first.as_slice()).entries().expect("tar") {
            let mut entry = entry.expect("entry");
            let name = entry.path().expect("path").display().to_string();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
                assert_eq!(digest, sha256(&bytes));
            }
            names.push(name);
        }
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.contains(&"oci-layout".to_owned()) && names.contains(&"index.json".to_owned()));
    }
}
