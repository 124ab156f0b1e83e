//! The feed: who only looks for boundaries, and who reads whole commands, must see the same commands.

use std::convert::Infallible;

use backfeed::model::expiry;
use backfeed::wire::position::{Boundary, Offset};
use backfeed::wire::resp::commands::{CommandReader, CommandsError, Then};
use backfeed::wire::resp::{FeedScanner, HEAD_ARG_BYTES, HEAD_ARGS, encode_command};
use bytes::Bytes;

use super::choice;

const FROM: u64 = 1000;

/// A command: the offsets around it, and its arguments.
type Seen = (u64, u64, Vec<Vec<u8>>);
/// The same, with the number of arguments, and of these the first bytes of the first few.
type Scanned = (u64, u64, u64, Vec<Vec<u8>>);

fn read(bytes: &[u8], size: usize) -> (Vec<Seen>, Result<bool, String>) {
    let mut reader = CommandReader::new(Offset(FROM), 1 << 24);
    let mut seen = Vec::new();
    for chunk in bytes.chunks(size) {
        let pushed = reader.push(chunk, |whole| {
            let argv = whole.argv.iter().map(|arg| arg.to_vec()).collect();
            seen.push((whole.start.0, whole.end.0, argv));
            Ok::<Then, Infallible>(Then::GoOn)
        });
        match pushed {
            Ok(taken) => assert_eq!(taken, chunk.len()),
            Err(CommandsError::Feed(error)) => return (seen, Err(error.to_string())),
            Err(error) => panic!("{error}"),
        }
    }
    (seen, Ok(reader.within_command()))
}

/// The same by the scanner, arguments cut as it cuts them; and where it stands in the end.
fn scan(bytes: &[u8], size: usize) -> (Vec<Scanned>, Result<(), String>) {
    let mut scanner = FeedScanner::new(Boundary {
        offset: Offset(FROM),
        db: 0,
    });
    let mut seen = Vec::new();
    for chunk in bytes.chunks(size) {
        let scanned = scanner.scan(chunk, |command| {
            let head = (0..HEAD_ARGS).map_while(|index| command.head.arg(index));
            let head = head.map(<[u8]>::to_vec).collect();
            seen.push((command.start.0, command.end.0, command.head.argc(), head));
            let _ = expiry::is_relative(command.head);
        });
        if let Err(error) = scanned {
            return (seen, Err(error.to_string()));
        }
    }
    assert_eq!(scanner.offset().0, FROM + bytes.len() as u64);
    (seen, Ok(()))
}

pub fn check(data: &[u8]) {
    let Some((choice, bytes)) = choice(data) else {
        return;
    };
    let size = usize::from(choice) + 1;
    let (read_whole, reader) = read(bytes, bytes.len().max(1));
    let (read_pieces, reader_of_pieces) = read(bytes, size);
    assert_eq!(read_whole, read_pieces);
    assert_eq!(reader, reader_of_pieces);
    let (scanned, scanner) = scan(bytes, size);
    assert_eq!(
        scan(bytes, bytes.len().max(1)),
        (scanned.clone(), scanner.clone())
    );
    // Which database `SELECT` means, the scanner has to know, and the reader leaves to others.
    let ends_at_select = scanner
        .as_ref()
        .is_err_and(|error| error.contains("SELECT"));
    let heads: Vec<_> = read_whole
        .iter()
        .map(|(start, end, argv)| {
            let head = argv.iter().take(HEAD_ARGS);
            let head = head.map(|arg| arg[..arg.len().min(HEAD_ARG_BYTES)].to_vec());
            (*start, *end, argv.len() as u64, head.collect())
        })
        .collect();
    if ends_at_select {
        assert!(heads.starts_with(&scanned));
    } else {
        assert_eq!(heads, scanned);
        match (&reader, &scanner) {
            // The scanner sees at once that a number is too large, the reader at the end of the line.
            (Ok(within), Err(error)) => assert!(within, "{error}"),
            (Err(error), Ok(())) => panic!("the scanner took it: {error}"),
            _ => {}
        }
    }
    for (start, end, argv) in &read_whole {
        assert!(start < end);
        let args: Vec<Bytes> = argv.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
        if expiry::rewrite(&args, 1_700_000_000_000).is_some() {
            assert!(expiry::may_need_rewrite(&args[0], args.len()), "{args:?}");
        }
        // Written by ourselves, it is the same command again.
        let argv: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        let mut encoded = Vec::new();
        encode_command(&argv, &mut encoded);
        let (again, _) = read(&encoded, encoded.len());
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].2, argv);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let commands: [&[&[u8]]; 12] = [
        &[b"SELECT", b"3"],
        &[b"PING"],
        &[b"SET", b"k", b"", b"EX", b"10"],
        &[b"MULTI"],
        &[b"EXEC"],
        &[b"REPLCONF", b"GETACK", b"*"],
        &[b"GETEX", b"k", b"PX", b"5"],
        &[b"SETEX", b"k", b"7", b"v"],
        &[b"RESTORE", b"k", b"5", b"payload", b"REPLACE"],
        &[b"PEXPIRE", b"k", b"-9223372036854775808"],
        &[
            b"MSET",
            &[0xFF; 70],
            b"\r\n",
            b"c",
            b"d",
            b"e",
            b"f",
            b"g",
            b"h",
            b"i",
        ],
        &[
            b"XCLAIM", b"$1\r\n", b"*1\r\n", b"", b"", b"", b"", b"", b"", b"", b"",
        ],
    ];
    let mut all = vec![6];
    let mut seeds = Vec::new();
    for argv in commands {
        let mut one = vec![2];
        encode_command(argv, &mut one);
        all.extend_from_slice(&one[1..]);
        all.push(b'\n');
        seeds.push(one);
    }
    seeds.push(all);
    seeds.push(b"\x03*00000000000000000000000001\r\n$4\r\nPING\r\n".to_vec());
    seeds
}
