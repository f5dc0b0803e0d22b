//! Where a backup lies: a folder, or a bucket of S3-compatible storage.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use url::Url;

use crate::error::BackupError;
use crate::manifest::{FORMAT, Manifest, NAME, Stored};
use crate::segment::hex;

/// Bytes of a file that are sent at a time.
const PART: usize = 1 << 20;

/// What S3-compatible storage needs beside the environment's `AWS_*` variables.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// The server's URL, where it is not Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The access key, where it does not stand in the environment.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<String>,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest bases, and the segments that they need; one at least.
    pub bases: usize,
}

/// A place for one cluster's backup.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Repository {
    /// Opens a place: a folder, which is made, or `s3://bucket/prefix`.
    ///
    /// # Errors
    /// When it is no place or cannot be made.
    pub fn open(place: &str, s3: &S3Options) -> Result<Self, BackupError> {
        if place.starts_with("s3://") {
            return Self::open_s3(place, s3);
        }
        let folder = place.strip_prefix("file://").unwrap_or(place);
        if place.contains("://") && !place.starts_with("file://") {
            return Err(BackupError::Place(place.to_owned(), "it is a folder or s3://bucket/prefix".into()));
        }
        std::fs::create_dir_all(folder).map_err(BackupError::file(folder))?;
        let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: Path::default() })
    }

    fn open_s3(place: &str, s3: &S3Options) -> Result<Self, BackupError> {
        let url = Url::parse(place).map_err(|error| BackupError::Place(place.into(), error.to_string()))?;
        let bucket = url.host_str().unwrap_or_default();
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        if let Some(endpoint) = &s3.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        if let (Some(id), Some(secret)) = (&s3.access_key_id, &s3.secret_access_key) {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        let prefix = Path::parse(url.path().trim_matches('/'))
            .map_err(|error| BackupError::Place(place.into(), error.to_string()))?;
        Ok(Self { store: Arc::new(builder.build()?), prefix })
    }

    fn at(&self, name: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(name).parts()))
    }

    /// What it holds; `None` where nothing was ever put.
    ///
    /// # Errors
    /// When the storage fails or the manifest is damaged. The same for what follows.
    pub async fn manifest(&self) -> Result<Option<Manifest>, BackupError> {
        let found = match self.store.get(&self.at(NAME)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found?.bytes().await?,
        };
        let manifest: Manifest =
            serde_json::from_slice(&found).map_err(|error| BackupError::damaged(NAME, error))?;
        if manifest.format != FORMAT {
            let what = format!("its format is {}, not {FORMAT}", manifest.format);
            return Err(BackupError::damaged(NAME, what));
        }
        Ok(Some(manifest))
    }

    pub(crate) async fn save_manifest(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| BackupError::damaged(NAME, error))?;
        self.put(NAME, text.into()).await
    }

    pub(crate) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BackupError> {
        self.store.put(&self.at(name), PutPayload::from_bytes(bytes)).await?;
        Ok(())
    }

    /// Stores a file; its size and checksum.
    pub(crate) async fn put_file(&self, name: &str, path: &FilePath) -> Result<(u64, String), BackupError> {
        let mut file = File::open(path).map_err(BackupError::file(path))?;
        let mut out = BufWriter::new(self.store.clone(), self.at(name));
        let (mut hash, mut size) = (Sha256::new(), 0);
        loop {
            let mut part = vec![0; PART];
            let read = file.read(&mut part).map_err(BackupError::file(path))?;
            if read == 0 {
                break;
            }
            part.truncate(read);
            hash.update(&part);
            size += read as u64;
            out.put(part.into()).await?;
        }
        out.shutdown().await.map_err(BackupError::file(name))?;
        Ok((size, hex(&hash.finalize())))
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Bytes, BackupError> {
        Ok(self.store.get(&self.at(name)).await?.bytes().await?)
    }

    /// Fetches what is stored into a file, and compares its checksum.
    pub(crate) async fn get_file(&self, stored: &Stored, path: &FilePath) -> Result<(), BackupError> {
        let mut file = File::create(path).map_err(BackupError::file(path))?;
        let mut parts = self.store.get(&self.at(&stored.name)).await?.into_stream();
        let mut hash = Sha256::new();
        while let Some(part) = parts.next().await {
            let part = part?;
            hash.update(&part);
            file.write_all(&part).map_err(BackupError::file(path))?;
        }
        match hex(&hash.finalize()) == stored.sha256 {
            true => Ok(()),
            false => Err(BackupError::damaged(&stored.name, "its checksum is not the manifest's")),
        }
    }

    /// Takes away what is older than is to be kept; the names of what went. The manifest goes first, so that it never
    /// names what is gone.
    ///
    /// # Errors
    /// As above.
    pub async fn prune(&self, retention: Retention) -> Result<Vec<String>, BackupError> {
        let Some(mut manifest) = self.manifest().await? else { return Ok(Vec::new()) };
        let removed = manifest.prune(retention.bases);
        if removed.is_empty() {
            return Ok(Vec::new());
        }
        self.save_manifest(&manifest).await?;
        let mut names = Vec::new();
        for stored in removed {
            match self.store.delete(&self.at(&stored.name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => names.push(stored.name),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(names)
    }
}
