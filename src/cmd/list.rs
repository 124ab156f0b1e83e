//! `backfeed list`: what the store holds.

use super::{Exit, Failure, flags};

/// Show the histories in a store, their bases, and the stretch of time and offsets that each can restore
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// Print JSON
    #[arg(long, env = "BACKFEED_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    Err(Failure::new(
        Exit::Error,
        format_args!("list: not wired ({})", args.store.store),
    ))
}
