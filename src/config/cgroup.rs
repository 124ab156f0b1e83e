//! The memory that the system allows this process: the limits of its cgroup and of the cgroups above it (versions 1 and
//! 2).

use std::fs;
use std::path::{Path, PathBuf};

/// A limit of this or more is none: version 1 writes the largest number of whole pages.
const NONE_FROM: u64 = 1 << 60;

/// The lowest limit that holds for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLimit {
    /// Bytes.
    pub bytes: u64,
    /// It belongs to the cgroup of this very process, as a container has one. Otherwise it belongs to a cgroup above,
    /// which other processes share.
    pub own: bool,
}

/// The limit. None: there is none, or it is not visible.
#[must_use]
pub fn memory_limit() -> Option<CgroupLimit> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    lowest(&places(&cgroups, &mounts))
}

/// A cgroup of this process.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Where its hierarchy is mounted.
    mount: PathBuf,
    /// The cgroup below that. Empty: it is the mount itself, as in a container.
    inside: PathBuf,
    /// The name of the file with the limit.
    file: &'static str,
}

/// `cgroups` is `/proc/self/cgroup`, `mounts` is `/proc/self/mountinfo` (cgroups(7), proc(5)).
fn places(cgroups: &str, mounts: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let is_version_2 = controllers.is_empty();
        let file = if is_version_2 {
            "memory.max"
        } else if controllers.split(',').any(|name| name == "memory") {
            "memory.limit_in_bytes"
        } else {
            continue;
        };
        for mount in mounts.lines().filter_map(Mount::of) {
            if mount.is_of(is_version_2) {
                let inside = mount.inside(Path::new(path));
                places.push(Place {
                    mount: mount.at,
                    inside,
                    file,
                });
            }
        }
    }
    places
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    /// Which directory of the filesystem is mounted.
    root: PathBuf,
    at: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (place, filesystem) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut filesystem = filesystem.split(' ');
        Some(Self {
            root: unescaped(place.next()?),
            at: unescaped(place.next()?),
            kind: filesystem.next()?,
            options: filesystem.nth(1)?,
        })
    }

    fn is_of(&self, version_2: bool) -> bool {
        if version_2 {
            return self.kind == "cgroup2";
        }
        self.kind == "cgroup" && self.options.split(',').any(|option| option == "memory")
    }

    /// The path of a cgroup below this mount. A path that is not below it means the mount itself: a container can see
    /// only its own part, and `/proc` may name the whole path.
    fn inside(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        let leads_out = inside.components().any(|part| part.as_os_str() == "..");
        if leads_out {
            PathBuf::new()
        } else {
            inside.to_owned()
        }
    }
}

/// Blanks and the like are written there as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let known = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let text = known.iter().fold(text.to_owned(), |text, (code, byte)| {
        text.replace(code, byte)
    });
    text.into()
}

fn lowest(places: &[Place]) -> Option<CgroupLimit> {
    let limits = places.iter().flat_map(|place| {
        // A cgroup that is gone, or was never visible here, says nothing. Those above it may.
        let cgroups = place.inside.ancestors().enumerate();
        cgroups.filter_map(|(above, cgroup)| {
            let path = place.mount.join(cgroup).join(place.file);
            let bytes = parsed(&fs::read_to_string(path).ok()?)?;
            Some(CgroupLimit {
                bytes,
                own: above == 0,
            })
        })
    });
    // Of equal ones, our own.
    limits.min_by_key(|limit| (limit.bytes, !limit.own))
}

/// `max` is none.
fn parsed(text: &str) -> Option<u64> {
    let bytes = text.trim().parse().ok()?;
    (bytes < NONE_FROM).then_some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const V2: &str =
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

    fn place(mount: &str, inside: &str, file: &'static str) -> Place {
        Place {
            mount: mount.into(),
            inside: inside.into(),
            file,
        }
    }

    #[test]
    fn the_cgroup_is_found_in_every_kind_of_container() {
        // Version 2 on a host, and in a container with a cgroup namespace.
        let host = "0::/system.slice/backfeed.service\n";
        let inside = "system.slice/backfeed.service";
        assert_eq!(
            places(host, V2),
            [place("/sys/fs/cgroup", inside, "memory.max")]
        );
        assert_eq!(
            places("0::/\n", V2),
            [place("/sys/fs/cgroup", "", "memory.max")]
        );
        // Version 1 beside a version 2 without controllers, in a container whose `/proc` names the path on the host.
        let both = "4:memory,hugetlb:/docker/ab\n1:cpu:/docker/ab\n0::/docker/ab\n";
        let mounts = "30 25 0:27 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,hugetlb,memory\n\
                      31 25 0:28 /docker/ab /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n\
                      32 25 0:29 / /sys/fs/cgroup/uni\\040fied ro - cgroup2 none rw";
        assert_eq!(
            places(both, mounts),
            [
                place("/sys/fs/cgroup/memory", "", "memory.limit_in_bytes"),
                place("/sys/fs/cgroup/uni fied", "docker/ab", "memory.max"),
            ]
        );
        // Another container's part of the tree.
        assert_eq!(
            places("0::/../../other\n", V2),
            [place("/sys/fs/cgroup", "", "memory.max")]
        );
        assert_eq!(places("nonsense\n::\n", "nonsense"), []);
    }

    #[test]
    fn the_lowest_limit_up_to_the_root_holds() {
        let root = tempfile::TempDir::new().unwrap();
        let set = |cgroup: &str, text: &str| {
            let directory = root.path().join(cgroup);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("memory.max"), text).unwrap();
        };
        let found = |inside: &str| {
            let mount = root.path().to_str().unwrap();
            lowest(&[place(mount, inside, "memory.max")])
        };
        set("pod/container", "max\n");
        assert_eq!(found("pod/container"), None);
        set("pod", "1000\n");
        let limit = |bytes, own| Some(CgroupLimit { bytes, own });
        assert_eq!(found("pod/container"), limit(1000, false));
        set("pod/container", "1000\n");
        assert_eq!(found("pod/container"), limit(1000, true));
        set("pod/container", "400\n");
        assert_eq!(found("pod/container"), limit(400, true));
        assert_eq!(found("pod/gone"), limit(1000, false));
        // Version 1 says "none" with a number.
        set("pod", "9223372036854771712\n");
        assert_eq!(found("pod/gone"), None);
    }
}
