//! Function libraries.

use super::error::ApplyError;
use super::table::Spec;
use crate::rdb::cursor::BadValue;

pub(super) const COMMANDS: &[Spec] = &[];

/// Function libraries.
#[derive(Debug, Default)]
pub struct Libraries(Vec<Vec<u8>>);

impl Libraries {
    /// From a snapshot.
    ///
    /// # Errors
    /// none
    pub fn load(&mut self, code: &[u8]) -> Result<(), BadValue> {
        self.0.push(code.to_vec());
        Ok(())
    }
    /// A command.
    ///
    /// # Errors
    /// none
    pub fn apply(&mut self, _argv: &[&[u8]]) -> Result<(), ApplyError> {
        Ok(())
    }
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Slot.
#[must_use]
pub fn slot_of(_key: &[u8]) -> u16 {
    0
}
