//! What a store has in spans may be deleted from its log.

use std::fs;
use std::path::Path;

/// Names in a folder, ascending.
fn names(folder: &Path) -> Vec<String> {
    let found = fs::read_dir(folder).into_iter().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<String> = found.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

/// Deletes the segments of a history (its folder in a store) that lie in spans, ascending, and never the last object of its log.
/// Spans end where segments do. Returns how many were deleted.
pub fn delete_merged(history: &Path) -> usize {
    let spans: Vec<(String, String)> = names(&history.join("span"))
        .iter()
        .map(|name| (name[..20].to_owned(), name[21..41].to_owned()))
        .collect();
    let log = names(&history.join("log"));
    let mut deleted = 0;
    for name in log.iter().take(log.len().saturating_sub(1)) {
        let first = &name[..20];
        let is_inside =
            |(from, to): &(String, String)| from.as_str() <= first && first <= to.as_str();
        if spans.iter().any(is_inside) {
            fs::remove_file(history.join("log").join(name)).unwrap();
            deleted += 1;
        }
    }
    deleted
}

/// How many spans and how many objects of the log a history has.
pub fn count(history: &Path) -> (usize, usize) {
    (
        names(&history.join("span")).len(),
        names(&history.join("log")).len(),
    )
}
