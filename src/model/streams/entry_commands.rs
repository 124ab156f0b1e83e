//! The commands on entries: `XADD`, `XTRIM`, `XDEL` and their kin, and `XSETID`, `XCFGSET`, `XIDMPRECORD`.

use super::groups::Groups;
use super::id::{Id, NewId};
use super::idempotence::automatic_id;
use super::nodes::{Bound, ENTRY_BYTES, Field};
use super::{Stream, parse_id};
use crate::model::Keyspace;
use crate::model::args::{Args, is_word};
use crate::model::error::ApplyError;

/// What happens to the references that groups hold to an entry that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum References {
    /// They stay.
    #[default]
    Keep,
    /// They go, too.
    Delete,
    /// The entry is deleted only if no group needs it any longer.
    Respect,
}

/// How trimming is asked for.
#[derive(Clone, Copy, Debug)]
struct Trim {
    bound: Bound,
    /// Only whole nodes may be removed.
    approximate: bool,
}

/// The producer, and the id that it has given the entry, if it has.
#[derive(Clone, Copy, Debug)]
struct Sender<'a> {
    producer: &'a [u8],
    sent: Option<&'a [u8]>,
}

/// The options of `XADD` and `XTRIM`.
#[derive(Clone, Copy, Debug, Default)]
struct Options<'a> {
    trim: Option<Trim>,
    references: References,
    only_existing: bool,
    sender: Option<Sender<'a>>,
    /// The first argument that is none of them.
    end: usize,
}

impl References {
    fn parse(arg: &[u8]) -> Option<Self> {
        let words = [
            ("KEEPREF", Self::Keep),
            ("DELREF", Self::Delete),
            ("ACKED", Self::Respect),
        ];
        words
            .into_iter()
            .find(|(word, _)| is_word(arg, word))
            .map(|(_, references)| references)
    }

    /// Before an entry is deleted. False: it has to stay.
    fn settle(self, groups: &mut Groups, id: Id) -> bool {
        match self {
            Self::Keep => true,
            Self::Delete => {
                groups.forget(id);
                true
            }
            Self::Respect => !groups.need(id),
        }
    }
}

impl<'a> Options<'a> {
    /// Reads them from argument 2 on.
    fn parse(args: &Args<'a>) -> Result<Self, ApplyError> {
        let mut options = Self {
            end: 2,
            ..Self::default()
        };
        while let Some(option) = args.from(options.end).first() {
            let at = options.end;
            let argument = |offset: usize| args.get(at.saturating_add(offset));
            let taken = if is_word(option, "MAXLEN") || is_word(option, "MINID") {
                let how = argument(1)?;
                let approximate = how == b"~";
                let taken: usize = if approximate || how == b"=" { 3 } else { 2 };
                let to = argument(taken.saturating_sub(1))?;
                let bound = if is_word(option, "MAXLEN") {
                    let length = u64::try_from(args.parse_int(to)?);
                    Bound::Length(length.map_err(|_| args.diverged("a length is negative"))?)
                } else {
                    Bound::Before(parse_id(args, to)?)
                };
                options.trim = Some(Trim { bound, approximate });
                taken
            } else if is_word(option, "LIMIT") {
                // It was heeded on the master, which gives the bound that it came to.
                2
            } else if let Some(references) = References::parse(option) {
                options.references = references;
                1
            } else if is_word(option, "NOMKSTREAM") {
                options.only_existing = true;
                1
            } else if is_word(option, "IDMP") {
                let (producer, sent) = (argument(1)?, Some(argument(2)?));
                options.sender = Some(Sender { producer, sent });
                3
            } else if is_word(option, "IDMPAUTO") {
                let (producer, sent) = (argument(1)?, None);
                options.sender = Some(Sender { producer, sent });
                2
            } else {
                break;
            };
            options.end = at.saturating_add(taken);
        }
        Ok(options)
    }
}

impl Stream {
    /// Trims as asked for.
    fn trim(&mut self, args: &Args, options: &Options) -> Result<(), ApplyError> {
        let Some(trim) = options.trim else {
            return Ok(());
        };
        if trim.approximate && self.entries.reach_beyond(trim.bound) {
            return Err(args.unmodelled("how far it trims (~) depends on the master's settings"));
        }
        let Self {
            entries, groups, ..
        } = self;
        let all = options.references == References::Keep;
        let may = &mut |id| options.references.settle(groups, id);
        if entries.trim(trim.bound, all, may) {
            self.find_first();
        }
        self.check_length(args)
    }

    /// A stream whose length says that it has entries, but that has none, can be in the memory of a server, but cannot
    /// be loaded.
    fn check_length(&self, args: &Args) -> Result<(), ApplyError> {
        if self.entries.len() > 0 && self.entries.has_no_nodes() {
            return Err(args.unmodelled(
                "the stream says to have entries, and the last one is gone: no server loads such a stream",
            ));
        }
        Ok(())
    }

    /// Deletes an entry, if there is one.
    fn delete(&mut self, args: &Args, id: Id) -> Result<(), ApplyError> {
        if self.entries.delete(id) {
            self.max_deleted = self.max_deleted.max(id);
            if id == self.first {
                self.find_first();
            }
        }
        self.check_length(args)
    }
}

/// `XADD key [options] id field value …`. The id is the one that the master has given it.
pub(super) fn xadd(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let key = args.get(1)?;
    let options = Options::parse(args)?;
    if options.only_existing && space.entry(key)?.is_none() {
        return Ok(());
    }
    let id = args.get(options.end)?;
    let id = NewId::parse(id).ok_or_else(|| args.diverged("an argument is no id"))?;
    let fields: Vec<Field> = args.pairs(options.end.saturating_add(1))?.collect();
    if fields.is_empty() {
        return Err(args.diverged("the entry has no fields"));
    }
    let bytes = fields
        .iter()
        .map(|(field, value)| field.len().saturating_add(value.len()));
    if bytes.fold(0, usize::saturating_add) > ENTRY_BYTES {
        return Err(args.diverged("the entry is longer than a server takes"));
    }

    if id == NewId::Any {
        return came_again(space, args, &options);
    }
    let stream: &mut Stream = space.value_or_new(args, key)?;
    let id = match id {
        NewId::Is(id) => Some(id),
        NewId::In(ms) if ms == stream.last.ms => {
            stream.last.seq.checked_add(1).map(|seq| Id { ms, seq })
        }
        NewId::In(ms) => Some(Id { ms, seq: 0 }),
        NewId::Any => None,
    };
    let id = id
        .filter(|id| *id > stream.last)
        .ok_or_else(|| args.diverged("its id is not above the stream's last one"))?;
    stream.entries.append(id, &fields);
    stream.added = stream.added.saturating_add(1);
    stream.last = id;
    if stream.entries.len() == 1 {
        stream.first = id;
    }
    if let Some(sender) = options.sender {
        match sender.sent {
            Some(sent) => stream.idempotence.record(sender.producer, sent, id),
            None => {
                let sent = automatic_id(&fields);
                stream.idempotence.record(sender.producer, &sent, id);
            }
        }
    }
    stream.trim(args, &options)
}

/// A master leaves the id `*` unchanged when it does not add the entry, because the entry had come before.
fn came_again(space: &mut Keyspace, args: &Args, options: &Options) -> Result<(), ApplyError> {
    if options.sender.is_none() {
        return Err(args.unmodelled("which id the master has given the entry is not told"));
    }
    let stream: &mut Stream = space
        .value(args, args.get(1)?)?
        .ok_or_else(|| args.diverged("an entry comes again in a stream that is not there"))?;
    stream.idempotence.duplicate();
    Ok(())
}

/// `XTRIM key MAXLEN|MINID [=] bound [LIMIT n] [KEEPREF|DELREF|ACKED]`
pub(super) fn xtrim(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let options = Options::parse(args)?;
    if options.end < args.len() || options.trim.is_none() {
        return Err(args.diverged("its options are not known"));
    }
    match space.value::<Stream>(args, args.get(1)?)? {
        Some(stream) => stream.trim(args, &options),
        None => Ok(()),
    }
}

/// `XDEL key id …`
pub(super) fn xdel(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let ids = ids(args, args.from(2))?;
    if let Some(stream) = space.value::<Stream>(args, args.get(1)?)? {
        for id in ids {
            stream.delete(args, id)?;
        }
    }
    Ok(())
}

/// `XDELEX key [KEEPREF|DELREF|ACKED] IDS n id …`
pub(super) fn xdelex(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (references, ids) = references_and_ids(args, 2)?;
    if let Some(stream) = space.value::<Stream>(args, args.get(1)?)? {
        for id in ids {
            if references.settle(&mut stream.groups, id) {
                stream.delete(args, id)?;
            }
        }
    }
    Ok(())
}

/// `XACKDEL key group [KEEPREF|DELREF|ACKED] IDS n id …`
pub(super) fn xackdel(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (references, ids) = references_and_ids(args, 3)?;
    let name = args.get(2)?;
    let Some(stream) = space.value::<Stream>(args, args.get(1)?)? else {
        return Ok(());
    };
    for id in ids {
        let Some(group) = stream.groups.0.get_mut(name) else {
            return Ok(());
        };
        if group.acknowledge(id) && references.settle(&mut stream.groups, id) {
            stream.delete(args, id)?;
        }
    }
    Ok(())
}

/// `[KEEPREF|DELREF|ACKED] IDS n id …`, in any order.
fn references_and_ids(args: &Args, from: usize) -> Result<(References, Vec<Id>), ApplyError> {
    let mut references = References::default();
    let mut found = None;
    let mut at = from;
    while let Some(option) = args.from(at).first() {
        if let Some(given) = References::parse(option) {
            references = given;
            at = at.saturating_add(1);
        } else if is_word(option, "IDS") {
            let count = args.count(at.saturating_add(1))?;
            let listed = args.from(at.saturating_add(2)).get(..count);
            let listed = listed.ok_or_else(|| args.diverged("it has fewer ids than it says"))?;
            found = Some(ids(args, listed)?);
            at = at.saturating_add(2).saturating_add(count);
        } else {
            return Err(args.diverged("its options are not known"));
        }
    }
    let found = found.ok_or_else(|| args.diverged("it has no ids"))?;
    Ok((references, found))
}

pub(super) fn ids(args: &Args, listed: &[&[u8]]) -> Result<Vec<Id>, ApplyError> {
    listed.iter().map(|arg| parse_id(args, arg)).collect()
}

/// `XSETID key id [ENTRIESADDED n] [MAXDELETEDID id]`
pub(super) fn xsetid(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let last = parse_id(args, args.get(2)?)?;
    let stream: &mut Stream = space
        .value(args, args.get(1)?)?
        .ok_or_else(|| args.diverged("there is no such key"))?;
    if stream.entries.last().is_some_and(|top| last < top) {
        return Err(args.diverged("the id is below the last entry's"));
    }
    for (option, value) in args.pairs(3)? {
        if is_word(option, "ENTRIESADDED") {
            let added = u64::try_from(args.parse_int(value)?);
            stream.added = added.map_err(|_| args.diverged("a count is negative"))?;
        } else if is_word(option, "MAXDELETEDID") {
            let deleted = parse_id(args, value)?;
            if deleted != Id::MIN {
                stream.max_deleted = deleted;
            }
        } else {
            return Err(args.diverged("its options are not known"));
        }
    }
    stream.last = last;
    Ok(())
}

/// `XCFGSET key [IDMP-DURATION seconds] [IDMP-MAXSIZE n]`
pub(super) fn xcfgset(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (mut duration, mut size) = (None, None);
    for (option, value) in args.pairs(2)? {
        let value = u64::try_from(args.parse_int(value)?);
        let value = value.map_err(|_| args.diverged("a number is negative"))?;
        if is_word(option, "IDMP-DURATION") {
            duration = Some(value);
        } else if is_word(option, "IDMP-MAXSIZE") {
            size = Some(value);
        } else {
            return Err(args.diverged("its options are not known"));
        }
    }
    let stream: &mut Stream = space
        .value(args, args.get(1)?)?
        .ok_or_else(|| args.diverged("there is no such key"))?;
    if stream.idempotence.configure(duration, size) {
        Ok(())
    } else {
        Err(args.diverged("a number is out of range"))
    }
}

/// `XIDMPRECORD key producer id-of-the-producer id`: as if the entry had been added with `IDMP`.
pub(super) fn xidmprecord(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (producer, sent) = (args.get(2)?, args.get(3)?);
    let id = parse_id(args, args.get(4)?)?;
    let stream: &mut Stream = space
        .value(args, args.get(1)?)?
        .ok_or_else(|| args.diverged("there is no such key"))?;
    if !stream.entries.contains(id) {
        return Err(args.diverged("there is no such entry"));
    }
    stream.idempotence.record(producer, sent, id);
    Ok(())
}
