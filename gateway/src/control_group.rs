//! The memory limit that control groups set for this process.
//!
//! ```text
//!   /proc/self/cgroup     which group we are in, in each hierarchy: `0::/a/b` (version 2), `4:memory:/a/b` (version 1)
//!   /proc/self/mountinfo  where each hierarchy is mounted, and which group is the root of what we see there
//! ```
//!
//! Limits of all groups from ours up to the root apply to us, so the smallest one counts. A container
//! often sees only a part of the tree: its mount begins at its own group, or its path (`/../..`) leads out of the
//! mount. We do not guess hidden limits: version 1 includes them in `hierarchical_memory_limit`, version 2 does not show them.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The smallest memory limit of all groups this process is in; `None` if there is none, or no control groups at all.
pub(crate) fn memory_limit() -> Option<u64> {
    limit_under(Path::new("/"))
}

#[derive(Clone, Copy, PartialEq)]
enum Version {
    One,
    Two,
}

/// A hierarchy with the memory controller, as it is mounted here.
struct Mount {
    version: Version,
    /// The group that the mount point shows.
    root: PathBuf,
    point: PathBuf,
}

/// `system`: the root directory; tests use trees of their own.
fn limit_under(system: &Path) -> Option<u64> {
    let groups = fs::read_to_string(system.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string(system.join("proc/self/mountinfo")).unwrap_or_default();
    let mut mounts: Vec<Mount> = mounts.lines().filter_map(mount).collect();
    if mounts.is_empty() {
        // No mountinfo: try the usual places.
        mounts.push(Mount {
            version: Version::Two,
            root: "/".into(),
            point: "/sys/fs/cgroup".into(),
        });
        mounts.push(Mount {
            version: Version::One,
            root: "/".into(),
            point: "/sys/fs/cgroup/memory".into(),
        });
    }
    mounts
        .iter()
        .filter_map(|mount| {
            let own = groups.lines().find_map(|line| own_group(line, mount.version));
            limit_of(system, mount, own.unwrap_or("/"))
        })
        .min()
}

/// The smallest limit from the group `own` up to the mount point.
fn limit_of(system: &Path, mount: &Mount, own: &str) -> Option<u64> {
    let point = system.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
    // If our group is outside the mount, the mount point is the nearest group we can see.
    let below = Path::new(own).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let is_inside = below.components().all(|c| matches!(c, Component::Normal(_)));
    let group = if is_inside { point.join(below) } else { point.clone() };
    let groups = group.ancestors().take_while(|dir| dir.starts_with(&point));
    groups.filter_map(|dir| limit_at(dir, mount.version)).min()
}

/// The limit that one group states.
fn limit_at(group: &Path, version: Version) -> Option<u64> {
    // "max" does not parse, and means no limit.
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    match version {
        // Over `memory.high` the kernel throttles the process, so we must stay below it too.
        Version::Two => number("memory.max").into_iter().chain(number("memory.high")).min(),
        Version::One => {
            let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            let inherited = stat
                .lines()
                .find_map(|line| line.strip_prefix("hierarchical_memory_limit ")?.trim().parse().ok());
            number("memory.limit_in_bytes").into_iter().chain(inherited).min()
        }
    }
}

/// The path in a line of `/proc/self/cgroup`, if it is about the hierarchy that limits memory.
fn own_group(line: &str, version: Version) -> Option<&str> {
    let (number, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let is_it = match version {
        Version::Two => number == "0" && controllers.is_empty(),
        Version::One => controllers.split(',').any(|c| c == "memory"),
    };
    is_it.then_some(path)
}

/// A line of `/proc/self/mountinfo`, if it is a hierarchy that limits memory:
/// `36 35 98:0 /root /mount/point options - type source options`.
fn mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, point) = (front.next()?, front.next()?);
    let mut back = back.split(' ');
    let (kind, _, options) = (back.next()?, back.next()?, back.next().unwrap_or_default());
    let version = match kind {
        "cgroup2" => Version::Two,
        "cgroup" if options.split(',').any(|o| o == "memory") => Version::One,
        _ => return None,
    };
    Some(Mount {
        version,
        root: unescaped(root).into(),
        point: unescaped(point).into(),
    })
}

/// Unescapes a path: the kernel writes a space as `\040`.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A system with these files.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let system = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = system.path().join(path);
            fs::create_dir_all(path.parent().expect("a file has a directory")).expect("created");
            fs::write(path, text).expect("written");
        }
        limit_under(system.path())
    }

    const V2: (&str, &str) = (
        "proc/self/mountinfo",
        "22 1 0:21 / /proc rw - proc proc rw\n30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
    );

    #[test]
    fn the_smallest_limit_up_to_the_root_counts() {
        let own = ("proc/self/cgroup", "0::/system.slice/gatepost.service\n");
        let unlimited = ("sys/fs/cgroup/system.slice/gatepost.service/memory.max", "max\n");
        assert_eq!(limit(&[V2, own, unlimited]), None);
        let above = ("sys/fs/cgroup/system.slice/memory.max", "268435456\n");
        assert_eq!(limit(&[V2, own, unlimited, above]), Some(256 * MIB));
        let high = ("sys/fs/cgroup/system.slice/gatepost.service/memory.high", "134217728\n");
        assert_eq!(limit(&[V2, own, unlimited, above, high]), Some(128 * MIB));
    }

    #[test]
    fn a_group_namespace_shows_its_own_group_as_the_root() {
        let top = ("sys/fs/cgroup/memory.max", "67108864\n");
        assert_eq!(limit(&[V2, ("proc/self/cgroup", "0::/\n"), top]), Some(64 * MIB));
        // A process moved out of the namespace's root: the path leads out of the mount.
        assert_eq!(
            limit(&[V2, ("proc/self/cgroup", "0::/../other\n"), top]),
            Some(64 * MIB)
        );
    }

    #[test]
    fn a_mount_that_begins_at_our_group_is_read_from_there() {
        let mounts = (
            "proc/self/mountinfo",
            "30 22 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        );
        let files = [
            mounts,
            ("proc/self/cgroup", "0::/docker/abc/inner\n"),
            ("sys/fs/cgroup/memory.max", "536870912\n"),
            ("sys/fs/cgroup/inner/memory.max", "max\n"),
            // The limit of another group of the same name.
            ("sys/fs/cgroup/docker/abc/inner/memory.max", "1\n"),
        ];
        assert_eq!(limit(&files), Some(512 * MIB));
    }

    #[test]
    fn version_1_is_found_by_its_controller_and_tells_of_hidden_groups() {
        let mounts = (
            "proc/self/mountinfo",
            "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        );
        let own = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/y\n");
        let unlimited = (
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        let above = ("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "314572800\n");
        assert_eq!(limit(&[mounts, own, unlimited, above]), Some(300 * MIB));
        let stat = (
            "sys/fs/cgroup/memory/docker/abc/memory.stat",
            "cache 1\nhierarchical_memory_limit 104857600\n",
        );
        assert_eq!(limit(&[mounts, own, unlimited, above, stat]), Some(100 * MIB));
    }

    #[test]
    fn both_versions_count_where_both_are_mounted() {
        let mounts = (
            "proc/self/mountinfo",
            "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             33 30 0:29 / /sys/fs/cgroup/unified\\040one rw - cgroup2 cgroup2 rw\n",
        );
        let files = [
            mounts,
            ("proc/self/cgroup", "4:memory:/a\n0::/b\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "200\n"),
            ("sys/fs/cgroup/unified one/b/memory.max", "100\n"),
        ];
        assert_eq!(limit(&files), Some(100));
    }

    #[test]
    fn without_mountinfo_the_usual_places_are_read() {
        let own = ("proc/self/cgroup", "0::/a\n");
        assert_eq!(limit(&[own, ("sys/fs/cgroup/a/memory.max", "7\n")]), Some(7));
        let own = ("proc/self/cgroup", "3:memory:/a\n");
        let v1 = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9\n");
        assert_eq!(limit(&[own, v1]), Some(9));
        assert_eq!(limit(&[]), None);
    }
}
