//! Tells the program which commit it is built from: `BACKFEED_COMMIT` if that is set (where there is no checkout, as in an image),
//! else what git says. One commit gives one program: no time, no name of a machine.

#![allow(clippy::disallowed_methods)] // a build script gets its input from its environment

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=BACKFEED_COMMIT");
    println!("cargo::rustc-env=BUILD_COMMIT={}", commit());
}

fn commit() -> String {
    if let Ok(commit) = env::var("BACKFEED_COMMIT")
        && !commit.is_empty()
        && commit.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return format!("commit {commit}");
    }
    // A build for development would be made again with each commit.
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return "development build".to_owned();
    }
    of_git().unwrap_or_else(|| "commit unknown".to_owned())
}

fn of_git() -> Option<String> {
    // The checkout of this package, not one that it lies in.
    let tracked = git(&["ls-files", "src/build.rs"])?;
    if tracked != "src/build.rs" {
        return None;
    }
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["HEAD", "packed-refs"] {
        watch(name);
    }
    if let Some(branch) = git(&["symbolic-ref", "HEAD"]) {
        watch(&branch);
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // Only what the build reads: a file beside it makes no other program.
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        "src",
        "Cargo.toml",
        "Cargo.lock",
    ])?;
    let changed = if changed.is_empty() {
        ""
    } else {
        ", with changes"
    };
    Some(format!("commit {commit}{changed}"))
}

/// Builds again when that file of git changes. One that is not there would make it build again each time.
fn watch(name: &str) {
    if let Some(path) = git(&["rev-parse", "--git-path", name])
        && std::path::Path::new(&path).exists()
    {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What it prints; none if there is no git, or no checkout.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
