//! A restore into a running server: it becomes our replica until it has everything, and then a master again.

pub(crate) mod aof_rewrite;
pub(crate) mod capacity;
pub(crate) mod compatibility;
pub(crate) mod diskless_load;
pub(crate) mod feeding;
pub(crate) mod promotion;
pub(crate) mod replication;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use redis_protocol::resp2::types::OwnedFrame;
use tokio::net::TcpListener;

use super::server::compatibility::{Loads, Server, lacks_module_of, module_of_type};
use crate::recovery::check::Checked;
use crate::recovery::expected_keys::Count;

use super::error::{Remedy, RestoreError};
use super::lease::Lease;
use super::master::Identity;
use super::master::listener::Listener;
use super::proof::Proof;
use super::server::feeding::Feed;
use super::serving::{Serving, Way};
use crate::archive::{HistoryDoc, ServerInfo};
use crate::config::{Admission, Source, is_loopback};
use crate::link::control::{Control, ControlError};
use crate::link::replication_info::{Facts, Role};
use crate::recovery::plan::Plan;
use crate::recovery::progress::Progress;

/// Names asked about in one `COMMAND INFO`.
const NAMES_AT_ONCE: usize = 100;

/// How the target reaches us.
#[derive(Debug, Clone, Default)]
pub struct ListenOptions {
    /// Where to listen. None: on the address where the target can reach us, on a free port.
    pub listen: Option<SocketAddr>,
    /// Host and port that the target is to connect to. None: where we listen. For NAT and containers.
    pub announce: Option<(String, u16)>,
    /// How the target must speak, and prove that it may have the data. Unguarded, only a target on this host is served.
    pub admission: Admission,
}

/// What the target says it holds after the restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The target, with its version.
    pub server: String,
    /// Keys in each database.
    pub keys: BTreeMap<u32, u64>,
    /// Which way its log took.
    pub way: Option<Way>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// A target that may be restored, and what is known of it.
pub(super) struct Target<'a> {
    pub(super) source: &'a Source,
    pub(super) control: Control,
    facts: Facts,
    notes: Vec<String>,
    /// Where it will come to.
    socket: Option<(TcpListener, SocketAddr)>,
    /// For a server that continues under the id that it is given: the right to do so, and the history.
    pub(super) lease: Option<(Lease, Option<HistoryDoc>)>,
}

impl<'a> Target<'a> {
    /// Connects, and refuses what would go wrong, before anything is touched. `writers`: who wrote the log.
    pub(super) async fn check(
        source: &'a Source,
        plan: &Plan,
        writers: &[ServerInfo],
        listen: &ListenOptions,
        force: bool,
    ) -> Result<Self, RestoreError> {
        let mut control = Control::connect(source).await?;
        let facts = control.facts().await?;
        let mut target = Self {
            source,
            control,
            facts,
            notes: Vec::new(),
            socket: None,
            lease: None,
        };
        target.check_mode()?;
        target.check_disk().await?;
        target.check_rdb(plan, force)?;
        target.check_age(plan, writers, force)?;
        if !force {
            target.check_nothing_to_lose()?;
            target.check_sentinel().await?;
        }
        target.check_replication(listen).await?;
        target.bind_address(listen)?;
        Ok(target)
    }

    pub(super) fn refused(&self, reason: impl Into<String>) -> RestoreError {
        RestoreError::Refused {
            addr: self.source.addr(),
            reason: reason.into(),
            remedy: None,
        }
    }

    fn refused_unless_forced(&self, reason: impl Into<String>) -> RestoreError {
        RestoreError::Refused {
            addr: self.source.addr(),
            reason: reason.into(),
            remedy: Some(Remedy::Force),
        }
    }

    fn check_mode(&self) -> Result<(), RestoreError> {
        if self.facts.cluster {
            return Err(self.refused(
                "is in cluster mode, where no server takes REPLICAOF: restore to aof:DIRECTORY and start a server on it, or \
                 restore to a server that is not in cluster mode",
            ));
        }
        if self.facts.loading {
            return Err(self.refused("is still loading its own data. Wait until it is ready"));
        }
        Ok(())
    }

    fn check_rdb(&self, plan: &Plan, force: bool) -> Result<(), RestoreError> {
        let magic = &plan.base.rdb_magic;
        let writer = Server::named(&plan.base.server.flavour, &plan.base.server.version);
        let Some(server) = self.server() else {
            return if force {
                Ok(())
            } else {
                Err(self.refused("does not say in INFO which version it is"))
            };
        };
        match server.loads(magic, writer) {
            Loads::Yes => Ok(()),
            Loads::Unknown if force => Ok(()),
            Loads::Unknown => Err(self.refused_unless_forced(format!(
                "is {server}. It is not known whether that loads a snapshot of format {magic}. To try, force the \
                 restore"
            ))),
            Loads::No => Err(self.refused(format!(
                "is {server}, which does not load a snapshot of format {magic}{}: restore to a server of the version that \
                 was backed up, or newer",
                writer.map(|writer| format!(" (written by {writer})")).unwrap_or_default()
            ))),
        }
    }

    /// Options of the log's commands may be unknown to an older server. As a replica, it would skip such a command
    /// without an error.
    fn check_age(
        &mut self,
        plan: &Plan,
        writers: &[ServerInfo],
        force: bool,
    ) -> Result<(), RestoreError> {
        let Some(server) = self.server().filter(|_| !plan.pieces.is_empty()) else {
            return Ok(());
        };
        let named = |writer: &ServerInfo| Server::named(&writer.flavour, &writer.version);
        let newer = writers.iter().filter_map(named);
        let newer = newer.filter(|writer| server.is_behind(*writer));
        if let Some(newest) = newer.max_by_key(|writer| writer.version) {
            let reason = format!(
                "is {server}, and the log was written by {newest}, whose commands may have options that are unknown \
                 there and would be skipped without an error"
            );
            if !force {
                let base = plan.base.offset;
                return Err(self.refused_unless_forced(format!(
                    "{reason}. Restore to a server of the version that was backed up, or newer. Or restore only the \
                     snapshot, at offset {base}. Or force the restore, to try"
                )));
            }
            self.notes.push(format!("the server {reason}"));
        }
        if writers.iter().any(|writer| named(writer).is_none()) {
            self.notes.push(
                "it is not known which version wrote the log, so it could not be checked whether the server is older"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn check_nothing_to_lose(&self) -> Result<(), RestoreError> {
        if let Role::Replica { host, port, .. } = &self.facts.role {
            return Err(self.refused_unless_forced(format!(
                "is a replica of {host}:{port}. Run there first: redis-cli REPLICAOF NO ONE. Or force the restore"
            )));
        }
        let keys = self.facts.total_keys();
        if keys > 0 {
            return Err(self.refused_unless_forced(format!(
                "holds {keys} keys, which a restore would replace. Restore to an empty server, or force the restore"
            )));
        }
        let libraries = self.facts.health.libraries.unwrap_or(0);
        if libraries > 0 {
            return Err(self.refused_unless_forced(format!(
                "holds {libraries} function libraries, which a restore would replace. Restore to an empty server, or \
                 force the restore"
            )));
        }
        Ok(())
    }

    /// Sentinels name their connections `sentinel-<id>-cmd`. They would turn the target back in the middle of the
    /// restore.
    async fn check_sentinel(&mut self) -> Result<(), RestoreError> {
        match self.control.text(&["CLIENT", "LIST"]).await {
            Ok(clients) if clients.contains(" name=sentinel-") => Err(self.refused_unless_forced(
                "is watched by Sentinel, which would make it follow another master again. Run `SENTINEL REMOVE` first, \
                 or force the restore",
            )),
            Ok(_) => Ok(()),
            Err(error) => self.tolerate(error, "whether Sentinel watches it"),
        }
    }

    /// Where to listen. Whoever connects gets all data, so beyond this host there must be a password.
    fn bind_address(&self, listen: &ListenOptions) -> Result<SocketAddr, RestoreError> {
        let peer = self.control.peer_ip().map(|ip| ip.to_canonical());
        let addr = match (listen.listen, peer) {
            (Some(addr), _) => addr,
            (None, Some(IpAddr::V4(ip))) if ip.is_loopback() => (Ipv4Addr::LOCALHOST, 0).into(),
            (None, Some(IpAddr::V6(ip))) if ip.is_loopback() => (Ipv6Addr::LOCALHOST, 0).into(),
            (None, _) => match self.control.local_ip() {
                Some(ip) => (ip, 0).into(),
                None => return Err(self.refused("closed the connection")),
            },
        };
        if !listen.admission.is_guarded() && !is_loopback(addr) {
            return Err(self.refused(format!(
                "is on another host, so it would fetch the data from {addr}, where anybody could do so. Set a password \
                 with `listen_password_file`, and there: redis-cli CONFIG SET masterauth. Or require its certificate \
                 (`listen_tls_client_ca`)"
            )));
        }
        Ok(addr)
    }

    /// Checks what shows only when everything has been read: databases, modules, functions, commands.
    pub(super) async fn check_content(
        &mut self,
        checked: &Checked,
        count: &mut Count,
    ) -> Result<(), RestoreError> {
        let databases = self.setting("databases").await?.value();
        if let Some(have) = databases.and_then(|text| text.parse::<u32>().ok())
            && have < checked.databases
        {
            return Err(self.refused(format!(
                "has {have} databases, and the backup uses database {}: raise `databases` in its configuration",
                checked.databases.saturating_sub(1)
            )));
        }
        let old = self.server().is_some_and(|server| !server.has_redis(7, 0));
        if checked.summary.functions > 0 && old {
            return Err(self.refused(format!(
                "knows no functions, and the backup holds {}: restore to Redis 7.0 or later",
                checked.summary.functions
            )));
        }
        self.check_modules(checked).await?;
        self.check_commands(checked).await?;
        self.check_value_length(checked).await?;
        self.check_memory(count).await
    }

    async fn check_modules(&mut self, checked: &Checked) -> Result<(), RestoreError> {
        if checked.summary.modules.is_empty() {
            return Ok(());
        }
        let loaded = match self.control.call(&["MODULE", "LIST"]).await {
            Ok(reply) => module_names(&reply),
            Err(error) => return self.tolerate(error, "which modules it has"),
        };
        for type_name in &checked.summary.modules {
            let module = module_of_type(type_name);
            let is_there = match module {
                Some(module) => loaded.iter().any(|name| name.eq_ignore_ascii_case(module)),
                None => !loaded.is_empty(),
            };
            if !is_there {
                return Err(self.refused(lacks_module_of(type_name)));
            }
            if module.is_none() {
                self.notes.push(format!(
                    "it is not known which module the values of type {type_name} need"
                ));
            }
        }
        Ok(())
    }

    /// A command that the target does not know would be skipped there, and the data would differ in silence.
    async fn check_commands(&mut self, checked: &Checked) -> Result<(), RestoreError> {
        let names: Vec<&str> = checked.commands.iter().map(String::as_str).collect();
        let mut unknown = Vec::new();
        for names in names.chunks(NAMES_AT_ONCE) {
            let mut call = vec!["COMMAND", "INFO"];
            call.extend_from_slice(names);
            let known = match self.control.call(&call).await {
                Ok(OwnedFrame::Array(known)) => known,
                Ok(_) => continue,
                Err(error) => {
                    return self.tolerate(error, "whether it knows all commands of the log");
                }
            };
            let missing = names.iter().zip(&known).filter(|(_, known)| match known {
                OwnedFrame::Array(fields) => fields.is_empty(),
                _ => true,
            });
            unknown.extend(missing.map(|(name, _)| *name));
        }
        if unknown.is_empty() {
            return Ok(());
        }
        Err(self.refused(format!(
            "does not know these commands of the log: {}. Restore to a server of the version that was backed up, or newer",
            unknown.join(", ")
        )))
    }

    pub(super) async fn call(&mut self, args: &[&str]) -> Result<OwnedFrame, ControlError> {
        self.control.call(args).await
    }

    /// A check that the server does not permit is skipped, and a note says so.
    pub(super) fn tolerate(&mut self, error: ControlError, what: &str) -> Result<(), RestoreError> {
        match error {
            ControlError::Reply { .. } => {
                self.notes
                    .push(format!("{what} could not be checked: {error}"));
                Ok(())
            }
            ControlError::Link(_) => Err(error.into()),
        }
    }

    pub(super) fn differs(&self, reason: String) -> RestoreError {
        RestoreError::Differs {
            addr: self.source.addr(),
            reason,
        }
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What it says now.
    pub(super) async fn ask(&mut self) -> Result<Facts, ControlError> {
        self.control.facts().await
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn server(&self) -> Option<Server> {
        Server::named(&self.facts.flavour, &self.facts.version)
    }

    /// Checks all of it again, on a new connection. (The first one may have been closed as idle while everything was
    /// read, and the server may have got data or a master since.)
    pub(super) async fn check_again(
        &mut self,
        plan: &Plan,
        writers: &[ServerInfo],
        listen: &ListenOptions,
        force: bool,
    ) -> Result<(), RestoreError> {
        let mut anew = Self::check(self.source, plan, writers, listen, force).await?;
        anew.socket = self.socket.take();
        anew.lease = self.lease.take();
        *self = anew;
        Ok(())
    }

    /// Which run of it this is.
    pub(super) fn run_id(&self) -> Option<String> {
        self.facts.health.run_id.clone()
    }

    /// It is promoted only if the history is still ours to continue. Then it is recorded as the one that continues it.
    pub(super) fn hold(&mut self, lease: Lease, doc: Option<HistoryDoc>) {
        self.lease = Some((lease, doc));
    }

    /// Opens the port that the target will come to.
    pub(super) async fn listen(&mut self, listen: &ListenOptions) -> Result<(), RestoreError> {
        self.socket = Some(self.bind(listen).await?);
        Ok(())
    }

    async fn bind(
        &self,
        listen: &ListenOptions,
    ) -> Result<(TcpListener, SocketAddr), RestoreError> {
        let wanted = self.bind_address(listen)?;
        let fail = |source| RestoreError::Listen {
            addr: wanted.to_string(),
            source,
        };
        let socket = TcpListener::bind(wanted).await.map_err(fail)?;
        let bound = socket.local_addr().map_err(fail)?;
        Ok((socket, bound))
    }

    /// Feeds the target and opens it. Right before, it must have been [checked again](Self::check_again).
    pub(super) async fn restore(
        mut self,
        plan: &Plan,
        serving: Serving,
        mut count: Count,
        identity: Identity,
        listen: &ListenOptions,
        progress: &dyn Progress,
    ) -> Result<Restored, RestoreError> {
        let (socket, bound) = match self.socket.take() {
            Some(open) => open,
            None => self.bind(listen).await?,
        };
        let listener = Listener::new(socket, listen.admission.clone(), "the restore is starting");
        let mut listener = listener.map_err(|source| RestoreError::Listen {
            addr: bound.to_string(),
            source,
        })?;
        // A target that finds it closed comes again a second later.
        listener.open();
        let (host, port) = self.announced(listen, bound);
        let feed = Feed {
            listener,
            announced: format!("{host}:{port}"),
            plan,
            serving,
            identity,
            progress,
        };
        let server = self.server();
        let is_changed = diskless_load::set(&mut self.control, server, self.source).await?;
        let fed = self.feed(feed, plan, &host, port, &mut count).await;
        if is_changed && let Some(note) = diskless_load::put_back(self.source).await {
            tracing::warn!("{note}");
            self.notes.push(note);
        }
        let (proof, way) = fed?;
        self.wait_for_file(progress).await?;
        Ok(self.restored(&proof, way))
    }

    fn announced(&self, listen: &ListenOptions, bound: SocketAddr) -> (String, u16) {
        if let Some((host, port)) = &listen.announce {
            let port = if *port == 0 { bound.port() } else { *port };
            return (host.clone(), port);
        }
        let ip = if bound.ip().is_unspecified() {
            self.control
                .local_ip()
                .map_or(bound.ip(), |ip| ip.to_canonical())
        } else {
            bound.ip()
        };
        (ip.to_string(), bound.port())
    }

    fn restored(self, proof: &Proof, way: Option<Way>) -> Restored {
        let server = self
            .server()
            .map_or_else(|| self.source.addr(), |server| server.to_string());
        let mut notes = self.notes;
        notes.extend(proof.notes().iter().cloned());
        Restored {
            server,
            keys: proof.keys().clone(),
            way,
            notes,
        }
    }

    /// Results that the checks could not find out.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }
}

pub(super) fn frame_text(frame: &OwnedFrame) -> Option<String> {
    match frame {
        OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        _ => None,
    }
}

/// `MODULE LIST`: a list of `name <name> ver <version> …`.
fn module_names(reply: &OwnedFrame) -> Vec<String> {
    let OwnedFrame::Array(modules) = reply else {
        return Vec::new();
    };
    let name = |module: &OwnedFrame| {
        let OwnedFrame::Array(fields) = module else {
            return None;
        };
        let (pairs, _) = fields.as_chunks::<2>();
        let is_name = |key: &OwnedFrame| frame_text(key).is_some_and(|key| key == "name");
        pairs
            .iter()
            .find(|[key, _]| is_name(key))
            .and_then(|[_, value]| frame_text(value))
    };
    modules.iter().filter_map(name).collect()
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
