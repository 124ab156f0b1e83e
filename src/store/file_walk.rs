//! The objects below a directory, in ascending order of their full names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{LOST_AND_FOUND, TEMPORARY, created};
use super::{Listing, NAME_LIMIT, ObjectMeta, check_name};

/// A walk over the files of a store. It holds the names of one directory of each level at a time.
pub(super) struct Walk {
    root: PathBuf,
    prefix: String,
    from: String,
    /// Directories behind the prefix are given by their names, and not opened.
    folders: bool,
    /// For each directory that is open: what is still to come of it, the next last.
    open: Vec<Vec<String>>,
    /// The directory to begin with.
    first: Option<String>,
}

/// The path where it failed, and the error.
pub(super) type WalkError = (PathBuf, io::Error);

impl Walk {
    /// What `wanted` says.
    pub(super) fn new(root: &Path, wanted: Listing<'_>) -> Self {
        let prefix = wanted.prefix;
        // The part of the prefix that names directories tells where to begin.
        let first = prefix
            .rfind('/')
            .and_then(|at| prefix.get(..=at))
            .unwrap_or("");
        // A prefix that no name can have must not lead out of the store.
        let plain = first.is_empty() || check_name(first.trim_end_matches('/')).is_ok();
        Self {
            root: root.to_owned(),
            prefix: prefix.to_owned(),
            from: wanted.from.unwrap_or("").to_owned(),
            folders: wanted.folders,
            open: Vec::new(),
            first: plain.then(|| first.to_owned()),
        }
    }

    /// Opens a directory: `""`, or a name that ends with `/`. A file is represented by its name. A directory's name
    /// ends with `/`, as the names of all objects below it continue, so sorting these names sorts the objects.
    fn descend(&mut self, directory: &str) -> Result<(), WalkError> {
        let path = self.root.join(directory);
        let mut names = Vec::new();
        let failed = |error| (path.clone(), error);
        let entries = match fs::read_dir(&path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            other => other.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // A name that is no text is none that we gave.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let is_directory = match entry.file_type() {
                // A link that leads nowhere, or in a circle, is no object.
                Ok(kind) if kind.is_symlink() => match fs::metadata(entry.path()) {
                    Ok(found) => found.is_dir(),
                    Err(_) => continue,
                },
                Ok(kind) => kind.is_dir(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let slash = if is_directory { "/" } else { "" };
            let name = format!("{directory}{name}{slash}");
            if self.may_hold(&name, is_directory) {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.open.push(names);
        Ok(())
    }

    fn may_hold(&self, name: &str, is_directory: bool) -> bool {
        // The length ends a walk that symbolic links lead in circles.
        let directory = name.strip_suffix('/');
        let not_ours = directory.is_some_and(|name| [TEMPORARY, LOST_AND_FOUND].contains(&name));
        if not_ours || name.len() > NAME_LIMIT {
            return false;
        }
        if is_directory {
            (name.starts_with(&self.prefix) || self.prefix.starts_with(name))
                && (name >= self.from.as_str() || self.from.starts_with(name))
        } else {
            name.starts_with(&self.prefix) && name >= self.from.as_str()
        }
    }
}

impl Iterator for Walk {
    type Item = Result<ObjectMeta, WalkError>;

    /// After an error the walk is at its end.
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take()
            && let Err(error) = self.descend(&first)
        {
            return Some(Err(error));
        }
        while let Some(names) = self.open.last_mut() {
            let Some(name) = names.pop() else {
                self.open.pop();
                continue;
            };
            if name.ends_with('/') {
                if self.folders && name.len() > self.prefix.len() {
                    // A directory in which there is no object is no folder.
                    match Self::new(&self.root, Listing::of(&name)).next() {
                        Some(Ok(_)) => return Some(Ok(ObjectMeta::folder(&name))),
                        Some(Err(error)) => {
                            self.open.clear();
                            return Some(Err(error));
                        }
                        None => continue,
                    }
                }
                if let Err(error) = self.descend(&name) {
                    self.open.clear();
                    return Some(Err(error));
                }
                continue;
            }
            let path = self.root.join(&name);
            match fs::metadata(&path) {
                Ok(found) => {
                    return Some(Ok(ObjectMeta {
                        name,
                        size: found.len(),
                        created: created(&found),
                    }));
                }
                // Deleted since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.open.clear();
                    return Some(Err((path, error)));
                }
            }
        }
        None
    }
}
