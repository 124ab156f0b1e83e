//! Processes that sleep for hours at any moment (`SIGSTOP`), while the log goes on without them, and while expiry
//! deletes what it began with. When they go on, they are to acknowledge nothing that nobody restores.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::director::{Director, Troubles};
use super::expiry::{begin_random_expiry, end_expiry, hold_something};
use super::{failure, failures, note, restoring, with};
use crate::runtime::simulated::{Process, below, between, once_in, pick};

/// How long a night is, in minutes: shorter and longer than the grace.
const NIGHT: &[u64] = &[10, 100, 130, 400, 1500, 1500, 1500];

impl Troubles {
    fn of_fencing() -> Self {
        Self {
            links: once_in(3),
            kills: once_in(6),
            store: once_in(4),
            failovers: false,
            losses: false,
            second: true,
            consolidates: true,
            spool: false,
            takeovers: false,
            crashes: false,
            snapshots: false,
            clocks: once_in(4),
        }
    }
}

/// Runs everything.
pub(crate) async fn direct() -> Result<(), String> {
    let mut director = Director::new(Troubles::of_fencing());
    director.capture.flush_interval = Duration::from_millis(pick(&[1, 50, 500]));
    with(|sim| {
        sim.is_timeless = once_in(6);
        // Relative expiries follow clocks that do not stand still.
        sim.nodes[0].version = 7;
    });
    if !once_in(4) {
        // Two listeners of one server: one goes on while the other one sleeps.
        with(|sim| sim.routes.insert("b".to_owned(), director.master));
        director.wanted.push("b");
    }
    tokio::spawn(failures::ping());
    for _ in 0..between(1, 2) {
        day(&mut director, 6).await?;
        store_more(&mut director).await?;
        let since = with(|sim| sim.now_ms());
        let asleep = fall_asleep(&mut director).await?;
        for _ in 0..between(1, 2) {
            day(&mut director, 4).await?;
            night(&mut director).await?;
        }
        for process in asleep {
            wake(&mut director, &process, since).await?;
        }
        failure()?;
        let objects = with(|sim| sim.objects.clone());
        restoring::check(objects, false).await?;
    }
    let objects = director.end().await?;
    restoring::check(objects, true).await
}

/// Clients write, and more happens.
async fn day(director: &mut Director, hours: u64) -> Result<(), String> {
    director.work(between(2, hours), 5).await
}

/// Somebody is stopped, at any step.
async fn fall_asleep(director: &mut Director) -> Result<Vec<Arc<Process>>, String> {
    for _ in 0..40 {
        if director.writers.len() == director.wanted.len() {
            break;
        }
        sleep(Duration::from_millis(500)).await;
        director.look_after().await?;
    }
    if once_in(4) {
        take_over(director);
        director.look_after().await?;
        sleep(Duration::from_millis(below(10))).await;
    }
    let mut asleep = Vec::new();
    if let Some(takeover) = director.takeovers.first().filter(|_| !once_in(4)) {
        takeover.process.stop_in(below(80));
        asleep.push(Arc::clone(&takeover.process));
        return Ok(asleep);
    }
    let writers = director.writers.iter().map(|writer| &writer.process);
    let all: Vec<Arc<Process>> = writers.cloned().collect();
    // Mostly one, and never all that write.
    for process in &all {
        if once_in(all.len() as u64) && asleep.len() + 1 < all.len() {
            process.stop_in(pick(&[0, below(10), below(60)]));
            asleep.push(Arc::clone(process));
        }
    }
    if asleep.is_empty()
        && let Some(process) = all.first()
    {
        process.stop_in(below(60));
        asleep.push(Arc::clone(process));
    }
    Ok(asleep)
}

fn take_over(director: &mut Director) {
    let known = director.as_it_is().is_some() && director.groups.len() > 3;
    if known && !director.taking_over {
        director.taking_over = true;
        director.rivals = pick(&[1, 2]);
    }
}

/// The log grows by some segments.
async fn store_more(director: &mut Director) -> Result<(), String> {
    for _ in 0..between(1, 6) {
        with(|sim| sim.clients(director.master, between(1, 3)));
        sleep(Duration::from_millis(pick(&[100, 700, 3000]))).await;
        director.look_after().await?;
        failure()?;
    }
    Ok(())
}

/// A base is made, hours pass, and expiry runs before and after them.
async fn night(director: &mut Director) -> Result<(), String> {
    store_more(director).await?;
    if !once_in(8) {
        director.consolidate();
        for _ in 0..60 {
            if director.consolidation.is_none() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
            director.look_after().await?;
        }
    }
    store_more(director).await?;
    if !once_in(4) {
        // What it marks is deleted after the night.
        expire(director).await?;
    }
    if once_in(4) {
        take_over(director);
    }
    let minutes = pick(NIGHT);
    if once_in(200) {
        for _ in 0..10 {
            sleep(Duration::from_secs(minutes.min(400) * 6)).await;
            director.look_after().await?;
            if once_in(3) {
                with(|sim| sim.clients(director.master, 1));
            }
            failure()?;
        }
    } else {
        // The hours of the others cost the test time, and show nothing: they stand still too.
        with(|sim| sim.stood_still_ms += minutes as i64 * 60_000);
    }
    expire(director).await
}

/// Two may run at the same time, and a hold may come or go meanwhile.
async fn expire(director: &mut Director) -> Result<(), String> {
    let mut runs = Vec::new();
    for _ in 0..pick(&[1, 1, 1, 2]) {
        director.started += 1;
        runs.push(begin_random_expiry(director.started, "redis:6379"));
    }
    if once_in(4) {
        director.started += 1;
        hold_something(director.started).await?;
    }
    end_expiry(runs).await?;
    failure()
}

/// It goes on where it was. Its machine may come from a snapshot, and know nothing of the time that has passed.
async fn wake(director: &mut Director, process: &Arc<Process>, since: i64) -> Result<(), String> {
    let group = process.name.split('.').next().unwrap_or_default();
    let node = with(|sim| sim.node_for(group));
    let write = || {
        with(|sim| {
            if let Some(node) = node {
                sim.clients(node, between(1, 4));
            }
        });
    };
    if once_in(2) {
        write();
    }
    if once_in(3) {
        let behind = with(|sim| since - sim.now_ms());
        note(|| format!("the machine of {group} does not know that time has passed"));
        with(|sim| sim.wrong_clocks.insert(group.to_owned(), behind));
    }
    let slept = process.is_stopped();
    with(|sim| sim.oracle.counts.slept += u64::from(slept));
    process.resume();
    for _ in 0..between(1, 6) {
        if !once_in(3) {
            write();
        }
        sleep(Duration::from_millis(pick(&[10, 1000, 7000, 30_000]))).await;
        director.look_after().await?;
        failure()?;
    }
    Ok(())
}
