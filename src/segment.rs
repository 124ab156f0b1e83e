//! The log segment format.
