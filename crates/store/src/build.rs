//! From a configuration to a store that can run: who this member is, and what its folder holds.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use env::{Env, Shutdown, TaskGroup};
use mvcc::MemberAttributes;
use tokio::sync::{mpsc, watch};
use transport::Dialer;

use crate::barrier::{self};
use crate::config::{Identity, StoreConfig};
use crate::confirm::Witnesses;
use crate::consensus::{self, Raft};
use crate::contacts::Contacts;
use crate::disk::Disk;
use crate::doors::{self, Doors};
use crate::error::BuildError;
use crate::forced;
use crate::handle::Store;
use crate::inner::Inner;
use crate::integrity::repair::{self, Repair};
use crate::integrity::{self, checks};
use crate::join;
use crate::leadership::Leadership;
use crate::log::{Log, Owner};
use crate::peers::Peers;
use crate::proposals::{self};
use crate::pulse::Pulse;
use crate::renewals::{self};
use crate::run::StoreServer;
use crate::sessions::Outstanding;
use crate::state::{Pace, StateMachine};
use crate::storage::{LogBatch, LogEngine, LogMeta, Storage};

/// What a member has opened and knows before its parts are put together.
struct Opened {
    env: Env,
    storage: Arc<dyn Storage>,
    engine: Arc<dyn LogEngine>,
    identity: Identity,
    doors: Doors,
    peers: Peers,
    state: StateMachine,
    /// Whether the state was just replaced by another member's.
    repaired: bool,
}

impl StoreConfig {
    /// Opens the data folder and binds the address for peers. Nothing runs before [`StoreServer::run`].
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn build(
        self,
        env: Env,
        storage: Arc<dyn Storage>,
    ) -> Result<(Store, StoreServer), BuildError> {
        let engine = self.open_log(&*storage)?;
        let dialer = doors::dialer(&self);
        let identity = self.who(&*engine, &dialer, &env.clock).await?;
        check_identity(&*engine, &identity)?;
        if engine.meta(LogMeta::Removed).map_err(BuildError::Storage)?.is_some() {
            return Err(BuildError::Removed);
        }
        let doors = Doors::open(&self).await?;
        if self.force_new_cluster {
            forced::alone(&*engine, identity.me, self.own_urls()).map_err(BuildError::Storage)?;
        }
        let peers = Peers::new(identity.cluster.0, dialer, env.clock.clone());
        let (state, repaired) = self.open_state(&*engine, &storage, &env, &identity, &peers).await?;
        self.assemble(Opened { env, storage, engine, identity, doors, peers, state, repaired }).await
    }

    fn open_log(&self, storage: &dyn Storage) -> Result<Arc<dyn LogEngine>, BuildError> {
        let engine = storage.open_log().map_err(BuildError::Storage)?;
        Ok(if self.durable { engine } else { Arc::new(forced::Unsynced(engine)) })
    }

    /// The store of what is open.
    async fn assemble(self, opened: Opened) -> Result<(Store, StoreServer), BuildError> {
        let Opened { env, storage, engine, identity, doors, peers, state, repaired } = opened;
        let (shared, core) = (state.shared(), state.core());
        let disk = Arc::new(Disk::new(env.clock.clone()));
        let owner = Owner { me: identity.me, shared: shared.clone() };
        let log = Log::open(engine.clone(), env.clock.clone(), disk.clone(), owner);
        let log = log.map_err(BuildError::Storage)?;
        let raft = Raft::build(identity.me, self.raft_config()?, peers.clone(), log, state)
            .await
            .map_err(|error| BuildError::Consensus(error.to_string()))?;
        let (barrier, waiters) = mpsc::channel(barrier::QUEUE);
        let (renewals, to_renew) = mpsc::channel(renewals::QUEUE);
        let (proposals, submitted) = mpsc::channel(proposals::QUEUE);
        let shutdown = Shutdown::new();
        let (leadership, leadership_seen) = watch::channel(Leadership::default());
        let inner = Arc::new(Inner {
            heard: AtomicU64::new(0),
            me: identity.me,
            cluster: identity.cluster,
            raft,
            shared,
            core,
            peers,
            storage,
            env,
            timing: self.timing,
            tasks: TaskGroup::new("store", shutdown.clone()),
            shutdown,
            contacts: Contacts::new(self.health_interval),
            pulse: Pulse::new(identity.me, &self.timing, disk.clone()),
            disk,
            strict_reconfig_check: self.strict_reconfig_check,
            max_request_bytes: self.max_request_bytes,
            lease_checkpoints: self.lease_checkpoints,
            barrier,
            renewals,
            proposals,
            witnesses: Witnesses::default(),
            leadership: leadership_seen,
        });
        let server = StoreServer {
            inner: inner.clone(),
            engine,
            doors,
            attributes: MemberAttributes {
                id: identity.me,
                name: self.name,
                client_urls: self.advertise_client_urls,
            },
            version: self.version,
            barrier: waiters,
            renewals: to_renew,
            proposals: submitted,
            leadership,
            first_members: identity.nodes(),
            repaired,
            checks: self.checks,
        };
        Ok((Store::of(inner), server))
    }

    /// Opens the state; one that is wrong is replaced by another member's first. Whether it was.
    async fn open_state(
        &self,
        engine: &dyn LogEngine,
        storage: &Arc<dyn Storage>,
        env: &Env,
        identity: &Identity,
        peers: &Peers,
    ) -> Result<(StateMachine, bool), BuildError> {
        let noted = repair::noted(engine).map_err(BuildError::Storage)?;
        let first_boot = engine.meta(LogMeta::Boot).map_err(BuildError::Storage)?.is_none();
        let boot = count_boot(engine).map_err(BuildError::Storage)?;
        let pace = || Pace::new(self.compaction, self.warn_apply);
        let outstanding = || Outstanding::new(identity.me, boot);
        let open = || open_state(storage, (env, pace(), self.cache_bytes), outstanding(), first_boot);
        let opened = match &noted {
            Some(repair) => Err(io::Error::other(repair.why.clone())),
            None => open(),
        };
        let mut contradicted = false;
        let error = match opened {
            Ok(state) if self.checks.initial && !first_boot => {
                match self.first_check(&state, identity.me, peers).await? {
                    None => return Ok((state, false)),
                    Some(why) => {
                        contradicted = true;
                        io::Error::other(why)
                    }
                }
            }
            Ok(state) => return Ok((state, false)),
            Err(error) => error,
        };
        let mut others = BTreeMap::new();
        if contradicted || noted.is_some() || integrity::is_damage(&error) && !first_boot {
            others = repair::others(engine, noted.as_ref(), identity).map_err(BuildError::Storage)?;
            if others.is_empty() {
                others = join::others(self, identity.me, peers, &env.clock).await;
            }
        }
        if others.is_empty() {
            return Err(BuildError::Storage(error));
        }
        let repair = Repair { engine, storage, peers, clock: &env.clock, others };
        repair.run(&error.to_string()).await?;
        Ok((open().map_err(BuildError::Storage)?, true))
    }

    /// Compares the state with the others' before anything is served; why it is to be replaced, if it is.
    async fn first_check(
        &self,
        state: &StateMachine,
        me: u64,
        peers: &Peers,
    ) -> Result<Option<String>, BuildError> {
        let checked = checks::first(me, peers, &state.shared(), self.timing.request_timeout()).await;
        let error = match checked {
            Ok(checks::First::Passed) => return Ok(None),
            Ok(checks::First::Contradicted(why)) => return Ok(Some(why)),
            Ok(checks::First::Inconsistent) => checks::inconsistent(me),
            Err(error) => format!("{me:x} failed to fetch hash ({error})"),
        };
        tracing::error!(error, "checkInitialHashKV failed");
        Err(BuildError::Inconsistent(error))
    }
}

impl StoreConfig {
    /// Who this member is: by its folder where that is to be trusted, or by the rest of the configuration.
    async fn who(
        &self,
        engine: &dyn LogEngine,
        dialer: &Dialer,
        clock: &env::Clock,
    ) -> Result<Identity, BuildError> {
        let trusted = self.trust_folder || self.join || join::is_seeded(engine)?;
        let known = if trusted { join::known(engine)? } else { None };
        match known {
            Some(known) if self.join => Ok(known),
            // A member that never got to write the first membership still needs it.
            Some(known) => Ok(self.identity().ok().filter(|same| same.is(&known)).unwrap_or(known)),
            None if self.join => join::identity(self, dialer.clone(), clock).await,
            None => {
                let identity = self.identity()?;
                if self.trust_folder {
                    join::refuse_second_start(self, &identity, dialer.clone(), clock).await?;
                }
                Ok(identity)
            }
        }
    }
}

/// A data folder is one member's for ever: taken by another it could vote twice.
fn check_identity(engine: &dyn LogEngine, identity: &Identity) -> Result<(), BuildError> {
    let expected = join::spell(identity.me, identity.cluster);
    match engine.meta(LogMeta::Identity).map_err(BuildError::Storage)? {
        Some(found)
            if join::read(&String::from_utf8_lossy(&found)) != Some((identity.me, identity.cluster)) =>
        {
            Err(BuildError::Identity { found: String::from_utf8_lossy(&found).into_owned(), expected })
        }
        Some(_) => Ok(()),
        None => {
            let meta = vec![(LogMeta::Identity, Bytes::from(expected))];
            let batch = LogBatch { meta, ..LogBatch::default() };
            engine.write(batch).and_then(|()| engine.sync()).map_err(BuildError::Storage)
        }
    }
}

/// A removed member never comes back on its folder: what it knows may have been undone by those who stayed.
pub(crate) fn note_removal(engine: &dyn LogEngine) -> io::Result<()> {
    let meta = vec![(LogMeta::Removed, Bytes::from_static(b"removed"))];
    engine.write(LogBatch { meta, ..LogBatch::default() })?;
    engine.sync()
}

/// Opens the state. A folder that has a state and was never booted has lost its log, and its votes with it: it could vote
/// twice.
fn open_state(
    storage: &Arc<dyn Storage>,
    (env, pace, cache_bytes): (&Env, Pace, u64),
    outstanding: Outstanding,
    first_boot: bool,
) -> io::Result<StateMachine> {
    let state = StateMachine::open(storage.clone(), env.clone(), outstanding, (pace, cache_bytes))?;
    if first_boot && *state.shared().applied.borrow() > 0 {
        return Err(consensus::damaged("the data folder", "it holds a state and no log"));
    }
    Ok(state)
}

/// How often this folder was opened, this time included: what tells this process' proposals from those before.
fn count_boot(engine: &dyn LogEngine) -> io::Result<u64> {
    let last = match engine.meta(LogMeta::Boot)? {
        Some(bytes) => {
            let bytes =
                bytes[..].try_into().map_err(|_| consensus::damaged("the boot count", "its length"))?;
            u64::from_be_bytes(bytes)
        }
        None => 0,
    };
    let boot = Bytes::copy_from_slice(&(last + 1).to_be_bytes());
    engine.write(LogBatch { meta: vec![(LogMeta::Boot, boot)], ..LogBatch::default() })?;
    engine.sync()?;
    Ok(last + 1)
}
