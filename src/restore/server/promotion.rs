//! Makes a target our replica, feeds it, and promotes it when a proof shows that it holds what it was given.

use crate::link::Stream;
use crate::link::control::{Control, ControlError};
use crate::link::replication_info::{Facts, Role};
use crate::recovery::expected_keys::Count;
use crate::recovery::plan::Plan;
use crate::restore::error::RestoreError;
use crate::restore::master::CaughtUp;
use crate::restore::master::error::ServeError;
use crate::restore::proof::{Before, Differs, Proof, Slack, Unproved, prove};
use crate::restore::server::Target;
use crate::restore::server::feeding::{Feed, Watch};
use crate::restore::serving::Way;

impl Target<'_> {
    /// Makes it our replica, feeds it, and opens it if it holds what it was given.
    pub(crate) async fn feed(
        &mut self,
        feed: Feed<'_>,
        plan: &Plan,
        host: &str,
        port: u16,
        count: &mut Count,
    ) -> Result<(Proof, Option<Way>), RestoreError> {
        let before = Before::of(&self.control.facts().await?);
        self.follow(host, port).await?;
        let watch = Watch {
            source: self.source,
            before: &before,
            port,
        };
        let fed = feed.run(&watch, count).await;
        let (mut waiting, way) = fed.map_err(|error| self.feeding(error))?;
        // The first connection may have been closed as idle in the meantime.
        let failed = self.left_following("checking the restored data");
        self.control = Control::connect(self.source).await.map_err(&failed)?;
        let proved = prove(
            &mut self.control,
            &before,
            &mut waiting,
            count,
            port,
            Slack::None,
        );
        let proof = proved.await.map_err(|unproved| match unproved {
            Unproved::Control(error) => failed(error),
            Unproved::Serve(error) => self.feeding(error),
            Unproved::Differs(differs) if differs.is_another() => self.changed(differs),
            Unproved::Differs(differs) => RestoreError::Unproved {
                addr: self.source.addr(),
                differs,
            },
        })?;
        let lease = self.lease.take();
        if let Some((lease, _)) = &lease {
            lease.confirm().await?;
        }
        let facts = self.promote(waiting, &proof).await?;
        if let Some((lease, Some(doc))) = lease {
            lease.record(&facts, (plan.history, plan.end), doc).await?;
        }
        Ok((proof, way))
    }

    fn feeding(&self, source: ServeError) -> RestoreError {
        match source {
            ServeError::Changed(differs) => self.changed(differs),
            source => RestoreError::Feeding {
                addr: self.source.addr(),
                source: Box::new(source),
            },
        }
    }

    fn changed(&self, differs: Differs) -> RestoreError {
        RestoreError::Changed {
            addr: self.source.addr(),
            differs,
        }
    }

    /// An error reply means that nothing changed. Without any reply, it may be following us.
    async fn follow(&mut self, host: &str, port: u16) -> Result<(), RestoreError> {
        let told = replicaof(&mut self.control, host, &port.to_string()).await;
        told.map_err(|error| match error {
            ControlError::Reply { .. } => error.into(),
            ControlError::Link(_) => {
                self.left_following("making it a replica of this restore")(error)
            }
        })
    }

    fn left_following(&self, doing: &'static str) -> impl Fn(ControlError) -> RestoreError + use<> {
        let addr = self.source.addr();
        move |source| RestoreError::LeftFollowing {
            addr: addr.clone(),
            doing,
            source,
        }
    }

    /// Opens a target that holds what it was given.
    async fn promote(
        &mut self,
        mut caught_up: CaughtUp<Stream>,
        proof: &Proof,
    ) -> Result<Facts, RestoreError> {
        let failed = self.left_following("promoting it");
        {
            let mut promoted = std::pin::pin!(replicaof(&mut self.control, "NO", "ONE"));
            tokio::select! {
                done = &mut promoted => done,
                _closed = caught_up.hold() => promoted.await,
            }
        }
        .map_err(&failed)?;
        let facts = self.control.facts().await.map_err(&failed)?;
        if facts.role != Role::Master {
            let reason = "it is a replica again. Check whether Sentinel or an operator manages it";
            return Err(self.differs(reason.to_owned()));
        }
        match proof.evicted_since(&facts) {
            0 => Ok(facts),
            evicted => Err(self.differs(format!(
                "it evicted {evicted} keys since then, as its maxmemory is {} bytes. Raise maxmemory, and force \
                 the restore again",
                facts.health.memory.limit
            ))),
        }
    }
}

/// `REPLICAOF`, or `SLAVEOF` where it was renamed away.
pub(crate) async fn replicaof(
    control: &mut Control,
    host: &str,
    port: &str,
) -> Result<(), ControlError> {
    match control.call(&["REPLICAOF", host, port]).await {
        Err(error) if error.is_unknown_command() => control.call(&["SLAVEOF", host, port]).await?,
        other => other?,
    };
    Ok(())
}
