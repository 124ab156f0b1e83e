//! How much was seen in a run.

/// How much was seen, so that a simulation that simulates nothing shows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) acknowledgements: u64,
    /// Of what is not stored, as it is idle traffic alone.
    pub(crate) idle_acknowledgements: u64,
    /// Snapshots that a server counted a replica for before they were stored.
    pub(crate) counted_early: u64,
    pub(crate) segments: u64,
    pub(crate) spans: u64,
    pub(crate) bases: u64,
    pub(crate) consolidated: u64,
    pub(crate) seals: u64,
    pub(crate) histories: u64,
    pub(crate) full_syncs: u64,
    pub(crate) partial_syncs: u64,
    pub(crate) taken: u64,
    pub(crate) restores: u64,
    pub(crate) kills: u64,
    pub(crate) takeovers: u64,
    /// Of those who take over, for another one.
    pub(crate) waits: u64,
    pub(crate) overridden: u64,
    /// Servers that were restored and promoted, and another one goes on.
    pub(crate) in_vain: u64,
    pub(crate) shutdowns: u64,
    pub(crate) spooled: u64,
    /// Restarts from an RDB file that others may have begun with too.
    pub(crate) crashes: u64,
    /// Snapshots of a machine's memory that were gone back to.
    pub(crate) set_back: u64,
    /// Histories under a key of the program's own.
    pub(crate) own_keys: u64,
    /// The latest was there to be told, and right.
    pub(crate) latest: u64,
    /// Clocks that were set, wrong or right.
    pub(crate) jumps: u64,
    /// Segments that say that a clock went back.
    pub(crate) clock_back: u64,
    /// Times that led to what was there then.
    pub(crate) times: u64,
    /// Times that a clock went back over.
    pub(crate) times_refused: u64,
    /// Servers that a sidecar has restored and opened.
    pub(crate) restored: u64,
    /// Servers that a sidecar has opened as they were.
    pub(crate) kept: u64,
    /// Stores that a sidecar has begun, with an empty history.
    pub(crate) begun: u64,
    /// Restarts from the same RDB file as before.
    pub(crate) twofold: u64,
    /// Sidecars that ended as another one has restored its server.
    pub(crate) yielded: u64,
    /// Sidecars that ended as their server's history goes on in another.
    pub(crate) superseded: u64,
    /// Servers that did not hold what they were given, and were not opened.
    pub(crate) unproved: u64,
    /// Servers that came up with something of their own, and enough of it.
    pub(crate) replaced: u64,
    /// Servers that came up with one key where there were many.
    pub(crate) tiny: u64,
    /// Servers that an operator had to decide about.
    pub(crate) decided: u64,
    /// Objects of logs that were deleted.
    pub(crate) freed: u64,
    /// Objects of logs that were deleted because spans have them.
    pub(crate) merged_freed: u64,
    /// Spans that the store damaged.
    pub(crate) spans_damaged: u64,
    /// Spans that were withdrawn.
    pub(crate) spans_withdrawn: u64,
    /// Spans that were deleted.
    pub(crate) spans_freed: u64,
    /// Spans that were damaged in a copy of the store, whose segments still stood.
    pub(crate) spoilt: u64,
    /// Runs of expiry that came to their end.
    pub(crate) expiries: u64,
    /// Floors.
    pub(crate) floors: u64,
    /// Floors of which it was looked at which bases stay alone.
    pub(crate) floors_judged: u64,
    /// Holds.
    pub(crate) holds: u64,
    /// Points that were refused because they had expired.
    pub(crate) expired: u64,
    /// Objects that were created under such names.
    pub(crate) stale: u64,
    /// Of those, seals.
    pub(crate) stale_seals: u64,
    /// Of those, segments that reach into what was not deleted.
    pub(crate) straddling: u64,
    /// Processes that were stopped, and went on.
    pub(crate) slept: u64,
    /// Servers that got a base, and its log after it.
    pub(crate) replayed: u64,
    /// Servers that got base and log as one snapshot.
    pub(crate) rebuilt: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.acknowledgements, other.acknowledgements),
            (&mut self.idle_acknowledgements, other.idle_acknowledgements),
            (&mut self.counted_early, other.counted_early),
            (&mut self.segments, other.segments),
            (&mut self.spans, other.spans),
            (&mut self.bases, other.bases),
            (&mut self.consolidated, other.consolidated),
            (&mut self.seals, other.seals),
            (&mut self.histories, other.histories),
            (&mut self.full_syncs, other.full_syncs),
            (&mut self.partial_syncs, other.partial_syncs),
            (&mut self.taken, other.taken),
            (&mut self.restores, other.restores),
            (&mut self.kills, other.kills),
            (&mut self.takeovers, other.takeovers),
            (&mut self.waits, other.waits),
            (&mut self.overridden, other.overridden),
            (&mut self.in_vain, other.in_vain),
            (&mut self.shutdowns, other.shutdowns),
            (&mut self.spooled, other.spooled),
            (&mut self.crashes, other.crashes),
            (&mut self.set_back, other.set_back),
            (&mut self.own_keys, other.own_keys),
            (&mut self.latest, other.latest),
            (&mut self.jumps, other.jumps),
            (&mut self.clock_back, other.clock_back),
            (&mut self.times, other.times),
            (&mut self.times_refused, other.times_refused),
            (&mut self.restored, other.restored),
            (&mut self.kept, other.kept),
            (&mut self.begun, other.begun),
            (&mut self.twofold, other.twofold),
            (&mut self.yielded, other.yielded),
            (&mut self.superseded, other.superseded),
            (&mut self.unproved, other.unproved),
            (&mut self.replaced, other.replaced),
            (&mut self.tiny, other.tiny),
            (&mut self.decided, other.decided),
            (&mut self.freed, other.freed),
            (&mut self.merged_freed, other.merged_freed),
            (&mut self.spans_freed, other.spans_freed),
            (&mut self.spans_damaged, other.spans_damaged),
            (&mut self.spans_withdrawn, other.spans_withdrawn),
            (&mut self.spoilt, other.spoilt),
            (&mut self.expiries, other.expiries),
            (&mut self.floors, other.floors),
            (&mut self.floors_judged, other.floors_judged),
            (&mut self.holds, other.holds),
            (&mut self.expired, other.expired),
            (&mut self.stale, other.stale),
            (&mut self.stale_seals, other.stale_seals),
            (&mut self.straddling, other.straddling),
            (&mut self.slept, other.slept),
            (&mut self.replayed, other.replayed),
            (&mut self.rebuilt, other.rebuilt),
        ];
        for (mine, theirs) in pairs {
            *mine += theirs;
        }
    }
}
