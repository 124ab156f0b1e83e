//! The archive: the only owner of object names and manifests.
