//! The rules of the house, held by a test: layers, sizes, no strays, nothing left undone, flags that are documented.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::run;

/// Every entry that the repository's top level may have.
const TOP_LEVEL: [&str; 20] = [
    ".cargo",
    ".ci",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "benches",
    "deny.toml",
    "docker",
    "docs",
    "proto-fixtures",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "src",
    "tests",
];
/// A file ends where its subject ends: this is for one that has grown past that.
const SOURCE_LINES: usize = 900;
/// A test tells a whole story, with its data.
const TEST_LINES: usize = 900;
/// Folders that are handed bytes, times and settings: what they must not import. (Chance, clocks and the environment are clippy's:
/// `.cargo/clippy.toml`.)
const PURE: [&str; 4] = ["wire", "display", "log", "model"];
const IMPURE: [&str; 4] = ["tokio", "std::net", "std::fs", "std::thread"];
/// (`check backup` and `check sidecar` have the flags of what they check.)
const VERBS: [&str; 27] = [
    "standby",
    "promote",
    "sidecar",
    "backup",
    "serve",
    "check-config",
    "status",
    "drill",
    "restore",
    "list",
    "cost",
    "copy",
    "consolidate",
    "merge",
    "verify",
    "expire",
    "hold add",
    "hold list",
    "hold remove",
    "inspect",
    "get",
    "diff",
    "record",
    "replay",
    "fixture info",
    "fixture check",
    "fixture slice",
];

/// Flags that no variable sets: what forces or writes over is meant for one run, and a variable has one meaning for all verbs.
const WITHOUT_VARIABLE: [(&str, &str); 6] = [
    ("restore", "force"),
    ("restore", "replace"),
    ("expire", "confirm"),
    ("record", "to"),
    ("replay", "once"),
    ("fixture slice", "to"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files of the repository, relative to its root: what git knows or would add; outside a checkout, whatever is there.
fn files() -> Vec<String> {
    let git = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(root())
        .output();
    let mut files = match git {
        Ok(listed) if listed.status.success() && !listed.stdout.is_empty() => {
            let names = String::from_utf8(listed.stdout).expect("UTF-8 names");
            let names = names.split('\0').filter(|name| !name.is_empty());
            // Deleted, and not yet committed.
            names
                .filter(|name| root().join(name).exists())
                .map(str::to_owned)
                .collect()
        }
        _ => walk(),
    };
    files.sort();
    assert!(files.iter().any(|file| file == "src/lib.rs"), "{files:?}");
    files
}

fn walk() -> Vec<String> {
    let mut files = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(root().join(&directory)).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = directory.join(entry.file_name());
            if path == Path::new("target") || path == Path::new(".git") {
                continue;
            }
            if entry.file_type().expect("its type").is_dir() {
                left.push(path);
            } else {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files
}

fn rust_files(below: &str) -> Vec<String> {
    let mut files = files();
    files.retain(|file| file.starts_with(below) && file.ends_with(".rs"));
    files
}

/// The module of `lib.rs` that a file belongs to: `src/store/file.rs` → `store`.
fn module_of(file: &str) -> String {
    let inside = file.strip_prefix("src/").expect("below src");
    let first = inside.split('/').next().expect("a part");
    first.trim_end_matches(".rs").to_owned()
}

/// Is the whole file there for tests alone?
fn is_test_file(file: &str) -> bool {
    let name = file.rsplit('/').next().expect("a name");
    let helpers = ["testing.rs", "contract.rs", "samples.rs"];
    name.ends_with("_tests.rs") || helpers.contains(&name)
}

/// The lines of code: no comments, and nothing from the tests at the end on.
fn code(file: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let text = text(file);
    let all: Vec<&str> = text.lines().collect();
    for (index, line) in all.iter().enumerate() {
        let tests_begin = line.trim() == "#[cfg(test)]"
            && all[index..]
                .iter()
                .take(12)
                .any(|next| next.starts_with("mod ") && next.contains("tests"));
        if tests_begin {
            break;
        }
        if !line.trim_start().starts_with("//") {
            lines.push((index + 1, (*line).to_owned()));
        }
    }
    lines
}

/// The table in the header of `lib.rs`: each folder's layer.
fn layers() -> BTreeMap<String, u32> {
    let mut layers = BTreeMap::new();
    for line in text("src/lib.rs").lines() {
        let Some((layer, modules)) = line
            .strip_prefix("//! | L")
            .and_then(|row| row.split_once(" | "))
        else {
            continue;
        };
        let layer = layer.parse().expect("a layer's number");
        for name in modules.split('`').skip(1).step_by(2) {
            let before = layers.insert(name.to_owned(), layer);
            assert_eq!(before, None, "{name} stands twice in the table of lib.rs");
        }
    }
    layers
}

/// The names behind `crate::` (or, in `main.rs`, behind `backfeed::`), groups in braces included.
fn imports(file: &str) -> Vec<(usize, String)> {
    let prefix = if file == "src/main.rs" {
        "backfeed::"
    } else {
        "crate::"
    };
    let mut found = Vec::new();
    for (number, line) in code(file) {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            let group = rest
                .strip_prefix('{')
                .map(|group| group.split('}').next().expect("a group"));
            for name in group.unwrap_or(rest).split(',') {
                let name: String = name
                    .trim()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if !name.is_empty() {
                    found.push((number, name));
                }
                if group.is_none() {
                    break;
                }
            }
        }
    }
    found
}

#[test]
fn imports_go_downward_only() {
    let layers = layers();
    let layer = |module: &str| {
        *layers
            .get(module)
            .unwrap_or_else(|| panic!("`{module}` is missing in the table of lib.rs"))
    };
    let mut wrong = Vec::new();
    let mut beside: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut seen = 0;
    for file in rust_files("src/") {
        if is_test_file(&file) || file == "src/lib.rs" {
            continue;
        }
        let module = module_of(&file);
        for (line, import) in imports(&file) {
            seen += 1;
            if import == module {
                continue;
            }
            if layer(&import) > layer(&module) {
                wrong.push(format!(
                    "{file}:{line}: {module} (L{}) imports {import} (L{})",
                    layer(&module),
                    layer(&import)
                ));
            } else if layer(&import) == layer(&module) {
                beside.entry(module.clone()).or_default().insert(import);
            }
        }
    }
    assert!(seen > 100, "only {seen} imports: are they still found?");
    assert!(
        wrong.is_empty(),
        "imports go downward only:\n{}",
        wrong.join("\n")
    );
    for module in beside.keys() {
        let cycle = cycle(module, &beside);
        assert_eq!(cycle, None, "folders of one layer import each other");
    }
}

/// A way from `start` back to itself.
fn cycle(start: &str, edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut left = vec![vec![start.to_owned()]];
    while let Some(path) = left.pop() {
        let last = path.last().expect("a start");
        for next in edges.get(last).into_iter().flatten() {
            if next == start {
                return Some(path);
            }
            if seen.insert(next.clone()) {
                left.push([path.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

#[test]
fn every_module_of_the_library_has_a_layer() {
    let layers = layers();
    for (_, line) in code("src/lib.rs") {
        let declared = line.strip_prefix("pub mod ").or(line.strip_prefix("mod "));
        if let Some(module) = declared {
            let module = module.trim_end_matches(';');
            assert!(layers.contains_key(module), "{module}");
        }
    }
    for module in layers.keys() {
        let there = [format!("src/{module}.rs"), format!("src/{module}/mod.rs")]
            .iter()
            .any(|file| root().join(file).exists());
        assert!(
            there,
            "the table of lib.rs names `{module}`, which is not there"
        );
    }
}

#[test]
fn pure_folders_know_no_socket_no_file_no_thread() {
    let mut checked = 0;
    for file in rust_files("src/") {
        let module = module_of(&file);
        if !PURE.contains(&module.as_str()) || is_test_file(&file) {
            continue;
        }
        checked += 1;
        for (number, line) in code(&file) {
            for word in IMPURE {
                assert!(!line.contains(word), "{file}:{number}: {word} in {line}");
            }
        }
    }
    assert!(checked >= 10, "{checked}");
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut long = Vec::new();
    for file in files() {
        let limit = match &file {
            file if !file.ends_with(".rs") => continue,
            file if file.starts_with("src/") && !is_test_file(file) => SOURCE_LINES,
            _ => TEST_LINES,
        };
        let lines = text(&file).lines().count();
        if lines > limit {
            long.push(format!("{file} has {lines} lines, and {limit} are allowed"));
        }
    }
    assert!(long.is_empty(), "split them:\n{}", long.join("\n"));
}

#[test]
fn the_top_level_holds_what_was_agreed() {
    for file in files() {
        let entry = file.split('/').next().expect("a part");
        assert!(TOP_LEVEL.contains(&entry), "{file} is a stray");
    }
    for needed in ["README.md", "CHANGELOG.md", "LICENSE", "Cargo.lock", ".ci"] {
        assert!(root().join(needed).exists(), "{needed} is missing");
    }
}

#[test]
fn nothing_is_left_undone() {
    // In halves, as this file is looked at too.
    let words = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X:"),
        concat!("// XX", "X"),
        concat!("#[ig", "nore]"),
        concat!("(being ", "written)"),
        concat!("dbg", "!("),
        concat!("/wo", "rk/"),
    ];
    for file in files() {
        let known = [".rs", ".toml", ".sh", ".md", ".py", "/run"];
        if !known.iter().any(|end| file.ends_with(end)) {
            continue;
        }
        for (number, line) in text(&file).lines().enumerate() {
            for word in words {
                assert!(
                    !line.contains(word),
                    "{file}:{}: {word}: {line}",
                    number + 1
                );
            }
        }
    }
}

/// Places outside of the command line that hold something like a flag, and what it is.
const NO_FLAGS: [(&str, &str, &str); 5] = [
    ("src/restore/mod.rs", "--dir", "a flag of redis-server"),
    (
        "src/restore/mod.rs",
        "--appendonly",
        "a flag of redis-server",
    ),
    ("src/restore/keys/mod.rs", "--pipe", "a flag of redis-cli"),
    (
        "src/sidecar/mod.rs",
        "--replicaof",
        "a flag of redis-server",
    ),
    (
        "src/store/cloud/s3.rs",
        "--x-s3",
        "the end of a bucket's name",
    ),
];

/// Words of a line of code, each from `begin` on, without a comment behind it.
fn words_after<'a>(line: &'a str, begin: &'a str) -> impl Iterator<Item = &'a str> {
    let code = line.split(" // ").next().expect("a part");
    code.match_indices(begin).map(move |(at, _)| {
        let word = &code[at..];
        let rest = &word[begin.len()..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)));
        &word[..begin.len() + end.unwrap_or(rest.len())]
    })
}

/// Layers below the command line name settings (`segment_size`), which are used without a command line as well.
#[test]
fn only_the_command_line_knows_flags() {
    let all: BTreeSet<String> = VERBS
        .into_iter()
        .flat_map(|verb| flags(verb).into_keys())
        .collect();
    let (mut known, mut settings) = (BTreeSet::new(), 0);
    for file in rust_files("src/") {
        // The build script calls git.
        if file.starts_with("src/cli/") || file == "src/build.rs" || is_test_file(&file) {
            continue;
        }
        for (number, line) in code(&file) {
            let at = format!("{file}:{number}: {}", line.trim());
            for word in words_after(&line, "--") {
                if word[2..].starts_with(|c: char| c.is_ascii_lowercase()) {
                    let exception = NO_FLAGS
                        .iter()
                        .position(|(place, flag, _)| *place == file && *flag == word);
                    known.insert(exception.unwrap_or_else(|| {
                        panic!("{at}: name the setting, or a hint in src/cli/exit.rs")
                    }));
                }
            }
            for word in words_after(&line, "`") {
                let setting = &word[1..];
                if setting.contains('_')
                    && setting.starts_with(|c: char| c.is_ascii_lowercase())
                    && setting
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                {
                    assert!(
                        all.contains(&setting.replace('_', "-")),
                        "{at}: no flag sets `{setting}`"
                    );
                    settings += 1;
                }
            }
        }
    }
    assert_eq!(
        known.len(),
        NO_FLAGS.len(),
        "an exception is not needed: {known:?}"
    );
    assert!(
        settings > 20,
        "only {settings} settings: are they still found?"
    );
}

/// The long flags in the help of a verb, each with the lines that belong to it.
fn flags(verb: &str) -> BTreeMap<String, String> {
    let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
    let help = run(&words);
    assert_eq!(help.code, 0, "{help:?}");
    let mut flags: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in help.stdout.lines() {
        let heading = line.starts_with("  -") || line.starts_with("      --");
        if heading && let Some((_, flag)) = line.split_once("--") {
            let name: String = flag
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            current = Some(name);
        }
        if line.starts_with("Exit codes") {
            break;
        }
        if let Some(name) = &current {
            let about = flags.entry(name.clone()).or_default();
            about.push_str(line);
            about.push('\n');
        }
    }
    flags.remove("help");
    flags.remove("version");
    assert!(flags.contains_key("log-format"), "{verb}: {flags:?}");
    flags
}

#[test]
fn every_flag_has_its_environment_variable_and_is_documented() {
    let readme = text("docs/command-line.md");
    let table: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("| `-"))
        .collect();
    let mut all = BTreeSet::new();
    for verb in VERBS {
        for (flag, about) in flags(verb) {
            let variable = format!("BACKFEED_{}", flag.to_uppercase().replace('-', "_"));
            if WITHOUT_VARIABLE.contains(&(verb, flag.as_str())) {
                assert!(!about.contains("[env:"), "{verb} --{flag}:\n{about}");
            } else {
                assert!(
                    about.contains(&format!("[env: {variable}]")),
                    "{verb} --{flag} has no {variable}:\n{about}"
                );
            }
            let row = if flag == "verbose" {
                "`-v`".to_owned()
            } else {
                format!("`--{flag}")
            };
            let row = table.iter().find(|line| {
                let cell = line.split(" | ").next().expect("a cell");
                cell.split(", ").any(|name| {
                    let name = name.trim_start_matches("| ");
                    name.strip_prefix(&row)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['`', ' ']))
                })
            });
            let row = row.unwrap_or_else(|| panic!("docs/command-line.md lacks --{flag}"));
            let verbs = row.split(" | ").nth(1).expect("a cell");
            assert!(
                verbs == "all" || verbs.contains(verb),
                "docs/command-line.md does not say that `{verb}` has --{flag}: {row}"
            );
            all.insert(flag);
        }
    }
    for row in table {
        for name in row.split('`').skip(1).step_by(2) {
            if let Some(flag) = name.strip_prefix("--") {
                let flag = flag.split(' ').next().expect("a name");
                let variable = flag.starts_with("some-name");
                assert!(
                    all.contains(flag) || variable,
                    "docs/command-line.md names --{flag}, which no verb has"
                );
            }
        }
    }
}

/// `- --name=value` is one of ours in the manifests, after the verb; other programs' flags stand there without the `=`.
#[test]
fn the_manifests_name_verbs_and_flags_that_exist() {
    let mut seen = 0;
    for file in files() {
        if !file.starts_with("docker/kubernetes/") && file != "docker/compose.yaml" {
            continue;
        }
        let mut known = BTreeMap::new();
        for (number, line) in text(&file).lines().enumerate() {
            let at = format!("{file}:{}", number + 1);
            let line = line.trim();
            let item = line.strip_prefix("- ").unwrap_or_default();
            if VERBS.contains(&item) {
                known = flags(item);
            } else if let Some((flag, _)) = item
                .strip_prefix("--")
                .and_then(|item| item.split_once('='))
            {
                assert!(known.contains_key(flag), "{at}: no verb before has {line}");
                seen += 1;
            } else if let Some(name) = item.strip_prefix("name: BACKFEED_") {
                let flag = name.to_lowercase().replace('_', "-");
                assert!(
                    known.contains_key(&flag),
                    "{at}: no verb before reads {line}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen >= 20, "only {seen} flags: are they still found?");
}

#[test]
fn documents_and_help_tell_all_exit_codes_alike() {
    let readme = text("docs/command-line.md");
    let rows: BTreeMap<u8, &str> = readme
        .lines()
        .filter_map(|line| {
            let (code, about) = line.strip_prefix("| ")?.split_once(" | ")?;
            Some((code.parse().ok()?, about.trim_end_matches(" |")))
        })
        .collect();
    assert_eq!(
        rows.keys().copied().collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5, 6, 7]
    );
    for verb in VERBS.into_iter().map(Some).chain([None]) {
        let args: Vec<&str> = verb
            .into_iter()
            .flat_map(|verb| verb.split(' '))
            .chain(["--help"])
            .collect();
        let help = run(&args);
        assert_eq!(help.code, 0);
        let (_, codes) = help.stdout.split_once("Exit codes:").expect("exit codes");
        let words: Vec<&str> = codes.split_whitespace().collect();
        let codes = words.join(" ");
        for (code, about) in &rows {
            assert!(
                codes.contains(&format!("{code} {about}")),
                "{verb:?} --help differs from docs/command-line.md in exit code {code}: {about}\n{codes}"
            );
        }
    }
}

/// The headings of a page, as the anchors that links name.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in text(page).lines() {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let known = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        let anchor: String = title.trim().to_lowercase().chars().filter(known).collect();
        anchors.insert(anchor.replace(' ', "-"));
    }
    anchors
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let mut seen = 0;
    for page in files().iter().filter(|file| file.ends_with(".md")) {
        for (number, line) in text(page).lines().enumerate() {
            for (_, rest) in line
                .match_indices("](")
                .map(|(at, _)| line.split_at(at + 2))
            {
                let target = rest.split(')').next().expect("a part");
                if target.contains("://") || target.contains(' ') || target.is_empty() {
                    continue;
                }
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let beside = Path::new(page).parent().expect("a folder");
                let file = match path {
                    "" => PathBuf::from(page),
                    path => beside.join(path),
                };
                let at = format!("{page}:{}: {target}", number + 1);
                assert!(root().join(&file).exists(), "{at}: there is no such file");
                if !anchor.is_empty() {
                    let there = anchors(&file.to_string_lossy());
                    assert!(there.contains(anchor), "{at}: no such heading: {there:?}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "only {seen} links: are they still found?");
}

/// A comment that cites a section of the protocol means one that is there.
#[test]
fn comments_cite_sections_of_the_protocol_that_exist() {
    let page = text("docs/dev/PROTOCOL.md");
    let sections: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .map(|word| word.trim_end_matches('.'))
        .collect();
    let mut seen = 0;
    for file in files().iter().filter(|file| file.ends_with(".rs")) {
        for (number, line) in text(file).lines().enumerate() {
            for (at, name) in line.match_indices(concat!("PROTOCOL", ".md ")) {
                let cited = line[at + name.len()..]
                    .split([' ', ')', ';', ':', ','])
                    .next();
                let cited = cited.expect("a section").trim_end_matches('.');
                let of_page = cited.starts_with(|c: char| c.is_ascii_uppercase() || c == '0');
                assert!(
                    !of_page || sections.contains(cited),
                    "{file}:{}: docs/dev/PROTOCOL.md has no section {cited}",
                    number + 1
                );
                seen += u32::from(of_page);
            }
        }
    }
    assert!(seen > 30, "only {seen} citations: are they still found?");
}
