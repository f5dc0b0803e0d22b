//! A cluster of `trierarch etcd` members as processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use env::Env;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::cluster_client::ClusterClient;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::lease_client::LeaseClient;
use protos::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;

use super::disk::SmallDisk;
use super::rights;
use super::wire::{self, Connection, Token};
use crate::network::{Cut, MasterPlace, Network};
use crate::poll::until;
use crate::process::Process;

/// How long a member may take to serve, and a cluster to have a leader.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster.
pub struct Members<'a> {
    env: Env,
    network: &'a Network,
    binary: PathBuf,
    flags: Vec<String>,
    token: Token,
    // They go in this order: processes, what they write to, and the place of that.
    members: Vec<Member>,
    disks: Vec<SmallDisk>,
    folder: TempDir,
}

struct Member {
    place: MasterPlace,
    process: Process,
    /// How often it was replaced.
    generation: u32,
    cut: bool,
}

impl<'a> Members<'a> {
    /// Starts members; returns when all serve. In `flags`, `{name}` stands for the member's name: m0g0, m1g0 and so on
    /// at first. Peers speak TLS where the flags give them certificates.
    ///
    /// # Errors
    /// They cannot be started.
    pub async fn start(
        env: &Env,
        binary: &Path,
        network: &'a Network,
        size: usize,
        flags: &[String],
    ) -> Result<Self> {
        Self::start_on(env, binary, network, (size, 0), flags).await
    }

    /// As [`Self::start`], each with a disk of its own of so many megabytes; with none where that is 0.
    ///
    /// # Errors
    /// They cannot be started, or have no disks.
    pub async fn start_on(
        env: &Env,
        binary: &Path,
        network: &'a Network,
        (size, disk_mb): (usize, u32),
        flags: &[String],
    ) -> Result<Self> {
        let (places, _) = network.places(size, 0)?;
        let folder = tempfile::Builder::new().prefix("trierarch-members-").tempdir()?;
        let mut members = Self {
            env: env.clone(),
            network,
            binary: binary.to_owned(),
            flags: flags.to_owned(),
            folder,
            members: Vec::new(),
            disks: Vec::new(),
            token: Token::default(),
        };
        for index in 0..size * usize::from(disk_mb > 0) {
            members.disks.push(SmallDisk::at(members.folder.path().join(name(index, 0)), disk_mb)?);
        }
        let named: Vec<String> =
            places.iter().enumerate().map(|(n, place)| members.peer(n, 0, place)).collect();
        for (index, place) in places.into_iter().enumerate() {
            let process = members.process(index, 0, &place, &named, "new");
            members.members.push(Member { place, process, generation: 0, cut: false });
        }
        match members.start_all().await {
            Ok(()) => Ok(members),
            Err(error) => Err(members.with_words(&error)),
        }
    }

    async fn start_all(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.process.start())?;
        for index in 0..self.size() {
            self.serves(index).await?;
        }
        Ok(())
    }

    /// An error behind what the members said last: where a record is cut short, its end is what is kept.
    pub fn with_words(&mut self, error: &anyhow::Error) -> anyhow::Error {
        let words = self.last_words();
        let folder = self.keep_folder().display();
        anyhow!(
            "members failed, their last words:\n{words}\nlogs and data are kept in {folder}\ncause: {error:#}"
        )
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Where clients find a member.
    pub fn endpoint(&self, index: usize) -> String {
        let place = &self.members[index].place;
        format!("http://{}:{}", place.address, place.client_port)
    }

    /// Where clients find each.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.size()).map(|index| self.endpoint(index)).collect()
    }

    /// Where a member's failpoints are set.
    pub fn failpoints(&self, index: usize) -> String {
        let place = &self.members[index].place;
        format!("{}:{}", place.address, place.api_port)
    }

    /// A process to be struck or started.
    pub fn member(&mut self, index: usize) -> &mut Process {
        &mut self.members[index].process
    }

    /// Returns when a member answers a read that needs a quorum.
    ///
    /// # Errors
    /// It does not for a minute.
    pub async fn serves(&self, index: usize) -> Result<()> {
        until(&self.env, PATIENCE, async || self.answers(index).await)
            .await
            .with_context(|| format!("member {index} does not serve"))
    }

    /// Whether a member answers a read that needs a quorum.
    ///
    /// # Errors
    /// It does not.
    pub async fn answers(&self, index: usize) -> Result<()> {
        let mut kv = KvClient::new(self.channel(index).await?);
        kv.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await?;
        Ok(())
    }

    /// The member that leads, once one does.
    ///
    /// # Errors
    /// None does for a minute.
    pub async fn leader(&self) -> Result<usize> {
        Ok(self.leadership().await?.0)
    }

    /// The member that leads, once one does, and the term that it leads in.
    ///
    /// # Errors
    /// None does for a minute.
    pub async fn leadership(&self) -> Result<(usize, u64)> {
        until(&self.env, PATIENCE, async || {
            // One that led before may not know yet that another one does.
            let mut found = None;
            for index in 0..self.size() {
                let Ok((id, status)) = self.status(index).await else { continue };
                if id == status.leader {
                    found = found.max(Some((status.raft_term, index)));
                }
            }
            found.map(|(term, index)| (index, term)).context("no member leads")
        })
        .await
    }

    async fn channel(&self, index: usize) -> Result<Connection> {
        let connected = wire::connect(&self.endpoint(index), &self.token).await;
        connected.with_context(|| format!("member {index} does not listen"))
    }

    /// From now on everybody must say who they are, and who uses this says that it is root.
    ///
    /// # Errors
    /// The members do not agree to that.
    pub async fn demand_passwords(&mut self) -> Result<()> {
        rights::enable(&self.env, &self.endpoint(0)).await?;
        self.token = rights::token(&self.env, &self.endpoint(0), rights::ROOT).await?;
        Ok(())
    }

    /// Who asks here.
    pub fn token(&self) -> &Token {
        &self.token
    }

    async fn status(&self, index: usize) -> Result<(u64, pb::StatusResponse)> {
        let mut client = MaintenanceClient::new(self.channel(index).await?);
        let asked = tokio::time::timeout(Duration::from_millis(500), client.status(pb::StatusRequest {}));
        let status = asked.await.context("no answer")??.into_inner();
        let id = status.header.as_ref().map_or(0, |header| header.member_id);
        Ok((id, status))
    }

    /// Asks the leader to hand over to another member.
    ///
    /// # Errors
    /// It does not.
    pub async fn move_leader(&self, from: usize, to: usize) -> Result<()> {
        let (target_id, _) = self.status(to).await?;
        let mut client = MaintenanceClient::new(self.channel(from).await?);
        client.move_leader(pb::MoveLeaderRequest { target_id }).await?;
        Ok(())
    }

    /// A member's disk.
    ///
    /// # Errors
    /// It has none of its own.
    pub fn disk(&self, index: usize) -> Result<&SmallDisk> {
        self.disks.get(index).context("members have no disks of their own")
    }

    /// Cuts a member off from all others, one way or both.
    ///
    /// # Errors
    /// See [`Network::cut`].
    pub fn cut(&mut self, index: usize, cut: Cut) -> Result<()> {
        let others: Vec<usize> = (0..self.size()).filter(|&other| other != index).collect();
        self.network.cut(index, &others, cut)?;
        self.members[index].cut = true;
        Ok(())
    }

    /// Ends that.
    ///
    /// # Errors
    /// See [`Network::heal`].
    pub fn heal(&mut self, index: usize) -> Result<()> {
        self.members[index].cut = false;
        self.network.heal(index)
    }

    /// Kills a member, has another one remove it, and puts a new one with an empty folder in its place.
    ///
    /// # Errors
    /// What keeps it from that.
    pub async fn replace(&mut self, index: usize) -> Result<()> {
        self.members[index].process.kill()?;
        let (helper, old) = ((index + 1) % self.size(), name(index, self.members[index].generation));
        let url = self.peer_url(&self.members[index].place);
        until(&self.env, PATIENCE, async || self.change_members(helper, &old, &url).await)
            .await
            .with_context(|| format!("{old} cannot be replaced"))?;
        self.members[index].generation += 1;
        let named: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(n, one)| self.peer(n, one.generation, &one.place))
            .collect();
        let Member { place, generation, .. } = &self.members[index];
        self.members[index].process = self.process(index, *generation, place, &named, "existing");
        self.members[index].process.start()
    }

    /// Removes the member of this name, if it is still there, and adds one at its URL, if that is not there yet.
    async fn change_members(&self, helper: usize, old: &str, url: &str) -> Result<()> {
        let mut client = ClusterClient::new(self.channel(helper).await?);
        let list = client.member_list(pb::MemberListRequest { linearizable: true }).await?.into_inner();
        if let Some(gone) = list.members.iter().find(|member| member.name == old) {
            client.member_remove(pb::MemberRemoveRequest { id: gone.id }).await?;
        }
        let added =
            |member: &pb::Member| member.name != old && member.peer_ur_ls.iter().any(|one| one == url);
        if !list.members.iter().any(added) {
            let peer_ur_ls = vec![url.to_owned()];
            client.member_add(pb::MemberAddRequest { peer_ur_ls, is_learner: false }).await?;
        }
        Ok(())
    }

    /// Grants a lease that clients do not know of; its number.
    ///
    /// # Errors
    /// The member does not.
    pub async fn grant(&self, at: usize, ttl: i64) -> Result<i64> {
        let mut client = LeaseClient::new(self.channel(at).await?);
        Ok(client.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await?.into_inner().id)
    }

    /// Grants such a lease and renews it.
    ///
    /// # Errors
    /// The member does not.
    pub async fn renew(&self, at: usize) -> Result<()> {
        let id = self.grant(at, 60).await?;
        let mut client = LeaseClient::new(self.channel(at).await?);
        let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
        client.lease_keep_alive(requests).await?.into_inner().message().await?;
        Ok(())
    }

    /// Asks a member to defragment.
    ///
    /// # Errors
    /// It does not.
    pub async fn defragment(&self, at: usize) -> Result<()> {
        let mut client = MaintenanceClient::new(self.channel(at).await?);
        client.defragment(pb::DefragmentRequest {}).await?;
        Ok(())
    }

    /// Adds a learner that is never started.
    ///
    /// # Errors
    /// The member does not.
    pub async fn add_learner(&self, at: usize) -> Result<()> {
        let mut client = ClusterClient::new(self.channel(at).await?);
        let peer_ur_ls = vec!["http://127.0.0.1:1".to_owned()];
        client.member_add(pb::MemberAddRequest { peer_ur_ls, is_learner: true }).await?;
        Ok(())
    }

    /// Removes all learners.
    ///
    /// # Errors
    /// The member does not.
    pub async fn remove_learners(&self, at: usize) -> Result<()> {
        until(&self.env, PATIENCE, async || {
            let mut client = ClusterClient::new(self.channel(at).await?);
            let list = client.member_list(pb::MemberListRequest { linearizable: true }).await?.into_inner();
            for learner in list.members.iter().filter(|member| member.is_learner) {
                client.member_remove(pb::MemberRemoveRequest { id: learner.id }).await?;
            }
            Ok(())
        })
        .await
    }

    /// Whether all members hold the same keys with the same history at a revision; how they differ otherwise.
    pub async fn same_hashes(&self) -> Option<String> {
        let hashes = async || {
            let revision = self.status(0).await?.1.header.map_or(0, |header| header.revision);
            let mut hashes = Vec::new();
            for index in 0..self.size() {
                let mut client = MaintenanceClient::new(self.channel(index).await?);
                let answer = client.hash_kv(pb::HashKvRequest { revision }).await?.into_inner();
                hashes.push((answer.hash, answer.compact_revision));
            }
            if hashes.iter().any(|hash| hash != &hashes[0]) {
                return Err(anyhow!("hashes and compacted revisions at {revision} differ: {hashes:?}"));
            }
            Ok(())
        };
        until(&self.env, PATIENCE, hashes).await.err().map(|why| format!("HashKV: {why:#}"))
    }

    /// Members that were started and have ended by themselves.
    pub fn ended(&mut self) -> Vec<String> {
        let ended = |(index, member): (usize, &mut Member)| {
            let has_ended = member.process.has_ended();
            has_ended.then(|| format!("member {index} ended by itself: {}", member.process.last_words()))
        };
        self.members.iter_mut().enumerate().filter_map(ended).collect()
    }

    /// The end of each member's log.
    fn last_words(&self) -> String {
        self.members.iter().map(|member| member.process.last_words()).collect::<Vec<_>>().join("\n")
    }

    /// Keeps the folder with logs and data when the cluster goes; says where it is.
    pub fn keep_folder(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    /// Everything that the member in this place has said.
    pub fn log(&self, index: usize) -> String {
        let name = name(index, self.members[index].generation);
        fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn peer_url(&self, place: &MasterPlace) -> String {
        let secure = ["--peer-auto-tls", "--peer-cert-file"];
        let secure = self.flags.iter().any(|flag| secure.iter().any(|one| flag.starts_with(one)));
        format!("http{}://{}:{}", if secure { "s" } else { "" }, place.address, place.peer_port)
    }

    fn peer(&self, index: usize, generation: u32, place: &MasterPlace) -> String {
        format!("{}={}", name(index, generation), self.peer_url(place))
    }

    fn process(
        &self,
        index: usize,
        generation: u32,
        place: &MasterPlace,
        named: &[String],
        state: &str,
    ) -> Process {
        let (name, dir) = (name(index, generation), self.folder.path());
        let client = format!("http://{}:{}", place.address, place.client_port);
        let peer = self.peer_url(place);
        // `env` becomes the program, so that the process is the program's.
        let failpoints = format!("GOFAIL_HTTP={}:{}", place.address, place.api_port);
        let program = self.binary.display().to_string();
        let mut argv = vec!["env".to_owned(), failpoints, program, "etcd".to_owned()];
        argv.extend([
            format!("--name={name}"),
            format!("--data-dir={}", dir.join(&name).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", named.join(",")),
            format!("--initial-cluster-state={state}"),
        ]);
        argv.extend(self.flags.iter().map(|flag| flag.replace("{name}", &name)));
        let log = dir.join(format!("{name}.log"));
        Process::new(name, argv, place.namespace.clone(), log)
    }
}

impl Drop for Members<'_> {
    fn drop(&mut self) {
        for index in 0..self.size() {
            if self.members[index].cut {
                // The namespace is used by the next cluster.
                drop(self.network.heal(index));
            }
        }
    }
}

fn name(index: usize, generation: u32) -> String {
    format!("m{index}g{generation}")
}
