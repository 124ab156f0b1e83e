//! `backfeed get`: one key as it was, or what became of it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use super::progress_bar::Bars;
use super::{Exit, Failure, flags, print, print_json};
use crate::config::Size;
use crate::display::{Shown, Time, counted, unescape};
use crate::monitoring::status::unix_ms_now;
use crate::query::key_history::{self, Change, Found, FoundValue, Looked};
use crate::recovery::{Progress, Stage};
use crate::wire::position::Position;
use crate::wire::rdb::elements::{Part, names, parts};

const EXAMPLES: &str = "\
Examples:
  backfeed get user:1 --store gs://my-bucket/shop
  backfeed get cart:42 --store gs://my-bucket/shop --at '2026-11-29 02:57:25'
  backfeed get cart:42 --store file:///backups/shop --changes";

/// Show the value of one key as it was at any stored point, or every command that touched it
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    /// The key
    #[arg(
        value_name = "KEY",
        required_unless_present = "key_file",
        conflicts_with = "key_file"
    )]
    key: Option<OsString>,

    /// How KEY is written: as it is (`raw`), as `diff` and `inspect` print keys (`escaped`: `\n`, `\x00`, `\\` for a backslash), or
    /// as the `base64` of their JSON
    #[arg(
        long,
        env = "BACKFEED_KEY_AS",
        value_name = "FORM",
        default_value = "raw"
    )]
    key_as: KeyForm,

    /// Read the key from a file, all bytes of it; `-`: standard input. For keys that no argument can hold
    #[arg(long, env = "BACKFEED_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,

    #[command(flatten)]
    store: flags::Store,

    /// The database of the key
    #[arg(long, env = "BACKFEED_DB", value_name = "N", default_value = "0")]
    db: u32,

    /// Instead of the value, show every command of the log that touches the key, up to that point, with its time and offset.
    /// With --json: one command a line, then a line about all of them
    #[arg(long, env = "BACKFEED_CHANGES", value_parser = clap::builder::BoolishValueParser::new())]
    changes: bool,

    #[command(flatten)]
    bounds: flags::Bounds,

    #[command(flatten)]
    point: flags::Point,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

/// How a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KeyForm {
    Raw,
    Escaped,
    Base64,
}

impl Args {
    /// The bytes of the key.
    fn key(&self) -> Result<Vec<u8>, Failure> {
        let written = match (&self.key, &self.key_file) {
            (Some(key), _) => key.as_bytes().to_vec(),
            (None, Some(path)) => read_key(path)?,
            (None, None) => Vec::new(),
        };
        let read = match self.key_as {
            KeyForm::Raw => Some(written),
            KeyForm::Escaped => unescape(&written),
            KeyForm::Base64 => STANDARD.decode(written.trim_ascii()).ok(),
        };
        read.ok_or_else(|| {
            let form = match self.key_as {
                KeyForm::Base64 => "base64",
                KeyForm::Escaped | KeyForm::Raw => {
                    "escaped text: a backslash stands before `n`, `t`, `r`, `xHH` or another one"
                }
            };
            Failure::new(Exit::Usage, format_args!("the key is no {form} (--key-as)"))
        })
    }
}

/// Reads it before anything else is begun.
fn read_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path.as_os_str() == "-" {
        let mut key = Vec::new();
        let read = io::stdin().read_to_end(&mut key);
        read.map(|_| key)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| {
        let message = format!("cannot read {}: {error} (--key-file)", path.display());
        Failure::new(Exit::Error, message)
    })
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let key = &args.key()?;
    let recovery_target = args.point.recovery_target(unix_ms_now())?;
    let archive = args.store.open(&args.common.gcs).await?.keeping();
    let history = args.point.history;
    if args.changes {
        let mut shown: Result<(), Failure> = Ok(());
        let mut many = 0u64;
        let mut give = |change: Change| {
            many = many.saturating_add(1);
            if shown.is_ok() {
                shown = print_change(&change, args.common.output.json);
            }
        };
        let memory = args.bounds.memory_limit();
        let looked = key_history::changes(
            &archive,
            history,
            recovery_target,
            args.db,
            key,
            memory,
            &mut give,
        )
        .await?;
        shown?;
        if args.common.output.json {
            let summary = args.common.output.answer(Touched {
                commands: many,
                looked,
            });
            return print_line(&summary);
        }
        return print(&format!(
            "{} touched it between offset {} of history {} and offset {} of history {}\n",
            counted(many, "command"),
            looked.from.offset,
            looked.from.history,
            looked.to.offset,
            looked.to.history
        ));
    }
    let plan = key_history::plan_of(&archive, history, recovery_target).await?;
    let bars = Bars::new();
    bars.stage(Stage::Log, None);
    let found = key_history::get(&archive, &plan, args.db, key, args.bounds.memory_limit()).await;
    bars.finish();
    let found = found?;
    let limit = args.bounds.limit();
    let Some(value) = &found.value else {
        return Err(Failure::new(
            Exit::NothingToRestore,
            missing(&args, key, &found),
        ));
    };
    if args.common.output.json {
        let json = as_json(&args, key, &found, value, limit)?;
        return print_json(&args.common.output.answer(json));
    }
    print(&as_text(&args, key, &found, value, limit)?)
}

fn missing(args: &Args, key: &[u8], found: &Found) -> String {
    let time = found.unix_ms.map(|at| format!(" ({})", Time(at)));
    format!(
        "there is no key {} in database {} at offset {} of history {}{}: --changes shows what became of it",
        Shown::new(key),
        args.db,
        found.at.offset,
        found.at.history,
        time.unwrap_or_default()
    )
}

/// The last line of `--changes --json`.
#[derive(Debug, Serialize)]
struct Touched {
    commands: u64,
    #[serde(flatten)]
    looked: Looked,
}

/// JSON in one line.
fn print_line(answer: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(answer);
    let line = line.map_err(|error| Failure::new(Exit::Error, error))?;
    print(&format!("{line}\n"))
}

fn print_change(change: &Change, json: bool) -> Result<(), Failure> {
    if json {
        return print_line(change);
    }
    let time = Time(change.unix_ms);
    let command: Vec<String> = change.command.iter().map(quoted).collect();
    print(&format!(
        "{time}  {:>12}  {}\n",
        change.offset,
        command.join(" ")
    ))
}

/// In quotes if it is empty, or would read as several words.
fn quoted(word: &Shown) -> String {
    let text = word.to_string();
    if text.is_empty() || text.contains(' ') && !text.starts_with('…') {
        return format!("\"{text}\"");
    }
    text
}

/// The part of a value that is shown.
struct Rendered {
    lines: Vec<String>,
    json: Vec<Value>,
    groups: Vec<Value>,
    more: bool,
    known: bool,
}

fn render(value: &FoundValue, limit: usize) -> Result<Rendered, Failure> {
    let mut out = Rendered {
        lines: Vec::new(),
        json: Vec::new(),
        groups: Vec::new(),
        more: false,
        known: false,
    };
    let family = value.dialect.family;
    let known = parts(family, value.kind, &value.payload, &mut |part| {
        if out.lines.len() >= limit {
            out.more = true;
            return false;
        }
        out.add(&part);
        true
    });
    out.known = known.map_err(|error| {
        Failure::new(
            Exit::Damaged,
            format_args!("the value cannot be read: {error}"),
        )
    })?;
    Ok(out)
}

impl Rendered {
    fn add(&mut self, part: &Part<'_>) {
        let (line, json) = match part {
            Part::Text(bytes) | Part::Member(bytes) => {
                let shown = Shown::new(bytes);
                (shown.to_string(), json!(shown))
            }
            Part::Scored(member, score) => {
                let member = Shown::new(member);
                // JSON has no infinity.
                let number = if score.is_finite() {
                    json!(score)
                } else {
                    json!(score.to_string())
                };
                (
                    format!("{score}  {member}"),
                    json!({ "member": member, "score": number }),
                )
            }
            Part::Field {
                field,
                value,
                expiry,
            } => {
                let (field, value) = (Shown::new(field), Shown::new(value));
                let expires = expiry.map(|at| format!("  (expires {})", Time(at)));
                (
                    format!("{field}  {value}{}", expires.unwrap_or_default()),
                    json!({ "field": field, "value": value, "expiry_unix_ms": expiry }),
                )
            }
            Part::Entry { id, fields } => {
                let id = format!("{}-{}", id.0, id.1);
                let shown = |bytes: &[u8]| Shown::new(bytes);
                let words = fields
                    .iter()
                    .flat_map(|(field, value)| [quoted(&shown(field)), quoted(&shown(value))]);
                let words: Vec<String> = words.collect();
                let fields: Vec<Value> = fields
                    .iter()
                    .map(|(field, value)| json!([shown(field), shown(value)]))
                    .collect();
                (
                    format!("{id}  {}", words.join(" ")),
                    json!({ "id": id, "fields": fields }),
                )
            }
            Part::Group {
                name,
                last,
                pending,
                consumers,
            } => {
                let name = Shown::new(name);
                let last = format!("{}-{}", last.0, last.1);
                self.groups.push(json!({
                    "group": name, "last_delivered": last, "pending": pending, "consumers": consumers,
                }));
                let line = format!(
                    "group {name}: delivered up to {last}, {pending} pending, {consumers} consumers"
                );
                self.lines.push(line);
                return;
            }
        };
        self.lines.push(line);
        self.json.push(json);
    }
}

fn as_text(
    args: &Args,
    key: &[u8],
    found: &Found,
    value: &FoundValue,
    limit: usize,
) -> Result<String, Failure> {
    let (type_name, _) = names(value.dialect.family, value.kind);
    let rendered = render(value, limit)?;
    let mut text = String::new();
    let time = found.unix_ms.map(|at| format!(", {}", Time(at)));
    let _ = writeln!(text, "key       {} (database {})", Shown::new(key), args.db);
    let _ = writeln!(
        text,
        "at        offset {} of history {}{}",
        found.at.offset,
        found.at.history,
        time.unwrap_or_default()
    );
    let _ = writeln!(text, "type      {type_name}");
    if let Some(at) = value.expiry {
        let _ = writeln!(text, "expires   {}", Time(at));
    }
    text.push('\n');
    for line in &rendered.lines {
        let _ = writeln!(text, "{line}");
    }
    if rendered.more {
        let _ = writeln!(text, "… and more: --limit shows them");
    }
    if !rendered.known {
        let _ = writeln!(
            text,
            "({} that only the module can read; --json shows them)",
            Size(value.payload.len() as u64)
        );
    }
    Ok(text)
}

/// The JSON of a key.
#[derive(Debug, Serialize)]
struct KeyJson {
    key: Shown,
    db: u32,
    at: Position,
    unix_ms: Option<i64>,
    #[serde(rename = "type")]
    type_name: &'static str,
    encoding: &'static str,
    expiry_unix_ms: Option<i64>,
    /// A string; an array of what is in a collection; null where only a module can read it.
    value: Value,
    /// Consumer groups of a stream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Value>,
    /// There is more than was shown.
    more: bool,
    /// Where only a module can read it: the value as it stands in an RDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Shown>,
}

fn as_json(
    args: &Args,
    key: &[u8],
    found: &Found,
    value: &FoundValue,
    limit: usize,
) -> Result<KeyJson, Failure> {
    let (type_name, encoding) = names(value.dialect.family, value.kind);
    let rendered = render(value, limit)?;
    let shown = if !rendered.known {
        Value::Null
    } else if type_name == "string" {
        rendered.json.into_iter().next().unwrap_or(Value::Null)
    } else {
        Value::Array(rendered.json)
    };
    Ok(KeyJson {
        key: Shown::new(key),
        db: args.db,
        at: found.at,
        unix_ms: found.unix_ms,
        type_name,
        encoding,
        expiry_unix_ms: value.expiry,
        value: shown,
        groups: rendered.groups,
        more: rendered.more,
        raw: (!rendered.known).then(|| Shown::new(&value.payload)),
    })
}
