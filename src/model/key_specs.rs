//! Which keys a command reads or writes.

use super::args::Args;
use super::error::ApplyError;

/// Which arguments of a command are keys (the name is argument 0).
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// There are none.
    None,
    /// From argument `first` on, each `step`-th, as long as there are `step` arguments.
    From {
        /// The first key.
        first: usize,
        /// 2: keys and values.
        step: usize,
    },
    /// The same, for keys that are overwritten or deleted, whatever they hold.
    Overwritten {
        /// The first key.
        first: usize,
        /// 2: keys and values.
        step: usize,
    },
    /// These arguments.
    At(&'static [usize]),
    /// As many keys as argument `count` says, right after it, and before it those at `also`.
    Counted {
        /// The argument that holds the number of keys.
        count: usize,
        /// Keys elsewhere.
        also: &'static [usize],
    },
    /// Told by a function.
    By(Teller),
}

/// Hands out all that a command touches.
pub(super) type Teller = fn(&Args, &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError>;

/// What a command touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch<'a> {
    /// A key of the selected database.
    Key(&'a [u8]),
    /// A key of the selected database that is overwritten or deleted, whatever it holds. The command must not look at
    /// it.
    Overwritten(&'a [u8]),
    /// A key of another database.
    In(u32, &'a [u8]),
    /// All keys of the selected database that begin and end like this (`SORT … BY weight_*`).
    Like {
        /// How they begin.
        prefix: &'a [u8],
        /// How they end.
        suffix: &'a [u8],
    },
    /// All keys of these slots (0 to 16383, both inclusive) of the cluster, in all databases.
    Slots(u16, u16),
}

impl Keys {
    /// Hands out all that `args` touches.
    ///
    /// # Errors
    /// When there are too few arguments.
    pub fn of(&self, args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
        match self {
            Self::None => {}
            Self::From { first, step } => {
                for key in args.from(*first).iter().step_by(*step) {
                    touch(Touch::Key(key));
                }
            }
            Self::Overwritten { first, step } => {
                for key in args.from(*first).iter().step_by(*step) {
                    touch(Touch::Overwritten(key));
                }
            }
            Self::At(indices) => {
                for index in *indices {
                    touch(Touch::Key(args.get(*index)?));
                }
            }
            Self::Counted { count, also } => {
                for index in *also {
                    touch(Touch::Key(args.get(*index)?));
                }
                let keys = args.from(count.saturating_add(1));
                let keys = keys
                    .get(..args.count(*count)?)
                    .ok_or_else(|| args.diverged("it has fewer keys than it says"))?;
                for key in keys {
                    touch(Touch::Key(key));
                }
            }
            Self::By(told) => told(args, touch)?,
        }
        Ok(())
    }
}
