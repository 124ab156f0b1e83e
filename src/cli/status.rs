//! `backfeed status`: what running services say of themselves.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::check::wrap;
use super::{Exit, Failure, flags, print};
use crate::config::parse_duration;
use crate::monitoring::status::unix_ms_now;
use crate::service::readyz::{Unanswered, readyz};

const EXAMPLES: &str = "\
Examples:
  backfeed status
  backfeed status 10.0.0.7:9390 10.0.0.8:9390 --watch 5s";

/// Where the documents let health be served.
const USUAL: &str = "127.0.0.1:9390";
/// Under a line of the table.
const INDENT: usize = 2;
/// The last error of a service that is ready again is shown for so long.
const OVER_MS: i64 = 5 * 60_000;
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Show what running services say of themselves: phase, lag, what is stored, errors
///
/// It asks /readyz, which `--http` of a service serves. The exit code is 0 if all are ready, and 1 if one is not, or does not
/// answer.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    /// Address where a service serves its health, or several
    #[arg(value_name = "ADDR:PORT", default_value = USUAL)]
    services: Vec<String>,

    /// Show it again and again, with such a pause
    #[arg(long, env = "BACKFEED_WATCH", value_name = "TIME", num_args = 0..=1, default_missing_value = "2s",
          value_parser = parse_duration)]
    watch: Option<Duration>,

    #[command(flatten)]
    output: flags::Output,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

/// What a service answered.
#[derive(Debug, Serialize)]
struct Answered {
    /// As it was given.
    service: String,
    /// Why there is no answer.
    error: Option<String>,
    /// Its `/readyz`.
    status: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// All are ready.
    ready: bool,
    services: Vec<Answered>,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let Some(pause) = args.watch else {
        let report = ask(&args.services).await;
        args.output
            .print(&report, |report| table(report, unix_ms_now()))?;
        return match report.ready {
            true => Ok(()),
            false => Err(Failure::new(Exit::Error, why_not(&report))),
        };
    };
    loop {
        let report = ask(&args.services).await;
        if args.output.json {
            args.output.print(&report, |_| String::new())?;
        } else {
            let clear = if std::io::stdout().is_terminal() {
                CLEAR
            } else {
                ""
            };
            print(&format!("{clear}{}", table(&report, unix_ms_now())))?;
        }
        sleep(pause).await;
    }
}

async fn ask(services: &[String]) -> Report {
    let asked = services.iter().map(|service| async move {
        let (status, error) = match readyz(service).await {
            Ok(status) => (Some(status), None),
            Err(error @ Unanswered { .. }) => (None, Some(error.to_string())),
        };
        Answered {
            service: service.clone(),
            error,
            status,
        }
    });
    let services = futures::future::join_all(asked).await;
    let is_ready = |it: &Answered| {
        let ready = it
            .status
            .as_ref()
            .and_then(|status| field(status, "/ready").as_bool());
        ready == Some(true)
    };
    Report {
        ready: services.iter().all(is_ready),
        services,
    }
}

fn why_not(report: &Report) -> String {
    let unanswered = report.services.iter().find_map(|it| it.error.clone());
    unanswered.unwrap_or_else(|| "not ready: see the table".to_owned())
}

fn table(report: &Report, now_unix_ms: i64) -> String {
    let mut text = String::new();
    line(
        &mut text,
        [
            "SERVICE",
            "READY",
            "PHASE",
            "LAG",
            "STORED",
            "BASE",
            "KEPT FROM",
        ]
        .map(str::to_owned),
    );
    for answered in &report.services {
        let Some(status) = &answered.status else {
            let service = answered.service.clone();
            let dash = || "-".to_owned();
            let ready = "NO".to_owned();
            line(
                &mut text,
                [service, ready, dash(), dash(), dash(), dash(), dash()],
            );
            note(&mut text, answered.error.as_deref().unwrap_or_default());
            continue;
        };
        match field(status, "/sources").as_object() {
            Some(sources) => {
                for (name, status) in sources {
                    of_source(&mut text, name, status, now_unix_ms);
                }
                if let Some(error) = field(status, "/config/error").as_str() {
                    note(&mut text, &format!("config: {error}"));
                }
            }
            None => of_source(&mut text, &answered.service, status, now_unix_ms),
        }
    }
    text
}

fn of_source(text: &mut String, name: &str, status: &Value, now_unix_ms: i64) {
    let is_ready = field(status, "/ready").as_bool() == Some(true);
    let ago = |value: &Value| match value.as_i64() {
        Some(at) => age(now_unix_ms.saturating_sub(at)),
        None => "-".to_owned(),
    };
    let lag = field(status, "/lag_seconds").as_f64().unwrap_or_default();
    let kept_from = field(status, "/expiry/oldest_unix_ms").as_i64();
    let kept_from = kept_from.map(crate::display::time);
    line(
        text,
        [
            name.to_owned(),
            if is_ready { "yes" } else { "NO" }.to_owned(),
            field(status, "/phase").as_str().unwrap_or("?").to_owned(),
            format!("{lag:.1} s"),
            ago(field(status, "/stored_unix_ms")),
            ago(field(status, "/base_unix_ms")),
            // The day is enough.
            kept_from.map_or_else(|| "-".to_owned(), |time| time.chars().take(10).collect()),
        ],
    );
    if !is_ready
        && let Some(detail) = field(status, "/detail")
            .as_str()
            .filter(|it| !it.is_empty())
    {
        note(text, detail);
    }
    for work in field(status, "/work").as_array().into_iter().flatten() {
        let what = field(work, "/what").as_str().unwrap_or_default();
        match field(work, "/percent").as_f64() {
            Some(percent) => note(text, &format!("{what}: {percent:.1} %")),
            None => note(text, what),
        }
    }
    for (name, path) in [
        ("store", "/store_error"),
        ("spool", "/spool_error"),
        ("consolidate", "/consolidate_error"),
        ("merge", "/merge_error"),
        ("expiry", "/expiry/error"),
        ("drill", "/drill/error"),
        ("superseded", "/superseded"),
    ] {
        if let Some(error) = field(status, path).as_str() {
            note(text, &format!("{name}: {error}"));
        }
    }
    let told = field(status, "/detail").as_str();
    if let Some(error) = field(status, "/last_error")
        .as_str()
        .filter(|error| Some(*error) != told)
    {
        let at = field(status, "/last_error_unix_ms")
            .as_i64()
            .unwrap_or_default();
        let is_over = is_ready && now_unix_ms.saturating_sub(at) > OVER_MS;
        if !is_over {
            let ago = ago(field(status, "/last_error_unix_ms"));
            note(text, &format!("last error, {ago} ago: {error}"));
        }
    }
}

/// What is there, or null.
fn field<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

/// A line of the table: 79 columns, unless a name is long.
fn line(text: &mut String, cells: [String; 7]) {
    let [name, ready, phase, lag, stored, base, kept] = cells;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{name:<16} {ready:5} {phase:17} {lag:>8} {stored:>8} {base:>8}  {kept}"
    );
}

fn note(text: &mut String, words: &str) {
    let _ = write!(text, "{:INDENT$}", "");
    wrap(text, words, INDENT);
}

/// `12 s`, `5 min`, `3 h`, `2 d`.
fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    #[test]
    fn services_are_a_table_that_fits() {
        let following = serde_json::json!({
            "ready": true, "phase": "following", "detail": "", "lag_seconds": 0.04, "stored_unix_ms": NOW - 2_500,
            "base_unix_ms": NOW - 3 * 3_600_000, "work": [], "last_error": null,
            "expiry": {"oldest_unix_ms": NOW - 10 * 86_400_000, "error": null},
        });
        let waiting = serde_json::json!({
            "ready": false, "phase": "waiting_for_redis", "detail": "127.0.0.1:6379: connection refused", "lag_seconds": 61.0,
            "stored_unix_ms": null, "store_error": "403", "work": [{"what": "full sync", "percent": 12.34}],
            "last_error": "127.0.0.1:6379: connection refused", "last_error_unix_ms": NOW - 5,
        });
        let answered = |service: &str, status: Value| Answered {
            service: service.to_owned(),
            error: None,
            status: Some(status),
        };
        let several = serde_json::json!({"ready": false, "config": {"error": null}, "sources": {"cart": waiting.clone()}});
        let report = Report {
            ready: false,
            services: vec![
                answered("127.0.0.1:9390", following),
                answered("127.0.0.1:9391", several),
                Answered {
                    service: "127.0.0.1:9392".to_owned(),
                    error: Some("no answer".to_owned()),
                    status: None,
                },
            ],
        };
        let expected = "\
SERVICE          READY PHASE                  LAG   STORED     BASE  KEPT FROM
127.0.0.1:9390   yes   following            0.0 s      2 s      3 h  2027-01-05
cart             NO    waiting_for_redis   61.0 s        -        -  -
  127.0.0.1:6379: connection refused
  full sync: 12.3 %
  store: 403
127.0.0.1:9392   NO    -                        -        -        -  -
  no answer
";
        assert_eq!(table(&report, NOW), expected);
    }

    #[test]
    fn ages_are_short() {
        for (ms, wanted) in [
            (-5, "0 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 d"),
        ] {
            assert_eq!(age(ms), wanted);
        }
    }
}
