//! Archive → server or files.
