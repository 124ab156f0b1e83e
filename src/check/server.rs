//! The server: what its user may do, and which of its settings matter.

use std::time::Duration;

use redis_protocol::resp2::types::OwnedFrame;
use tokio::time::{Instant, sleep};

use super::permissions::{self, Permission};
use super::{Findings, Verdict, Wanted};
use crate::config::{Size, Source};
use crate::link::control::{Control, ControlError};
use crate::link::health::Aof;
use crate::link::replication_info::{Facts, Role};

/// The rate of the feed is measured for so long.
const MEASURED: Duration = Duration::from_secs(1);
/// A backlog that holds less than this of the feed does not outlast a restart of backfeed.
const SHORTEST: u64 = 60;
/// For so many seconds a backlog should last.
const WANTED: u64 = 300;
/// As many bytes may wait in a server for a replica while an object is on its way to a slow store.
const BUFFER_MIN: u64 = 16 << 20;
/// Redis 8 and Valkey 9 have these in themselves.
const BUILT_IN: [&str; 2] = ["vectorset", "lua"];
/// Clocks that differ by less count as the same.
const CLOCK_TOLERANCE_MS: u64 = 2_000;

pub(super) async fn check(source: &Source, wanted: &Wanted, findings: &mut Findings) {
    let mut control = match Control::connect(source).await {
        Ok(control) => control,
        Err(error) => {
            findings.failed("connects", error);
            return;
        }
    };
    findings.ok("connects", source.addr());
    if let Err(error) = look(&mut control, source, wanted, findings).await {
        findings.failed("answers", error);
    }
}

async fn look(
    control: &mut Control,
    source: &Source,
    wanted: &Wanted,
    findings: &mut Findings,
) -> Result<(), ControlError> {
    let info = match control.text(&["INFO"]).await {
        Ok(info) => Some(Info::of(&info)),
        Err(error) if error.is_permission() || error.is_unknown_command() => None,
        Err(error) => return Err(error),
    };
    let facts = info.as_ref().map(|info| &info.facts);
    if let Some(info) = &info {
        version(&info.facts, wanted, findings);
        role(&info.facts, wanted, findings);
    }
    allowed(control, source, facts, wanted, findings).await?;
    let Some(info) = info else {
        return Ok(());
    };
    persistence(&info.facts, findings);
    modules(&info, findings);
    clock(control, &info.facts, wanted, findings).await?;
    backlog(control, &info, findings).await?;
    settings(control, wanted, findings).await
}

/// What `INFO` says.
struct Info {
    facts: Facts,
    /// `instantaneous_input_kbps`, in bytes a second.
    input: Option<u64>,
    modules: Vec<String>,
}

impl Info {
    fn of(text: &str) -> Self {
        let lines = || {
            text.lines()
                .filter_map(|line| line.trim_end().split_once(':'))
        };
        let mut input = lines().filter(|(name, _)| *name == "instantaneous_input_kbps");
        let input = input.next().and_then(|(_, rate)| rate.parse::<f64>().ok());
        let modules = lines().filter(|(name, _)| *name == "module");
        let name = |about: &str| {
            let mut parts = about.split(',');
            parts.find_map(|part| part.strip_prefix("name=").map(str::to_owned))
        };
        Self {
            facts: Facts::parse(text),
            input: input.map(|rate| (rate * 1024.0) as u64),
            modules: modules.filter_map(|(_, about)| name(about)).collect(),
        }
    }
}

fn version(facts: &Facts, wanted: &Wanted, findings: &mut Findings) {
    const WHAT: &str = "version";
    let named = format!("{} {}", facts.flavour, facts.version);
    if facts.is_keydb() {
        let reason = format!("{named}: it asks its master for more than backfeed serves");
        return match wanted.sidecar {
            Some(_) => findings.failed_with(WHAT, reason, "use `backfeed backup` for a KeyDB"),
            None => findings.warning(
                WHAT,
                format!("{named}: supported by what its source code says, and not tried"),
                "test a restore before you rely on it",
            ),
        };
    }
    match (facts.flavour.as_str(), facts.major()) {
        ("redis", Some(6..=8)) | ("valkey", Some(7..=9)) => findings.ok(WHAT, named),
        (_, Some(..=5)) => findings.failed_with(WHAT, named, "Redis 6.0 or newer"),
        _ => findings.warning(
            WHAT,
            format!("{named}: newer than what was tested, or not known"),
            "test a restore before you rely on it",
        ),
    }
}

fn role(facts: &Facts, wanted: &Wanted, findings: &mut Findings) {
    const WHAT: &str = "role";
    if facts.loading {
        findings.warning(
            WHAT,
            "it is loading its data set",
            "check again when it has",
        );
    }
    if facts.cluster {
        findings.warning(
            WHAT,
            "a node of a cluster: only its own slots are captured, and not after a failover",
            "capture each master, and look after failovers",
        );
    }
    match (&facts.role, &wanted.sidecar) {
        (Role::Master, _) => findings.ok(WHAT, "master"),
        (
            Role::Replica {
                host,
                port,
                link_up,
            },
            None,
        ) => {
            let reason = format!("replica of {host}:{port}");
            match link_up {
                true => findings.ok(WHAT, reason),
                false => findings.failed_with(
                    WHAT,
                    format!("{reason}, and has no link to it, so it serves no feed"),
                    "repair that link, or capture the master",
                ),
            }
        }
        (Role::Replica { host, port, .. }, Some(sidecar)) => {
            match *port == sidecar.listen.addr.port() {
                true => findings.ok(WHAT, format!("replica of {host}:{port}, which is backfeed")),
                false => findings.failed_with(
                    WHAT,
                    format!("replica of {host}:{port}: a sidecar leaves such a Redis alone"),
                    format!(
                        "start it with `replicaof 127.0.0.1 {}`",
                        sidecar.listen.addr.port()
                    ),
                ),
            }
        }
        (Role::Unknown, _) => findings.unknown(WHAT, "INFO does not say it"),
    }
}

/// Permission by permission.
async fn allowed(
    control: &mut Control,
    source: &Source,
    facts: Option<&Facts>,
    wanted: &Wanted,
    findings: &mut Findings,
) -> Result<(), ControlError> {
    let user = match control.text(&["ACL", "WHOAMI"]).await {
        Ok(user) => user,
        Err(error @ ControlError::Link(_)) => return Err(error),
        Err(_) => source
            .username
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
    };
    let mut say = |command: &str, permission: Permission, needed: bool, without: &str| {
        let what = format!("may run {command}");
        let change = format!(
            "redis-cli -h {} -p {} ACL SETUSER {user} +{}",
            source.host,
            source.port,
            command.to_lowercase()
        );
        match permission {
            Permission::Granted(how) => findings.ok(&what, how),
            Permission::Unknown(why) => {
                let change = format!("if it is not permitted: {change}");
                findings.add(Verdict::Unknown, &what, why).change = Some(change);
            }
            Permission::Denied(said) if needed => findings.failed_with(&what, said, change),
            Permission::Denied(said) => {
                findings.warning(&what, format!("{said}. {without}"), change);
            }
        }
    };
    let info = match facts {
        Some(_) => Permission::Granted("it was run"),
        None => Permission::Denied("INFO is not permitted".to_owned()),
    };
    let is_sidecar = wanted.sidecar.is_some();
    say(
        "INFO",
        info,
        is_sidecar,
        "backfeed resumes by the latest history in the store, and a SHUTDOWN waits for its shutdown-timeout",
    );
    let ping = permissions::harmless(control, &["PING"]).await?;
    say("PING", ping, true, "");
    let replconf = permissions::harmless(control, &["REPLCONF", "capa", "eof"]).await?;
    say("REPLCONF", replconf, true, "");
    let psync = permissions::psync(control, source, facts).await?;
    say("PSYNC", psync, true, "");
    if is_sidecar {
        let replicaof = permissions::queued(control, &["REPLICAOF", "NO", "ONE"]).await?;
        say("REPLICAOF", replicaof, true, "");
        let config = permissions::harmless(control, &["CONFIG", "GET", "save"]).await?;
        say(
            "CONFIG",
            config,
            false,
            "Redis loads what it is given by way of its disk, and its limits are not known before",
        );
    }
    Ok(())
}

fn persistence(facts: &Facts, findings: &mut Findings) {
    const WHAT: &str = "persistence";
    let health = &facts.health;
    if health.bgsave_failed {
        findings.failed_with(
            WHAT,
            "its last BGSAVE failed. With stop-writes-on-bgsave-error it refuses writes, and Redis 7.0 aborts when its \
             master sends one",
            "see its log; then `redis-cli BGSAVE`",
        );
        return;
    }
    match health.aof {
        Aof::Failed => findings.warning(
            WHAT,
            "its append-only file could not be rewritten",
            "see its log",
        ),
        Aof::Off => findings.ok(WHAT, "no append-only file"),
        Aof::Rewriting | Aof::Whole => findings.ok(WHAT, "it has an append-only file"),
    }
    let memory = &health.memory;
    match memory.limit {
        0 => findings.ok("memory limit", "none"),
        limit => findings.ok(
            "memory limit",
            format!(
                "{} of {} used ({})",
                Size(memory.used),
                Size(limit),
                memory.policy
            ),
        ),
    }
}

fn modules(info: &Info, findings: &mut Findings) {
    const WHAT: &str = "modules";
    let others = info
        .modules
        .iter()
        .filter(|name| !BUILT_IN.contains(&name.as_str()));
    let names: Vec<&str> = others.map(String::as_str).collect();
    if names.is_empty() {
        return findings.ok(WHAT, "none");
    }
    let names = names.join(", ");
    findings.warning(
        WHAT,
        format!(
            "{names}: what they store is kept as it is. New bases cannot be made of a log with their commands, and come by \
             a full sync"
        ),
        "nothing; a restore needs a server with the same modules",
    );
}

async fn clock(
    control: &mut Control,
    facts: &Facts,
    wanted: &Wanted,
    findings: &mut Findings,
) -> Result<(), ControlError> {
    const WHAT: &str = "clock";
    let server = match facts.time_unix_ms {
        Some(_) => control.facts().await?.time_unix_ms,
        None => control.time_unix_ms().await.ok().flatten(),
    };
    let now = (wanted.now_unix_ms)();
    match server {
        None => findings.unknown(WHAT, "the server does not show it"),
        Some(server) if server.abs_diff(now) > CLOCK_TOLERANCE_MS => findings.warning(
            WHAT,
            format!("{} ms off that of this machine", server.abs_diff(now)),
            "set both with NTP: points in time are the time of this machine",
        ),
        Some(_) => findings.ok(WHAT, "as that of this machine"),
    }
    Ok(())
}

/// How long the backlog lasts at the present rate.
async fn backlog(
    control: &mut Control,
    info: &Info,
    findings: &mut Findings,
) -> Result<(), ControlError> {
    const WHAT: &str = "backlog";
    let Some(size) = info.facts.backlog_size else {
        findings.unknown(WHAT, "INFO does not say its size");
        return Ok(());
    };
    let (rate, least) = match info.facts.backlog_first {
        Some(_) => (measured(control).await?, ""),
        // The feed does not count while there is nobody to be sent it. All that the server receives is more than that.
        None => (info.input, "at least "),
    };
    let Some(rate) = rate else {
        findings.unknown(
            WHAT,
            format!("{}; the rate of the feed is not known", Size(size)),
        );
        return Ok(());
    };
    match size.checked_div(rate) {
        None => findings.ok(
            WHAT,
            format!(
                "{}; nothing is written now, so it is not known how long that lasts",
                Size(size)
            ),
        ),
        Some(lasts) if lasts < SHORTEST => {
            let better = rate
                .saturating_mul(WANTED)
                .div_ceil(1 << 20)
                .next_power_of_two();
            findings.warning(
                WHAT,
                format!(
                    "its {} hold {least}{lasts} s of the feed at the present rate ({} a second). If backfeed is away for longer, it \
                     needs a full sync",
                    Size(size),
                    Size(rate)
                ),
                format!("redis-cli CONFIG SET repl-backlog-size {better}mb"),
            );
        }
        Some(lasts) => findings.ok(
            WHAT,
            format!(
                "its {} hold {least}{lasts} s of the feed at the present rate",
                Size(size)
            ),
        ),
    }
    Ok(())
}

/// Bytes of the feed a second.
async fn measured(control: &mut Control) -> Result<Option<u64>, ControlError> {
    let begun = Instant::now();
    let before = control.replication_facts().await?.offset;
    sleep(MEASURED).await;
    let after = control.replication_facts().await?.offset;
    let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let written = before.zip(after).map(|(before, after)| after.since(before));
    Ok(written.and_then(|bytes| bytes.saturating_mul(1000).checked_div(took)))
}

/// What only `CONFIG` tells.
async fn settings(
    control: &mut Control,
    wanted: &Wanted,
    findings: &mut Findings,
) -> Result<(), ControlError> {
    let Some(limits) = setting(control, "client-output-buffer-limit").await? else {
        findings.unknown(
            "settings",
            "CONFIG is not permitted: limits of output buffers, min-replicas-to-write and the kind of full sync were \
             not looked at",
        );
        return Ok(());
    };
    output_buffer(&limits, findings);
    let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    let diskless = setting(control, "repl-diskless-sync").await?;
    let delay = number(setting(control, "repl-diskless-sync-delay").await?).unwrap_or(0);
    match diskless.as_deref() {
        Some("yes") if delay > 0 => findings.ok(
            "full sync",
            format!("without a file on its disk, {delay} s after it is asked for (repl-diskless-sync-delay)"),
        ),
        Some("yes") => findings.ok("full sync", "without a file on its disk"),
        Some(_) => findings.warning(
            "full sync",
            "it writes the whole RDB to its own disk first",
            "redis-cli CONFIG SET repl-diskless-sync yes",
        ),
        None => {}
    }
    let least = number(setting(control, "min-replicas-to-write").await?).unwrap_or(0);
    if least > 0 {
        findings.warning(
            "min-replicas-to-write",
            format!("{least}: backfeed counts as one replica. Redis refuses writes while there are fewer"),
            match wanted.sidecar {
                Some(_) => "nothing, if Redis is to refuse writes while nothing is stored",
                None => "raise it by one if real replicas are meant (docs/durability.md)",
            },
        );
    }
    Ok(())
}

/// `normal 0 0 0 slave 268435456 67108864 60 pubsub …`
fn output_buffer(limits: &str, findings: &mut Findings) {
    const WHAT: &str = "output buffer";
    let words: Vec<&str> = limits.split_whitespace().collect();
    let of_replicas = words
        .chunks(4)
        .find(|class| matches!(class.first(), Some(&("slave" | "replica"))));
    let number = |at: usize| {
        let word = of_replicas.and_then(|class| class.get(at).copied());
        word.and_then(|word| word.parse::<u64>().ok())
    };
    let (Some(hard), Some(soft), Some(seconds)) = (number(1), number(2), number(3)) else {
        return findings.unknown(WHAT, format!("of replicas: {limits}"));
    };
    let shown = match (hard, soft) {
        (0, 0) => "no limit".to_owned(),
        (0, soft) => format!("{} for {seconds} s", Size(soft)),
        (hard, 0) => Size(hard).to_string(),
        (hard, soft) => format!("{}, and {} for {seconds} s", Size(hard), Size(soft)),
    };
    let is_low = (1..BUFFER_MIN).contains(&hard) || (1..BUFFER_MIN).contains(&soft);
    if is_low {
        findings.warning(
            WHAT,
            format!("{shown} of feed may wait for backfeed. With more, Redis cuts the link"),
            "redis-cli CONFIG SET client-output-buffer-limit \"replica 256mb 64mb 60\"",
        );
    } else {
        findings.ok(WHAT, shown);
    }
}

/// None: it is not permitted, or the server does not know the setting.
async fn setting(control: &mut Control, name: &str) -> Result<Option<String>, ControlError> {
    match control.call(&["CONFIG", "GET", name]).await {
        Ok(OwnedFrame::Array(pair)) => Ok(match pair.get(1) {
            Some(OwnedFrame::BulkString(value) | OwnedFrame::SimpleString(value)) => {
                Some(String::from_utf8_lossy(value).into_owned())
            }
            _ => None,
        }),
        Ok(_) => Ok(None),
        Err(error @ ControlError::Link(_)) => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::check::{Area, Verdict};

    fn of_buffer(limits: &str) -> (Verdict, String) {
        let mut findings = Findings::of(Area::Redis);
        output_buffer(limits, &mut findings);
        let found = findings.found.pop().unwrap();
        (found.verdict, found.reason)
    }

    #[test]
    fn limits_of_output_buffers_are_those_of_replicas() {
        let usual = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        let (verdict, reason) = of_buffer(usual);
        assert_eq!(verdict, Verdict::Ok);
        assert_eq!(reason, "256.0 MiB, and 64.0 MiB for 60 s");
        let (verdict, _) = of_buffer("normal 0 0 0 replica 0 0 0 pubsub 1 1 1");
        assert_eq!(verdict, Verdict::Ok);
        let (verdict, reason) = of_buffer("normal 0 0 0 replica 1048576 0 0");
        assert_eq!(verdict, Verdict::Warning);
        assert!(reason.starts_with("1.0 MiB of feed"), "{reason}");
        assert_eq!(of_buffer("nonsense").0, Verdict::Unknown);
    }

    #[test]
    fn modules_and_the_rate_of_input_are_in_info() {
        let info = Info::of(
            "# Stats\r\ninstantaneous_input_kbps:12.50\r\n# Modules\r\n\
             module:name=bf,ver=20800,api=1,filters=0,usedby=[],using=[],options=[]\r\nmodule:name=ReJSON,ver=1\r\n",
        );
        assert_eq!(info.input, Some(12_800));
        assert_eq!(info.modules, ["bf", "ReJSON"]);
    }
}
