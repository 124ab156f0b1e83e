//! `backfeed completions` and `backfeed man`: what shells and `man` know of the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::{Exit, Failure, command, print};

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  backfeed completions bash >/etc/bash_completion.d/backfeed
  backfeed completions zsh >/usr/local/share/zsh/site-functions/_backfeed
  backfeed completions fish >~/.config/fish/completions/backfeed.fish";

/// Print the manual page, or write those of all verbs to a directory
#[derive(Debug, clap::Args)]
#[command(after_help = MAN_EXAMPLES)]
pub(super) struct Man {
    /// Write backfeed.1, backfeed-restore.1 and so on to this directory, which is created [default: print backfeed.1]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

const MAN_EXAMPLES: &str = "\
Examples:
  backfeed man | man -l -
  backfeed man /usr/local/share/man/man1";

/// A page is for everybody, whatever this process may let others read.
const PAGE_MODE: u32 = 0o644;

pub(super) fn completions(args: &Completions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "backfeed", &mut text);
    print(&String::from_utf8_lossy(&text))
}

pub(super) fn man(args: &Man) -> Result<(), Failure> {
    let Some(dir) = &args.dir else {
        let page = page(&documented());
        return print(&String::from_utf8_lossy(
            &page.map_err(|error| Failure::new(Exit::Error, error))?,
        ));
    };
    write_pages(dir).map_err(|error| {
        let message = format!("cannot write manual pages to {}: {error}", dir.display());
        Failure::new(Exit::Error, message)
    })
}

/// The command line, with the names of the verbs' pages.
fn documented() -> clap::Command {
    let mut command = command()
        .version(super::version::NUMBER)
        .disable_help_subcommand(true);
    command.build();
    command
}

fn page(command: &clap::Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

fn write_pages(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut left = vec![documented()];
    while let Some(next) = left.pop() {
        let name = next.get_display_name().unwrap_or_else(|| next.get_name());
        let path = dir.join(format!("{name}.1"));
        fs::write(&path, page(&next)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(PAGE_MODE))?;
        let verbs = next.get_subcommands();
        left.extend(verbs.filter(|verb| verb.get_name() != "help").cloned());
    }
    Ok(())
}
