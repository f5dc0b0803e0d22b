//! A snapshot of a member, once.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use etcd_files::{Database, FileError};
use protos::etcd::etcdserverpb as pb;

use crate::connection::Connection;
use crate::error::BackupError;

/// Saves a snapshot to `path`, under another name until it is whole and durable; the version of the member's storage,
/// which is empty before 3.6.
///
/// # Errors
/// When the member refuses or the file cannot be written.
pub async fn save_snapshot(connection: &Connection, path: &Path) -> Result<String, BackupError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = std::path::PathBuf::from(name);
    let saved = receive(connection, &part).await;
    let version = match saved {
        Ok(version) => version,
        Err(error) => {
            drop(fs::remove_file(&part));
            return Err(error);
        }
    };
    fs::rename(&part, path).map_err(BackupError::file(path))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(BackupError::file(folder))?;
    Ok(version)
}

/// Opens a snapshot that was saved; its checksum is checked.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn open_snapshot(path: &Path) -> Result<Database<File>, BackupError> {
    let file = File::open(path).map_err(BackupError::file(path))?;
    etcd_files::check_trailer(&file, false)?;
    Ok(Database::open(file).map_err(FileError::from)?)
}

async fn receive(connection: &Connection, part: &Path) -> Result<String, BackupError> {
    let failed = || BackupError::file(part);
    let mut file = File::options().write(true).create(true).truncate(true).open(part).map_err(failed())?;
    let mut blobs = connection.maintenance().snapshot(pb::SnapshotRequest {}).await?.into_inner();
    let (mut size, mut version) = (0u64, String::new());
    while let Some(response) = blobs.message().await? {
        file.write_all(&response.blob).map_err(failed())?;
        size += response.blob.len() as u64;
        if !response.version.is_empty() {
            version = response.version;
        }
    }
    if !etcd_files::has_trailer(size) {
        let what = format!("sha256 checksum not found [bytes: {size}]");
        return Err(BackupError::damaged(&part.display().to_string(), what));
    }
    file.sync_all().map_err(failed())?;
    Ok(version)
}
