//! `backfeed replay`: a fixture as a master.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Exit, Failure, flags, print};
use crate::config::parse_addr;
use crate::fixture::{self, Cut, Fault, Options, Pace, Replay};

const EXAMPLES: &str = "\
Examples:
  backfeed replay fixtures/my-case --listen 127.0.0.1:6400
  backfeed replay fixtures/my-case --listen 127.0.0.1:6400 --cut-at +1024 --once";

/// Play a fixture to any replica that connects, as its master
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    /// The fixture: its directory, or its recording
    #[arg(value_name = "FIXTURE")]
    fixture: PathBuf,

    /// Where replicas find it. Every client that connects is served: no password, no TLS. (Port 0: a free one, which is printed)
    #[arg(long, env = "BACKFEED_LISTEN", value_name = "ADDR:PORT", value_parser = parse_addr, help_heading = flags::REQUIRED)]
    listen: SocketAddr,

    /// How fast: `recorded`, `fast`, or so many times as fast as recorded, such as 10x
    #[arg(
        long,
        env = "BACKFEED_PACE",
        value_name = "recorded|fast|N×",
        default_value = "fast"
    )]
    pace: Pace,

    /// Cut the link once after this OFFSET, after +BYTES of the feed, or payload:BYTES of the snapshot; several with commas
    #[arg(
        long,
        env = "BACKFEED_CUT_AT",
        value_name = "WHERE",
        value_delimiter = ','
    )]
    cut_at: Vec<Cut>,

    /// What goes wrong: stall:MS, split, coalesce, loading[:N], repeat[:N], reorder[:N], disk, eof, eof-split, keepalives[:N],
    /// other-id, new-id-after-cut, full-sync-after-cut; several with commas
    #[arg(
        long,
        env = "BACKFEED_FAULT",
        value_name = "FAULT",
        value_delimiter = ','
    )]
    fault: Vec<Fault>,

    /// Seed of the faults: the same number makes the same choices
    #[arg(long, env = "BACKFEED_SEED", value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Exit when a replica has acknowledged everything
    // No variable: BACKFEED_ONCE is about a full sync.
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let recording = fixture::load(&args.fixture)?;
    let options = Options {
        pace: args.pace,
        cuts: args.cut_at,
        faults: args.fault,
        seed: args.seed,
    };
    let path = args.fixture.display();
    let replay = Replay::new(&recording, options)
        .map_err(|error| Failure::new(Exit::Damaged, format_args!("{path}: {error}")))?;
    let (base, end) = (replay.transcript().base, replay.transcript().end());
    let listen = args.listen;
    let server = replay.listen(listen).await.map_err(|error| {
        let why =
            format_args!("cannot listen on {listen}: {error}. Choose another address for --listen");
        Failure::new(Exit::Error, why)
    })?;
    print(&format!(
        "replaying {path} on {}: offsets {} to {end} of {}\n",
        server.address(),
        base.offset,
        base.history
    ))?;
    if args.once {
        server.run_once().await;
    } else {
        server.run().await;
    }
    Ok(())
}
