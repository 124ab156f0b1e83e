//! What a digest does not tell: when keys expire, and the groups of streams.

use redis_protocol::resp2::types::OwnedFrame;

use super::{Found, digests, exists, scan};
use crate::link::control::{Control, ControlError};

/// Of each key: when it expires (Unix milliseconds; -1: never; -2: it is not there), and whether it is a stream. In one call for
/// many keys.
const TIMES: &str = "local r={} for i,k in ipairs(KEYS) do r[#r+1]=redis.call('PEXPIRETIME',k) \
     r[#r+1]=(redis.call('TYPE',k)['ok']=='stream') and 1 or 0 end return r";
/// The same for servers before 7.0. They say how long a key lives.
const LIVES: &str = "local r={} local t=redis.call('TIME') local n=t[1]*1000+math.floor(t[2]/1000) \
     for i,k in ipairs(KEYS) do local p=redis.call('PTTL',k) r[#r+1]=(p<0) and p or n+p \
     r[#r+1]=(redis.call('TYPE',k)['ok']=='stream') and 1 or 0 end return r";
/// A server's own clock is asked for a life that it counts in milliseconds.
const LIFE_TOLERANCE_MS: u64 = 1000;
/// Entries that a server shows of a stream, and pending ones of each of its groups: more would take much memory.
const SHOWN: &str = "1000";
/// What `XINFO STREAM … FULL` says of how a server keeps it, or of when it was asked. `entries` are in the digest.
const PASSING: [&[u8]; 8] = [
    b"radix-tree-keys",
    b"radix-tree-nodes",
    b"seen-time",
    b"active-time",
    b"idle",
    b"inactive",
    b"lag",
    b"entries",
];

/// Compares these of all keys that the first server has in the selected database.
/// `is_same`: all values are.
pub(super) async fn of_database(
    db: u32,
    is_same: bool,
    first: &mut Control,
    second: &mut Control,
    found: &mut Found,
) -> Result<(), ControlError> {
    let mut script = TIMES;
    let mut tolerance = 0;
    let mut cursor = b"0".to_vec();
    loop {
        let (next, keys) = scan(first, &cursor).await?;
        if !keys.is_empty() {
            let mut ours = times(first, script, &keys).await;
            if matches!(ours, Err(ControlError::Reply { .. })) && script == TIMES {
                script = LIVES;
                tolerance = LIFE_TOLERANCE_MS;
                ours = times(first, script, &keys).await;
            }
            let ours = ours?;
            let theirs = times(second, script, &keys).await?;
            for ((key, ours), theirs) in keys.iter().zip(ours).zip(theirs) {
                let expires = (ours.0, theirs.0);
                // Of one that is there on one of both alone, the values tell.
                if let (0.., 0..) = expires
                    && expires.0.abs_diff(expires.1) > tolerance
                    && exists(first, key).await?
                {
                    found.add(db, key, "expires at another time");
                }
                let is_stream = ours.1 && theirs.1;
                // Of one with other entries, the values tell.
                let is_comparable =
                    is_stream && (is_same || has_same_digest(first, second, key).await?);
                if is_comparable
                    && groups(first, key).await? != groups(second, key).await?
                    && exists(first, key).await?
                {
                    found.add(db, key, "has other groups, or another last id");
                }
            }
        }
        if next == b"0" {
            return Ok(());
        }
        cursor = next;
    }
}

async fn has_same_digest(
    first: &mut Control,
    second: &mut Control,
    key: &[u8],
) -> Result<bool, ControlError> {
    let key = [key.to_vec()];
    Ok(digests(first, &key).await? == digests(second, &key).await?)
}

async fn times(
    server: &mut Control,
    script: &str,
    keys: &[Vec<u8>],
) -> Result<Vec<(i64, bool)>, ControlError> {
    let count = keys.len().to_string();
    let mut command: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), count.as_bytes()];
    command.extend(keys.iter().map(Vec::as_slice));
    let OwnedFrame::Array(numbers) = server.call_bytes(&command).await? else {
        return Ok(Vec::new());
    };
    let numbers: Vec<i64> = numbers.into_iter().filter_map(integer).collect();
    let pairs = numbers.chunks_exact(2).filter_map(|pair| match pair {
        [time, is_stream] => Some((*time, *is_stream == 1)),
        _ => None,
    });
    Ok(pairs.collect())
}

fn integer(frame: OwnedFrame) -> Option<i64> {
    match frame {
        OwnedFrame::Integer(number) => Some(number),
        _ => None,
    }
}

/// What a stream is beside its entries. None: it is not there any more.
async fn groups(server: &mut Control, key: &[u8]) -> Result<Option<OwnedFrame>, ControlError> {
    let command: [&[u8]; 6] = [
        b"XINFO",
        b"STREAM",
        key,
        b"FULL",
        b"COUNT",
        SHOWN.as_bytes(),
    ];
    match server.call_bytes(&command).await {
        Ok(frame) => Ok(Some(lasting(frame))),
        Err(ControlError::Reply { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Without what changes by itself: in arrays of names and values.
fn lasting(frame: OwnedFrame) -> OwnedFrame {
    let OwnedFrame::Array(items) = frame else {
        return frame;
    };
    let mut kept = Vec::with_capacity(items.len());
    let mut items = items.into_iter();
    while let Some(item) = items.next() {
        let is_passing = match &item {
            OwnedFrame::BulkString(name) | OwnedFrame::SimpleString(name) => {
                PASSING.contains(&name.as_slice())
            }
            _ => false,
        };
        match is_passing {
            true => {
                items.next();
            }
            false => kept.push(lasting(item)),
        }
    }
    OwnedFrame::Array(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> OwnedFrame {
        OwnedFrame::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_passes_is_left_out_at_every_depth() {
        let consumer = |seen: i64| {
            OwnedFrame::Array(vec![
                text("name"),
                text("c"),
                text("seen-time"),
                OwnedFrame::Integer(seen),
                text("pel-count"),
                OwnedFrame::Integer(2),
            ])
        };
        let stream = |seen: i64, nodes: i64| {
            OwnedFrame::Array(vec![
                text("length"),
                OwnedFrame::Integer(7),
                text("radix-tree-nodes"),
                OwnedFrame::Integer(nodes),
                text("groups"),
                OwnedFrame::Array(vec![consumer(seen)]),
            ])
        };
        assert_eq!(lasting(stream(1, 2)), lasting(stream(3, 4)));
        assert_ne!(lasting(stream(1, 2)), lasting(consumer(1)));
    }
}
