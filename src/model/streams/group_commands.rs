//! The commands on consumer groups: `XGROUP`, `XCLAIM`, `XACK`.

use super::entry_commands::ids;
use super::groups::{Group, UNKNOWN};
use super::id::Id;
use super::{Stream, parse_id, since};
use crate::model::Keyspace;
use crate::model::args::{Args, is_word};
use crate::model::error::ApplyError;

/// `XGROUP CREATE|SETID|DESTROY|CREATECONSUMER|DELCONSUMER key group …`
pub(super) fn xgroup(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let what = args.get(1)?;
    let key = args.get(2)?;
    let name = args.get(3)?;
    if is_word(what, "CREATE") {
        return create(space, args);
    }
    // Servers since Redis 8.6 do not believe that more was read than was ever added.
    let bounded = since(space.dialect(), 13);
    let received = space.received();
    let stream: &mut Stream = space
        .value(args, key)?
        .ok_or_else(|| args.diverged("there is no such key"))?;
    if is_word(what, "DESTROY") {
        stream.groups.0.remove(name);
        return Ok(());
    }
    let (last, added) = (stream.last, stream.added);
    let group = stream.groups.0.get_mut(name);
    let group = group.ok_or_else(|| args.diverged("there is no such group"))?;
    if is_word(what, "SETID") {
        group.last = match args.get(4)? {
            b"$" => last,
            b"-" => Id::MIN,
            b"+" => Id::MAX,
            id => parse_id(args, id)?,
        };
        group.read = GroupOptions::parse(args)?.read(added, bounded);
    } else if is_word(what, "CREATECONSUMER") {
        // The master's clock is not told. What its last entry says comes near.
        let seen = received.unwrap_or(i64::try_from(last.ms).unwrap_or(i64::MAX));
        group.consumer(args.get(4)?, seen);
    } else if is_word(what, "DELCONSUMER") {
        group.remove_consumer(args.get(4)?);
    } else {
        return Err(args.unmodelled("the subcommand is not known"));
    }
    Ok(())
}

/// `XGROUP CREATE key group id|$ [MKSTREAM] [ENTRIESREAD n]`
fn create(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let options = GroupOptions::parse(args)?;
    let bounded = since(space.dialect(), 13);
    let stream = if options.make_stream {
        space.value_or_new::<Stream>(args, args.get(2)?)?
    } else {
        let stream = space.value::<Stream>(args, args.get(2)?)?;
        stream.ok_or_else(|| args.diverged("there is no such key"))?
    };
    let last = match args.get(4)? {
        b"$" => stream.last,
        id => parse_id(args, id)?,
    };
    let group = Group::new(last, options.read(stream.added, bounded));
    match stream.groups.0.insert(args.get(3)?.into(), group) {
        None => Ok(()),
        Some(_) => Err(args.diverged("the group is there already")),
    }
}

/// The options of `XGROUP CREATE` and `XGROUP SETID`.
struct GroupOptions {
    make_stream: bool,
    read: i64,
}

impl GroupOptions {
    fn parse(args: &Args) -> Result<Self, ApplyError> {
        let mut options = Self {
            make_stream: false,
            read: UNKNOWN,
        };
        let mut at = 5;
        while let Some(option) = args.from(at).first() {
            at = at.saturating_add(1);
            if is_word(option, "MKSTREAM") {
                options.make_stream = true;
            } else if is_word(option, "ENTRIESREAD") {
                options.read = args.int(at)?;
                at = at.saturating_add(1);
            } else {
                return Err(args.diverged("its options are not known"));
            }
        }
        Ok(options)
    }

    fn read(&self, added: u64, bounded: bool) -> i64 {
        let most = i64::try_from(added).unwrap_or(i64::MAX);
        if bounded && self.read != UNKNOWN {
            self.read.min(most)
        } else {
            self.read
        }
    }
}

/// `XACK key group id …`
pub(super) fn xack(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let ids = ids(args, args.from(3))?;
    let name = args.get(2)?;
    let stream = space.value::<Stream>(args, args.get(1)?)?;
    if let Some(group) = stream.and_then(|stream| stream.groups.0.get_mut(name)) {
        for id in ids {
            group.acknowledge(id);
        }
    }
    Ok(())
}

/// What `XCLAIM` says after the ids.
#[derive(Clone, Copy, Debug)]
struct Claim {
    /// When the entries were given out.
    delivered: i64,
    count: Option<u64>,
    force: bool,
    just_id: bool,
    last: Id,
    /// They must have been idle.
    idle: bool,
}

impl Claim {
    fn parse(args: &Args, from: usize) -> Result<Self, ApplyError> {
        let mut claim = Self {
            delivered: -1,
            count: None,
            force: false,
            just_id: false,
            last: Id::MIN,
            idle: args.int(4)? > 0,
        };
        let mut at = from;
        while let Some(option) = args.from(at).first() {
            at = at.saturating_add(1);
            if is_word(option, "FORCE") {
                claim.force = true;
                continue;
            } else if is_word(option, "JUSTID") {
                claim.just_id = true;
                continue;
            }
            if is_word(option, "TIME") {
                claim.delivered = args.int(at)?;
            } else if is_word(option, "RETRYCOUNT") {
                claim.count = u64::try_from(args.int(at)?).ok();
            } else if is_word(option, "LASTID") {
                claim.last = parse_id(args, args.get(at)?)?;
            } else if is_word(option, "IDLE") {
                return Err(args.unmodelled("the time of the delivery is relative"));
            } else {
                return Err(args.diverged("its options are not known"));
            }
            at = at.saturating_add(1);
        }
        if claim.delivered < 0 {
            return Err(args.unmodelled("the time of the delivery is not told"));
        }
        Ok(claim)
    }
}

/// `XCLAIM key group consumer 0 id … TIME ms RETRYCOUNT n FORCE JUSTID LASTID id`: what a master makes of its own
/// `XCLAIM`, of `XAUTOCLAIM` and of `XREADGROUP`.
///
/// A replica uses its own clock for the times when a consumer was last seen and active. Here they are the time when the
/// command was received, if that is known, else the time of the delivery. They are information only; nothing depends on
/// them.
pub(super) fn xclaim(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let ids: Vec<Id> = args
        .from(5)
        .iter()
        .map_while(|arg| Id::parse(arg))
        .collect();
    let claim = Claim::parse(args, ids.len().saturating_add(5))?;
    let now = space.received();
    // Since Redis 7.0 entries that were deleted are pending no longer once they are claimed; since 7.2 the consumer is
    // made even if there is nothing for it.
    let (drops_deleted, makes_consumer) = (since(space.dialect(), 10), since(space.dialect(), 11));
    let (name, consumer) = (args.get(2)?, args.get(3)?);
    let stream = space.value::<Stream>(args, args.get(1)?)?;
    let Some(Stream {
        entries, groups, ..
    }) = stream
    else {
        return Err(args.diverged("there is no such key"));
    };
    let group = groups.0.get_mut(name);
    let group = group.ok_or_else(|| args.diverged("there is no such group"))?;
    group.last = group.last.max(claim.last);
    if makes_consumer {
        see(group, consumer, now, &claim, false);
    }
    for id in ids {
        let pending = group.pending.contains_key(&id);
        let there = entries.contains(id);
        if !there && drops_deleted {
            group.acknowledge(id);
            continue;
        }
        if !(pending || claim.force && there) {
            continue;
        }
        if pending && claim.idle {
            return Err(args.unmodelled("how long an entry was idle depends on the master's clock"));
        }
        let owner = see(group, consumer, now, &claim, true);
        group.give(id, owner, claim.delivered, |before| {
            match (claim.count, before) {
                (Some(count), _) => count,
                (None, before) if claim.just_id => before.unwrap_or(1),
                (None, before) => before.unwrap_or(1).saturating_add(1),
            }
        });
    }
    Ok(())
}

/// The consumer is seen now, and active if it is given something.
fn see(group: &mut Group, name: &[u8], now: Option<i64>, claim: &Claim, active: bool) -> u64 {
    let owner = group.consumer(name, claim.delivered);
    if let Some(consumer) = group.consumer_mut(owner) {
        consumer.seen = now.unwrap_or_else(|| consumer.seen.max(claim.delivered));
        if active {
            consumer.active = now.unwrap_or_else(|| consumer.active.max(claim.delivered));
        }
    }
    owner
}
