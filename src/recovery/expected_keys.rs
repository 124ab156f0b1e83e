//! How many keys there are at the end of a plan. A target must hold exactly as many.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::archive::{Archive, BaseManifest};
use crate::rebuild::{self, Counts, Limits, Stop};
use crate::recovery::content::source;
use crate::recovery::plan::Plan;
use crate::runtime;

/// What is known of the data at the end of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// All that counts.
    Known(Counts),
    /// Nothing, for this reason.
    Unknown(String),
}

/// Counts while other work runs. Without a log, the manifest has the counts. Otherwise the log is applied to the
/// snapshot.
pub struct Count {
    /// What will be counted when somebody wants to know.
    job: Option<Box<Job>>,
    task: Option<JoinHandle<Expected>>,
    expected: Expected,
}

struct Job {
    archive: Archive,
    plan: Plan,
    /// Bytes for the keys that the log touches, at most.
    memory: usize,
}

impl Count {
    /// Begins. `memory`: bytes for the keys that the log touches, at most.
    #[must_use]
    pub fn start(archive: &Archive, plan: &Plan, memory: usize) -> Self {
        let mut count = Self::when_asked(archive, plan, memory);
        count.begin();
        count
    }

    /// Begins at [`Self::begin`], or when somebody waits for the number.
    #[must_use]
    pub fn when_asked(archive: &Archive, plan: &Plan, memory: usize) -> Self {
        if plan.bytes_log() == 0 {
            return Self::done(of_base(&plan.base));
        }
        let job = Job {
            archive: archive.clone(),
            plan: plan.clone(),
            memory,
        };
        let mut count = Self::of_nothing();
        count.job = Some(Box::new(job));
        count
    }

    /// Nobody wants to know.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self::unknown("it was not counted".to_owned())
    }

    /// It cannot be known, for this reason.
    #[must_use]
    pub fn unknown(why: String) -> Self {
        Self::done(Expected::Unknown(why))
    }

    fn done(expected: Expected) -> Self {
        Self {
            job: None,
            task: None,
            expected,
        }
    }

    /// Begins, unless it has begun.
    pub fn begin(&mut self) {
        let Some(job) = self.job.take() else {
            return;
        };
        self.task = Some(runtime::spawn(async move {
            of_log(&job.archive, &job.plan, job.memory)
                .await
                .unwrap_or_else(Expected::Unknown)
        }));
    }

    /// The result, as soon as it is there.
    pub async fn wait(&mut self) -> &Expected {
        self.begin();
        if let Some(task) = &mut self.task {
            let counted = task.await;
            self.task = None;
            self.expected =
                counted.unwrap_or_else(|error| Expected::Unknown(format!("counting: {error}")));
        }
        &self.expected
    }

    /// The same, or an answer that it takes too long.
    pub async fn within(&mut self, limit: Duration) -> Expected {
        match timeout(limit, self.wait()).await {
            Ok(expected) => expected.clone(),
            Err(_) => Expected::Unknown(format!(
                "counting them takes more than {} s longer than the restore",
                limit.as_secs()
            )),
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What a snapshot holds.
pub(crate) fn of_base(base: &BaseManifest) -> Expected {
    if base.unwalked_from.is_some() {
        let reason = "the snapshot holds something that this version of backfeed does not know";
        return Expected::Unknown(reason.to_owned());
    }
    let keys = base.databases.iter().map(|(db, counts)| (*db, counts.keys));
    Expected::Known(Counts {
        keys: keys.filter(|(_, keys)| *keys > 0).collect(),
        libraries: base.functions,
        bytes: base.raw_bytes,
    })
}

async fn of_log(archive: &Archive, plan: &Plan, memory: usize) -> Result<Expected, String> {
    let limits = Limits {
        memory,
        log: u64::MAX,
    };
    let source = source(archive, plan);
    let survey = rebuild::survey(&source, limits).await;
    let survey = survey.map_err(|error| error.to_string())?;
    if let Some(why) = &survey.stop {
        return Err(match why {
            Stop::Memory => format!("{why} ({memory} bytes)"),
            why => why.to_string(),
        });
    }
    if survey.end.offset != plan.end.offset {
        return Err("the log ends within a transaction".to_owned());
    }
    let counts = rebuild::count(&source, survey, limits).await;
    counts
        .map(Expected::Known)
        .map_err(|error| error.to_string())
}
