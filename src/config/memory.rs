//! How much memory `memory=auto` means on this machine, in this control group.

use std::fs;
use std::path::Path;

const MIB: u64 = 1 << 20;
/// Enough for any machine's working set of read-ahead and parts; more only on request.
const AUTO_MAX: u64 = 512 * MIB;
/// With less, commits of large files can starve: parts being sent, what has to be fetched for them and read-ahead
/// share it.
pub const MIN: u64 = 64 * MIB;

/// The smaller of 512 MiB and a quarter of what this process may use, in bytes.
pub fn auto() -> u64 {
    auto_of(available(Path::new("/")))
}

fn auto_of(available: Option<u64>) -> u64 {
    available.map_or(AUTO_MAX, |a| (a / 4).clamp(MIN, AUTO_MAX))
}

/// The host's memory or the tightest limit of the control groups above us, whichever is smaller.
fn available(root: &Path) -> Option<u64> {
    let host = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|t| {
        let kib: u64 =
            t.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    });
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let group = group.trim_start_matches('/');
        if controllers.is_empty() {
            tightest(&[root.join("sys/fs/cgroup"), root.join("sys/fs/cgroup/unified")], group, "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            tightest(&[root.join("sys/fs/cgroup/memory")], group, "memory.limit_in_bytes")
        } else {
            None
        }
    });
    host.into_iter().chain(limits).min()
}

/// Limits hold for everything below them, so every ancestor counts; in a container the group's own path is often
/// not visible, and then the mount's root is the group.
fn tightest(mounts: &[std::path::PathBuf], group: &str, file: &str) -> Option<u64> {
    let read = |p: &Path| fs::read_to_string(p.join(file)).ok()?.trim().parse::<u64>().ok();
    mounts
        .iter()
        .flat_map(|mount| {
            let own = mount.join(group);
            let up: Vec<_> = own.ancestors().take_while(|a| a.starts_with(mount)).filter_map(read).collect();
            up
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_control_group_is_smaller_than_the_host() {
        let meminfo = ("proc/meminfo", "MemTotal:       33554432 kB\nMemFree: 1 kB\n");
        let host = tree(&[meminfo, ("proc/self/cgroup", "0::/\n")]);
        assert_eq!(available(host.path()), Some(32 << 30));
        assert_eq!(auto_of(available(host.path())), 512 * MIB);
        let v2 = tree(&[
            meminfo,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "268435456\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ]);
        assert_eq!(available(v2.path()), Some(256 * MIB));
        assert_eq!(auto_of(available(v2.path())), 64 * MIB);
        let v1 = tree(&[
            meminfo,
            ("proc/self/cgroup", "4:cpu:/\n9:memory:/docker/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n"),
        ]);
        assert_eq!(auto_of(available(v1.path())), MIN);
        assert_eq!(auto_of(None), AUTO_MAX);
    }
}
