//! Archive → server or files.

pub mod compat;
pub mod when;
