//! A cgroup with a memory limit, as a container has one, and what a process takes of memory.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::print_stderr
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A cgroup; it goes away with its value, when nothing runs in it any more.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Where cgroups cannot be made (no root, no writable hierarchy), the reason.
    pub fn with_memory(bytes: u64) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("backfeed-test-{}-{number}", std::process::id());
        let mut reasons = Vec::new();
        for (hierarchy, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let cgroup = Self(Path::new(hierarchy).join(&name));
            let made = fs::create_dir(&cgroup.0)
                .and_then(|()| fs::write(cgroup.0.join(file), bytes.to_string()));
            match made {
                Ok(()) => return Ok(cgroup),
                Err(error) => reasons.push(format!("{}: {error}", cgroup.0.display())),
            }
        }
        Err(reasons.join("; "))
    }

    /// What a shell does to be in it.
    pub fn preamble(&self) -> String {
        format!("echo $$ >{}/cgroup.procs", self.0.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last process may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{} is left behind", self.0.display());
    }
}

/// One number of `/proc/PID/status`, in bytes; None once the process has ended.
pub fn memory_of(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Begins the peak (`VmHWM`) anew.
pub fn reset_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak can be begun anew");
}
