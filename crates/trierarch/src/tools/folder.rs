//! New data folders: all of it is written beside, and takes its name when it is whole and durable.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::backup::Record;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use etcd_api::files::{Loaded, stored_version};
use mvcc::{Contents, MemberAttributes};
use rocks::DataFolder;
use store::storage::Storage;
use store::{ClusterId, Member, Seed, StateLoader, cluster_id, member_id};

use crate::member::parse_initial_cluster;

/// Whose folder it is to be, in `etcdutl snapshot restore`'s words.
#[derive(Args, Clone, Debug)]
pub struct NewMember {
    /// The member's name
    #[arg(long, default_value = "default")]
    pub name: String,
    /// The data folder to make; without it <name>.etcd
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// A folder of its own for the log; the data folder then holds a link to it
    #[arg(long)]
    pub wal_dir: Option<PathBuf>,
    /// All members of the new cluster as name=url,name=url
    #[arg(long, default_value = "default=http://localhost:2380")]
    pub initial_cluster: String,
    /// Tells clusters with the same URLs apart
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// The member's own URLs for other members
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    pub initial_advertise_peer_urls: Vec<String>,
}

impl NewMember {
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", self.name)))
    }

    /// A place for copies of the store whose folder it is to be.
    pub fn copies(&self) -> Result<Copies> {
        let path = beside(&self.data_dir(), "copying");
        remove_if_there(&path)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {path:?}"))?;
        Ok(Copies(path))
    }

    /// What the folder begins with, and what the members tell of themselves.
    pub fn seed(&self) -> Result<(Seed, Vec<MemberAttributes>)> {
        let mut urls: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, url) in parse_initial_cluster(&self.initial_cluster)? {
            urls.entry(name).or_default().push(url);
        }
        let Some(own) = urls.get(&self.name) else {
            bail!("couldn't find local name {:?} in the initial cluster configuration", self.name);
        };
        let (mut own, mut advertised) = (own.clone(), self.initial_advertise_peer_urls.clone());
        own.sort();
        advertised.sort();
        if own != advertised {
            bail!(
                "--initial-cluster has {}={} but --initial-advertise-peer-urls is {}",
                self.name,
                own.join(","),
                advertised.join(",")
            );
        }
        let member = |(name, peer_urls): (String, Vec<String>)| Member {
            id: member_id(&peer_urls, &self.initial_cluster_token, None),
            name,
            peer_urls,
            client_urls: Vec::new(),
            is_learner: false,
        };
        let members: Vec<Member> = urls.into_iter().map(member).collect();
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let me = members.iter().find(|member| member.name == self.name).map_or(0, |member| member.id);
        let attributes = members.iter().map(|member| MemberAttributes {
            id: member.id,
            name: member.name.clone(),
            client_urls: Vec::new(),
        });
        let (attributes, cluster): (_, ClusterId) = (attributes.collect(), cluster_id(&ids));
        Ok((Seed::first(me, cluster, members), attributes))
    }

    /// Writes the folder.
    pub fn write(
        &self,
        seed: &Seed,
        fill: impl FnOnce(&mut StateLoader<'_>) -> io::Result<Contents>,
    ) -> Result<PathBuf> {
        let data_dir = self.data_dir();
        if data_dir.exists() && fs::read_dir(&data_dir).map_or(true, |mut entries| entries.next().is_some()) {
            bail!("data-dir {data_dir:?} not empty or could not be read");
        }
        let building = beside(&data_dir, "restoring");
        remove_building(&building)?;
        if let Some(wal_dir) = self.wal_dir.as_ref().filter(|wal_dir| wal_dir.exists()) {
            bail!("wal-dir {wal_dir:?} exists");
        }
        let built = build(&building, seed, self.wal_dir.as_deref(), fill);
        if built.is_err() {
            // Nobody can use it, and it may have taken the last room.
            drop(remove_building(&building));
        }
        built.with_context(|| format!("cannot write {data_dir:?}"))?;
        fs::rename(&building, &data_dir).with_context(|| format!("cannot make {data_dir:?}"))?;
        sync_folder(data_dir.parent())?;
        Ok(data_dir)
    }
}

/// A folder for what is only read; it goes with this, and what an interrupted process left goes with the next.
pub struct Copies(PathBuf);

impl Copies {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A name for what belongs to a folder and is not whole.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Writes a folder under a name that nobody runs on.
pub fn build(
    folder: &Path,
    seed: &Seed,
    wal_dir: Option<&Path>,
    fill: impl FnOnce(&mut StateLoader<'_>) -> io::Result<Contents>,
) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(DataFolder::open(folder)?);
    if let Some(wal_dir) = wal_dir {
        fs::create_dir_all(wal_dir)?;
        std::os::unix::fs::symlink(fs::canonicalize(wal_dir)?, folder.join("wal"))?;
    }
    seed.write(&storage, fill)?;
    sync_folder(Some(folder))
}

/// Adds the changes of a revision behind what was loaded.
pub fn append(loader: &mut StateLoader<'_>, loaded: &mut Loaded, record: &Record) -> io::Result<()> {
    for version in record.versions() {
        loader.version(&stored_version(version)?).map_err(io::Error::other)?;
    }
    loaded.revision = loaded.revision.max(record.revision);
    Ok(())
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: Option<&Path>) -> Result<()> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("cannot sync {folder:?}"))
}

/// Removes a folder that is not whole, with the log that it has elsewhere.
fn remove_building(building: &Path) -> Result<()> {
    if let Ok(wal_dir) = fs::read_link(building.join("wal")) {
        remove_if_there(&wal_dir)?;
    }
    remove_if_there(building)
}

/// Removes a folder that an interrupted process left.
pub fn remove_if_there(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {folder:?}"))
        }
        _ => Ok(()),
    }
}
