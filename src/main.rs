//! The `backfeed` command: parses, builds the runtime, and turns the outcome into an exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use backfeed::cli;
use backfeed::cli::{Cli, Exit, Failure};
use backfeed::monitoring::logging::{LogFormat, has_colour};
use backfeed::recovery::BLOCKING_READERS;

/// Memory that is free goes back to the system within some seconds. glibc keeps it: a base's keys lie among what lives
/// longer, and each thread has an arena of its own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One thread for the feed and one for all else, such as `/healthz` while a chunk is compressed. Many sources have as many as
/// there are cores.
const WORKERS: usize = 2;
/// File and name look-ups. Each costs a stack, so not tokio's 512.
const BLOCKING_THREADS: usize = 8;
/// With many sources: some of them may wait for a disk that hangs.
const BLOCKING_THREADS_OF_MANY: usize = 64;
// Those that a restore holds to its end, and one to read what they wait for.
const _: () = assert!(BLOCKING_THREADS > BLOCKING_READERS);

fn main() -> ExitCode {
    cli::prepare();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    let log_format = cli.log_format();
    match run(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            let failure = error.downcast_ref::<Failure>();
            report(
                log_format,
                &format!("{error:#}"),
                failure.and_then(Failure::hint),
            );
            failure.map_or(Exit::Error, Failure::exit).into()
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let (workers, blocking) = match cli.has_many_sources() {
        true => {
            let cores = std::thread::available_parallelism().map_or(WORKERS, usize::from);
            (cores.max(WORKERS), BLOCKING_THREADS_OF_MANY)
        }
        false => (WORKERS, BLOCKING_THREADS),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(blocking)
        .thread_stack_size(backfeed::runtime::STACK)
        .enable_all()
        .build()
        .context("cannot start the threads of the runtime")?;
    let outcome = runtime.block_on(cli::run(cli));
    // A file operation that hangs must not hold up the end.
    runtime.shutdown_background();
    Ok(outcome?)
}

/// `--help` and `--version` too come this way.
fn refuse(refused: &cli::Refused) -> ExitCode {
    let (page, colour) = if refused.is_error() {
        (
            &mut std::io::stderr() as &mut dyn Write,
            has_colour(std::io::stderr().is_terminal()),
        )
    } else {
        (
            &mut std::io::stdout() as &mut dyn Write,
            has_colour(std::io::stdout().is_terminal()),
        )
    };
    // A reader that has gone away needs no text.
    let _ = page.write_all(refused.text(colour).as_bytes());
    if refused.is_error() {
        Exit::Usage.into()
    } else {
        Exit::Ok.into()
    }
}

/// `hint`: the flag that may help.
fn report(log_format: LogFormat, error: &str, hint: Option<&str>) {
    match log_format {
        LogFormat::Json => tracing::error!(hint, "{error}"),
        LogFormat::Text => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            if let Some(hint) = hint {
                let _ = writeln!(std::io::stderr(), "  try: {hint}");
            }
        }
    }
}
