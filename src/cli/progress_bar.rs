//! How far long work has come, on stderr: a bar at a terminal, a line every 10 s elsewhere.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::config::Size;
use crate::monitoring::logging;
use crate::recovery::{Progress, Stage};

/// The interval of lines where there is no terminal. Shorter work has no line.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// Made within the runtime.
pub(super) enum Bars {
    /// One bar a stage.
    Terminal(Mutex<ProgressBar>),
    /// For a log, or a terminal that cannot redraw.
    Lines(Arc<Mutex<Lines>>),
}

impl Bars {
    pub(super) fn new() -> Self {
        if logging::can_redraw(std::io::stderr().is_terminal()) {
            return Self::Terminal(Mutex::new(ProgressBar::hidden()));
        }
        Self::lines(|line| tracing::info!(target: logging::PROGRESS, "{line}"))
    }

    fn lines(print: impl Fn(&str) + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Lines::default()));
        tokio::spawn(print_lines(Arc::downgrade(&lines), print));
        Self::Lines(lines)
    }

    /// Leaves the terminal clean for the result.
    pub(super) fn finish(&self) {
        match self {
            Self::Terminal(bar) => locked(bar).finish_and_clear(),
            Self::Lines(lines) => locked(lines).stage = None,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress for Bars {
    fn stage(&self, stage: Stage, bytes: Option<u64>) {
        match self {
            Self::Terminal(bar) => show(&mut locked(bar), stage, bytes),
            Self::Lines(lines) => {
                *locked(lines) = Lines {
                    stage: Some((stage, Instant::now())),
                    done: 0,
                    total: bytes,
                };
            }
        }
    }

    fn advance(&self, bytes: u64) {
        match self {
            Self::Terminal(bar) => locked(bar).inc(bytes),
            Self::Lines(lines) => {
                let mut lines = locked(lines);
                lines.done = lines.done.saturating_add(bytes);
            }
        }
    }
}

fn show(bar: &mut ProgressBar, stage: Stage, bytes: Option<u64>) {
    let template = if bytes.is_some() {
        "{msg:32} {bar:30} {binary_bytes:>11}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
    } else {
        "{msg:32} {spinner} {elapsed}"
    };
    bar.finish_and_clear();
    *bar = ProgressBar::new(bytes.unwrap_or(0));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(stage.title());
    bar.enable_steady_tick(Duration::from_millis(200));
}

/// What a line says.
#[derive(Default)]
pub(super) struct Lines {
    /// The stage, and when it began. None: no work is under way.
    stage: Option<(Stage, Instant)>,
    done: u64,
    total: Option<u64>,
}

impl Lines {
    fn line(&self) -> Option<String> {
        let (stage, begun) = self.stage?;
        let (title, seconds) = (stage.title(), begun.elapsed().as_secs());
        let done = Size(self.done);
        Some(match self.total.filter(|total| *total > 0) {
            Some(total) => {
                let hundredfold = u128::from(self.done).saturating_mul(100);
                let percent = hundredfold.checked_div(u128::from(total)).unwrap_or(100);
                format!(
                    "{title}: {percent} % ({done} of {}), {seconds} s",
                    Size(total)
                )
            }
            None if self.done > 0 => format!("{title}: {done}, {seconds} s"),
            None => format!("{title}: {seconds} s"),
        })
    }
}

/// Ends with the work.
async fn print_lines(lines: Weak<Mutex<Lines>>, print: impl Fn(&str)) {
    loop {
        sleep(EVERY).await;
        let Some(lines) = lines.upgrade() else {
            return;
        };
        let line = locked(&lines).line();
        if let Some(line) = line {
            print(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn long_work_has_a_line_every_ten_seconds_until_it_is_over() {
        let printed = Arc::new(Mutex::new(Vec::new()));
        let take = || std::mem::take(&mut *locked(&printed));
        let keep = printed.clone();
        let bars = Bars::lines(move |line| locked(&keep).push(line.to_owned()));
        bars.stage(Stage::Checking, None);
        sleep(EVERY - Duration::from_millis(1)).await;
        assert_eq!(take(), Vec::<String>::new());
        sleep(Duration::from_millis(2)).await;
        assert_eq!(take(), ["checking the archive: 10 s"]);

        bars.stage(Stage::Snapshot, Some(200 << 20));
        bars.advance(70 << 20);
        sleep(EVERY).await;
        assert_eq!(take(), ["snapshot: 35 % (70.0 MiB of 200.0 MiB), 9 s"]);
        bars.stage(Stage::Log, None);
        bars.advance(1536);
        sleep(2 * EVERY).await;
        assert_eq!(take(), ["log: 1.5 KiB, 9 s", "log: 1.5 KiB, 19 s"]);
        bars.finish();
        sleep(2 * EVERY).await;
        assert_eq!(take(), Vec::<String>::new());
    }
}
