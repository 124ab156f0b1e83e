//! The table of write commands in `src/model/commands.md`: what each server has, what becomes of it, what tests it.
//!
//! `BACKFEED_WRITE_TABLES=1` writes the generated part anew instead of comparing it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use backfeed::model;
use backfeed::model::Support;
use redis::Value;

use crate::consolidation::is_refused;
use crate::differential::Runner;
use crate::support::data::{Expiries, for_each_version};
use crate::support::{Server, Version};

for_each_version!(
    every_write_command_of_the_server_is_in_the_table,
    what_the_table_says_is_generated_is
);

const TABLE: &str = "src/model/commands.md";
/// The generated part stands between these.
const BEGIN: &str = "<!-- generated: BACKFEED_WRITE_TABLES=1, tests/commands.rs -->\n";
const END: &str = "<!-- end of what is generated -->\n";
const HINT: &str = "Model it in src/model (a `Spec` in the COMMANDS of its data type) and generate it in \
                    tests/differential, or refuse it there with the reason; tell tests/commands.rs if the feed has it \
                    in another form or a unit test tests it; then write the table anew with BACKFEED_WRITE_TABLES=1, \
                    and read what changed.";

/// Commands that change data or are sent to replicas though they are not flagged as writing: servers show no flag for it.
const MAY_REPLICATE: [&str; 7] = [
    "EVAL", "EVALSHA", "FCALL", "PFCOUNT", "PUBLISH", "SFLUSH", "SPUBLISH",
];

/// The subcommands that are modelled; others that write must not hide behind the name of their container.
const SUBCOMMANDS: [&str; 10] = [
    "CLUSTER|FLUSHSLOT",
    "FUNCTION|DELETE",
    "FUNCTION|FLUSH",
    "FUNCTION|LOAD",
    "FUNCTION|RESTORE",
    "XGROUP|CREATE",
    "XGROUP|CREATECONSUMER",
    "XGROUP|DELCONSUMER",
    "XGROUP|DESTROY",
    "XGROUP|SETID",
];

/// What the feed has in the place of a client's command, if it never has that; and where older servers differ.
const SENT_AS: [(&str, &str); 35] = [
    ("BLMOVE", "LMOVE"),
    ("BLMPOP", "LPOP, RPOP with a count"),
    ("BLPOP", "LPOP"),
    ("BRPOP", "RPOP"),
    ("BRPOPLPUSH", "RPOPLPUSH"),
    ("BZMPOP", "ZPOPMIN, ZPOPMAX with a count"),
    ("BZPOPMAX", "ZPOPMAX"),
    ("BZPOPMIN", "ZPOPMIN"),
    ("DELEX", "DEL"),
    ("DELIFEQ", "DEL"),
    ("EVAL", "its effects"),
    ("EVALSHA", "its effects"),
    (
        "EXPIRE",
        "PEXPIREAT, DEL, UNLINK; up to 6.2 itself, made absolute when it is read",
    ),
    ("EXPIREAT", "PEXPIREAT, DEL, UNLINK; up to 6.2 itself"),
    ("FCALL", "its effects"),
    ("GEOADD", "ZADD"),
    ("GETDEL", "DEL"),
    (
        "GETEX",
        "PEXPIREAT, PERSIST, DEL, UNLINK; 6.2: PEXPIRE, made absolute when it is read",
    ),
    ("GETSET", "SET; 6.0: itself"),
    ("HEXPIRE", "HPEXPIREAT, HDEL"),
    ("HEXPIREAT", "HPEXPIREAT, HDEL"),
    ("HGETDEL", "HDEL; Valkey: itself"),
    ("HGETEX", "HPEXPIREAT, HPERSIST, HDEL"),
    ("HINCRBYFLOAT", "HSET, HSETEX"),
    ("HPEXPIRE", "HPEXPIREAT, HDEL"),
    ("INCRBYFLOAT", "SET"),
    ("LMPOP", "LPOP, RPOP with a count"),
    ("MIGRATE", "DEL"),
    (
        "PEXPIRE",
        "PEXPIREAT, DEL, UNLINK; up to 6.2 itself, made absolute when it is read",
    ),
    (
        "PSETEX",
        "SET; up to 6.2 itself or PEXPIRE, made absolute when it is read",
    ),
    (
        "SETEX",
        "SET; up to 6.2 itself or PEXPIRE, made absolute when it is read",
    ),
    ("SPOP", "SREM, DEL, UNLINK"),
    ("XAUTOCLAIM", "XCLAIM, XDEL, XACK"),
    ("XREADGROUP", "XCLAIM, XGROUP SETID, XGROUP CREATECONSUMER"),
    ("ZMPOP", "ZPOPMIN, ZPOPMAX with a count"),
];

/// What no server that stands alone can be made to send, or the differential test of consolidation leaves out.
const UNIT_TESTED: [(&str, &str); 5] = [
    ("CLUSTER|FLUSHSLOT", "keyspace/control_tests.rs"),
    ("MIGRATE", "keyspace/generic_tests.rs, as DEL"),
    ("SFLUSH", "keyspace/control_tests.rs"),
    ("TRIMSLOTS", "keyspace/control_tests.rs"),
    ("ZREMRANGEBYLEX", "keyspace/zsets/zsets_tests.rs"),
];

/// So many units until all that is generated must have done something.
const UNITS: u64 = 2000;
const MOST: usize = 12;

/// What stands in the cell of a command and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Missing,
    Differential,
    Unit,
    Refused,
}

impl Cell {
    fn shown(self) -> &'static str {
        match self {
            Self::Missing => "–",
            Self::Differential => "D",
            Self::Unit => "U",
            Self::Refused => "refused",
        }
    }
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE)
}

fn form(name: &str) -> Option<&'static str> {
    SENT_AS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, form)| *form)
}

fn unit_test(name: &str) -> Option<&'static str> {
    UNIT_TESTED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, test)| *test)
}

/// What the server lists as writing, and which of that modules brought.
fn listed(server: &Server) -> BTreeMap<String, bool> {
    fn text(value: &Value) -> String {
        match value {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::SimpleString(text) => text.clone(),
            _ => String::new(),
        }
    }
    fn note(command: &Value, found: &mut BTreeMap<String, bool>) {
        let Value::Array(fields) = command else {
            return;
        };
        let name = text(&fields[0]).to_uppercase();
        let Value::Array(flags) = &fields[2] else {
            return;
        };
        let has = |flag: &str| flags.iter().any(|found| text(found) == flag);
        let subcommands = match fields.get(9) {
            Some(Value::Array(subcommands)) => subcommands.as_slice(),
            _ => &[],
        };
        // The subcommands tell, where there are such.
        let writes = has("write") || has("may_replicate") || MAY_REPLICATE.contains(&name.as_str());
        if writes && subcommands.is_empty() {
            found.insert(name, has("module"));
        }
        subcommands.iter().for_each(|command| note(command, found));
    }
    let commands: Vec<Value> = redis::cmd("COMMAND").query(&mut server.connect()).unwrap();
    let mut found = BTreeMap::new();
    commands
        .iter()
        .for_each(|command| note(command, &mut found));
    // Listed by 6.2, for `SCRIPT LOAD`.
    found.remove("SCRIPT");
    // Before 7.0, servers do not list subcommands.
    if found.remove("XGROUP").is_some() {
        let subcommands = [
            "CREATE",
            "CREATECONSUMER",
            "DELCONSUMER",
            "DESTROY",
            "SETID",
        ];
        let since = |name: &str| server.version() != Version::Redis60 || name != "CREATECONSUMER";
        let names = subcommands.into_iter().filter(|name| since(name));
        found.extend(names.map(|name| (format!("XGROUP|{name}"), false)));
    }
    found
}

/// What is known of a command that a server lists; none: nothing.
fn cell(name: &str) -> Option<Cell> {
    let (first, sub) = name
        .split_once('|')
        .map_or((name, false), |(first, _)| (first, true));
    if sub && !SUBCOMMANDS.contains(&name) {
        return None;
    }
    if unit_test(name).is_some() {
        return Some(Cell::Unit);
    }
    match model::find(first.as_bytes()).map(|spec| spec.support) {
        Some(Support::Refused(_)) if form(name).is_none() => Some(Cell::Refused),
        Some(_) => Some(Cell::Differential),
        None => None,
    }
}

/// The table, from the commands of all servers.
fn table(listed: &[(Version, BTreeMap<String, bool>)]) -> String {
    let mut text = String::from("| command |");
    for (version, _) in listed {
        let _ = write!(text, " {version} |");
    }
    text.push_str(" in the feed | |\n|---|");
    text.push_str(&"---|".repeat(listed.len() + 2));
    text.push('\n');
    let names: BTreeSet<&String> = listed.iter().flat_map(|(_, names)| names.keys()).collect();
    for name in &names {
        let _ = write!(text, "| `{}` |", name.replace('|', " "));
        for (_, names) in listed {
            let cell = match names.get(*name) {
                None => Cell::Missing,
                Some(_) => cell(name).unwrap_or_else(|| panic!("`{name}` is not known. {HINT}")),
            };
            let _ = write!(text, " {} |", cell.shown());
        }
        let first = name.split('|').next().unwrap();
        let about = match model::find(first.as_bytes()).map(|spec| spec.support) {
            Some(Support::Refused(why)) if form(name).is_none() => why,
            Some(Support::Ignored) if first == "FUNCTION" => {
                "applied to the libraries of the snapshot"
            }
            Some(Support::Ignored) => "changes no data",
            _ => unit_test(name).unwrap_or_default(),
        };
        let _ = writeln!(text, " {} | {about} |", form(name).unwrap_or("itself"));
    }
    text.push_str("\nBeside these, what servers send of their own or newer and other servers have:\n\n| command | |\n|---|---|\n");
    let mut others: Vec<_> = model::commands()
        .filter(|spec| {
            !names
                .iter()
                .any(|name| name.split('|').next() == Some(spec.name))
        })
        .collect();
    others.sort_by_key(|spec| spec.name);
    for spec in others {
        let about = match spec.support {
            Support::Applied(_) => "applied",
            Support::Ignored => "changes no data",
            Support::Refused(why) => &format!("refused: {why}"),
        };
        let _ = writeln!(text, "| `{}` | {about} |", spec.name);
    }
    text
}

/// The text before the generated part, that part, and the text behind.
fn parts() -> (String, String, String) {
    let text = fs::read_to_string(path()).expect(TABLE);
    let (before, rest) = text.split_once(BEGIN).expect(BEGIN);
    let (generated, after) = rest.split_once(END).expect(END);
    (before.to_owned(), generated.to_owned(), after.to_owned())
}

#[test]
fn the_table_is_what_servers_and_code_say() {
    let servers = Version::ALL.map(|version| (version, listed(&Server::start(version, &[]))));
    let wanted = table(&servers);
    let (before, found, after) = parts();
    if std::env::var_os("BACKFEED_WRITE_TABLES").is_some() {
        fs::write(
            path(),
            [before.as_str(), BEGIN, &wanted, END, &after].concat(),
        )
        .unwrap();
        return;
    }
    let differ = |(a, b): &(&str, &str)| a != b;
    let first = found.lines().zip(wanted.lines()).find(differ);
    assert!(
        found == wanted,
        "{TABLE} is not what the servers and the code say; it has the first line, and should have the second: \
         {first:#?}\nWrite it anew with BACKFEED_WRITE_TABLES=1, and read what changed."
    );
}

/// The write commands of KeyDB 6.3 that Redis 6.2 does not have. None is modelled, and each says why.
#[test]
fn the_write_commands_of_keydb_alone_are_refused_with_a_reason() {
    let (_, generated, _) = parts();
    for name in [
        "EXPDEL",
        "EXPIREMEMBER",
        "EXPIREMEMBERAT",
        "KEYDB.CRON",
        "KEYDB.HRENAME",
        "KEYDB.MVCCRESTORE",
        "KEYDB.NHSET",
        "PEXPIREMEMBERAT",
        "RREPLAY",
    ] {
        let spec = model::find(name.as_bytes()).expect(name);
        assert!(matches!(spec.support, Support::Refused(_)), "{name}");
        assert!(
            generated.contains(&format!("| `{name}` | refused: ")),
            "{name}"
        );
    }
}

/// What a row of the table says: by version.
fn row(generated: &str, name: &str) -> Option<BTreeMap<&'static str, String>> {
    let head = format!("| `{}` |", name.replace('|', " "));
    let line = generated.lines().find(|line| line.starts_with(&head))?;
    let cells = line.split('|').skip(2).map(|cell| cell.trim().to_owned());
    Some(
        Version::ALL
            .iter()
            .map(|version| version.name())
            .zip(cells)
            .collect(),
    )
}

fn every_write_command_of_the_server_is_in_the_table(version: Version) {
    let (_, generated, _) = parts();
    let server = Server::start(version, &[]);
    let mut holes = Vec::new();
    for name in listed(&server).keys() {
        let told = row(&generated, name).and_then(|row| row.get(version.name()).cloned());
        let wanted = cell(name).map(Cell::shown);
        if wanted.is_none() || told.as_deref() != wanted {
            holes.push(format!(
                "`{name}`: the table says {told:?}, the code {wanted:?}"
            ));
        }
    }
    assert!(
        holes.is_empty(),
        "{version} has write commands that are not in {TABLE} as they should be. {HINT}\n{}",
        holes.join("\n")
    );
}

/// Each `D` is a command that the generator of the differential test sends, and that does something.
fn what_the_table_says_is_generated_is(version: Version) {
    let (_, generated, _) = parts();
    let server = Server::start(version, &[]);
    let mut runner =
        Runner::new(&server, 7, Expiries::Mixed).skipping(|command| is_refused(command));
    let names = listed(&server);
    let mut left: BTreeSet<&String> = names
        .keys()
        .filter(|name| row(&generated, name).is_some_and(|row| row[version.name()] == "D"))
        .collect();
    assert!(left.len() > 80, "{version}: only {} commands", left.len());
    for _ in 0..MOST {
        runner.run(UNITS);
        let tallies = runner.tallies();
        left.retain(|name| tallies.get(*name).is_none_or(|tally| tally.told == 0));
        if left.is_empty() {
            return;
        }
    }
    panic!(
        "{version}: {TABLE} says that the differential test has them, but it does not: {left:?}"
    );
}

/// Every reason for which a form of a command is refused stands in the document, and no other.
#[test]
fn all_reasons_to_refuse_are_told() {
    let (_, _, after) = parts();
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model"));
    let mut constants = BTreeMap::new();
    for text in &sources {
        for part in text.split("const ").skip(1) {
            if let Some((name, value)) = part.split_once(": &str =") {
                constants.insert(name, literal(value));
            }
        }
    }
    let mut reasons = BTreeSet::new();
    for text in &sources {
        for part in text.split("unmodelled(").skip(1) {
            let part = part.trim_start();
            let name = part
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap();
            // Other lower-case names are those of the function itself, and of what a `Spec` says.
            if part.starts_with('"') {
                reasons.insert(literal(part));
            } else if name.chars().any(|c| c.is_ascii_uppercase()) {
                reasons.insert(constants[name].clone());
            }
        }
    }
    assert!(reasons.len() > 25, "are they still found? {reasons:#?}");
    let told: BTreeSet<String> = after
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(1))
        .map(|cell| cell.trim_end_matches(" |").to_owned())
        .filter(|cell| cell != "the reason that is told" && !cell.starts_with('-'))
        .collect();
    let missing: Vec<_> = reasons.difference(&told).collect();
    let stale: Vec<_> = told.difference(&reasons).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "{TABLE} lacks the reasons {missing:#?}, and has these, which the code does not have: {stale:#?}"
    );
}

/// The string at the front, or behind white space.
fn literal(text: &str) -> String {
    let text = text.trim_start().strip_prefix('"').unwrap_or_default();
    let end = text.find('"').unwrap_or_default();
    text[..end].to_owned()
}

fn sources(directory: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            all.extend(sources(&path));
        } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") && name != "testing.rs" {
            all.push(fs::read_to_string(&path).unwrap());
        }
    }
    all
}
