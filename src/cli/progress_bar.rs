//! A progress bar for a restore, at a terminal alone.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::recovery::{Progress, Stage};

/// One bar a stage. Hidden when stderr is no terminal.
pub(super) struct Bars(Mutex<ProgressBar>);

impl Bars {
    pub(super) fn new() -> Self {
        Self(Mutex::new(ProgressBar::hidden()))
    }

    /// Leaves the terminal clean for the result.
    pub(super) fn finish(&self) {
        self.with(|bar| bar.finish_and_clear());
    }

    fn with<R>(&self, act: impl FnOnce(&mut ProgressBar) -> R) -> R {
        act(&mut self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn stage(&self, stage: Stage, bytes: Option<u64>) {
        let title = match stage {
            Stage::Checking => "checking the archive",
            Stage::Preparing => "preparing",
            Stage::Snapshot => "snapshot",
            Stage::Log => "log",
            Stage::Applying => "the target loads and applies it",
            Stage::Rewriting => "the target writes its AOF",
        };
        let template = if bytes.is_some() {
            "{msg:32} {bar:30} {bytes:>11}/{total_bytes} {bytes_per_sec} {eta}"
        } else {
            "{msg:32} {spinner} {elapsed}"
        };
        self.with(|bar| {
            bar.finish_and_clear();
            *bar = ProgressBar::new(bytes.unwrap_or(0));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(title);
            bar.enable_steady_tick(Duration::from_millis(200));
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|bar| bar.inc(bytes));
    }
}
