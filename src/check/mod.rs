//! `check`: tries what a service needs, and begins nothing.
//!
//! Each thing is tried for real where that does no harm: a connection is made, an object is created and deleted, a port is
//! listened on. What cannot be tried is read from what the server says of itself, and a finding says so.

mod host;
mod permissions;
mod server;
mod store;

use std::fmt;

use serde::Serialize;

use crate::config::{HttpAddr, Listen, Source, StoreConfig, Upstream};
use crate::link::sentinel::Finder;

/// What a service is going to use.
#[derive(Debug)]
pub struct Wanted {
    /// The server, or who knows it.
    pub redis: Upstream,
    /// Where its archive is.
    pub store: StoreConfig,
    /// Which sidecar it is. None: a `backup`.
    pub sidecar: Option<SidecarWants>,
    /// It deletes what a policy does not keep, or merged segments.
    pub deletes: bool,
    /// Where health and metrics are served.
    pub http: Option<HttpAddr>,
    /// How its memory is divided, or why it does not suffice.
    pub memory: Result<String, String>,
    /// Why it has too few file descriptors. None: it has enough.
    pub files: Option<String>,
    /// The time, Unix milliseconds.
    pub now_unix_ms: fn() -> i64,
}

/// What only a sidecar needs.
#[derive(Debug)]
pub struct SidecarWants {
    /// Its name, which the store knows.
    pub name: String,
    /// Where Redis finds it as its master.
    pub listen: Listen,
}

/// What came of trying something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It could not be tried.
    Unknown,
    /// It works, and something should be changed.
    Warning,
    /// The service would not do its work.
    Failed,
}

/// What something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The server that is captured.
    Redis,
    /// The store.
    Store,
    /// This machine.
    Host,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to.
    pub area: Area,
    /// A few words.
    pub what: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What was seen.
    pub reason: String,
    /// What to change. None: nothing.
    pub change: Option<String>,
}

/// All that was tried.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The worst of the findings.
    pub verdict: Option<Verdict>,
    /// In the order in which they were tried.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The first thing that failed.
    #[must_use]
    pub fn failed(&self) -> Option<&Finding> {
        let mut findings = self.findings.iter();
        findings.find(|finding| finding.verdict == Verdict::Failed)
    }

    fn add(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
        self.verdict = self.findings.iter().map(|finding| finding.verdict).max();
    }
}

/// Findings of one area.
#[derive(Debug)]
struct Findings {
    area: Area,
    found: Vec<Finding>,
}

impl Findings {
    fn of(area: Area) -> Self {
        Self {
            area,
            found: Vec::new(),
        }
    }

    fn add(&mut self, verdict: Verdict, what: &str, reason: impl fmt::Display) -> &mut Finding {
        let index = self.found.len();
        self.found.push(Finding {
            area: self.area,
            what: what.to_owned(),
            verdict,
            reason: reason.to_string(),
            change: None,
        });
        // It was just added.
        #[expect(clippy::indexing_slicing)]
        &mut self.found[index]
    }

    fn ok(&mut self, what: &str, reason: impl fmt::Display) {
        self.add(Verdict::Ok, what, reason);
    }

    fn unknown(&mut self, what: &str, reason: impl fmt::Display) {
        self.add(Verdict::Unknown, what, reason);
    }

    fn warning(&mut self, what: &str, reason: impl fmt::Display, change: impl fmt::Display) {
        self.add(Verdict::Warning, what, reason).change = Some(change.to_string());
    }

    /// Errors say what to try themselves.
    fn failed(&mut self, what: &str, reason: impl fmt::Display) {
        self.add(Verdict::Failed, what, reason);
    }

    fn failed_with(&mut self, what: &str, reason: impl fmt::Display, change: impl fmt::Display) {
        self.add(Verdict::Failed, what, reason).change = Some(change.to_string());
    }
}

/// Tries everything. What fails is a finding, not an error.
pub async fn check(wanted: &Wanted) -> Report {
    let mut report = Report::default();
    let mut redis = Findings::of(Area::Redis);
    if let Some(source) = source(&wanted.redis, &mut redis).await {
        server::check(&source, wanted, &mut redis).await;
    }
    report.add(redis.found);
    let mut of_store = Findings::of(Area::Store);
    store::check(wanted, &mut of_store).await;
    report.add(of_store.found);
    let mut of_host = Findings::of(Area::Host);
    host::check(wanted, &mut of_host).await;
    report.add(of_host.found);
    report
}

/// The server that is captured.
async fn source(redis: &Upstream, findings: &mut Findings) -> Option<Source> {
    match redis {
        Upstream::Server(source) => Some(source.clone()),
        Upstream::Sentinels(sentinels) => {
            let found = Finder::new(sentinels.clone()).master().await;
            match found {
                Ok(source) => {
                    findings.ok("Sentinels", format!("the master is {}", source.addr()));
                    Some(source)
                }
                Err(error) => {
                    findings.failed("Sentinels", error);
                    None
                }
            }
        }
        Upstream::Shard(shard) => shard.server.borrow().clone(),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        })
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Redis => "redis",
            Self::Store => "store",
            Self::Host => "host",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_bad_as_its_worst_finding() {
        let mut report = Report::default();
        let mut findings = Findings::of(Area::Store);
        findings.ok("one", "fine");
        findings.unknown("two", "not tried");
        report.add(findings.found);
        assert_eq!(report.verdict, Some(Verdict::Unknown));
        assert!(report.failed().is_none());
        let mut findings = Findings::of(Area::Host);
        findings.failed_with("three", "no", "yes");
        findings.warning("four", "hm", "better");
        report.add(findings.found);
        assert_eq!(report.verdict, Some(Verdict::Failed));
        let failed = report.failed().map(|finding| finding.what.as_str());
        assert_eq!(failed, Some("three"));
    }
}
