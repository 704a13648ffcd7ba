//! What control groups leave of the memory: a container or a unit with a limit has less than its host. A guest's memory
//! is charged to the group of whoever touches it first, and where the group has none left, the system kills.

use std::fs;
use std::path::{Path, PathBuf};

use crate::limits::CGROUP_DEPTH_MAX;

/// One of the two versions of control groups, as far as memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy for all.
    V2,
}

impl Version {
    /// Files that hold a limit. At the second of version 2 the guest would be held up instead of killed, for ever.
    fn limits(self) -> &'static [&'static str] {
        match self {
            Self::V1 => &["memory.limit_in_bytes"],
            Self::V2 => &["memory.max", "memory.high"],
        }
    }

    /// The file that says how much is used, all groups below included.
    fn usage(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    /// Lines of `memory.stat` about what is used and can be had back: copies of what is in files.
    fn reclaimable(self) -> [&'static str; 2] {
        match self {
            Self::V1 => ["total_inactive_file", "total_active_file"],
            Self::V2 => ["inactive_file", "active_file"],
        }
    }
}

/// A group's folder, and the folder of the hierarchy that it is in, or of what is seen of it from here.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    top: PathBuf,
    folder: PathBuf,
}

/// Bytes that this process's control groups leave it; none if they set no limit.
pub(crate) fn memory_left() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    places(&groups, &mounts).iter().filter_map(left_at).min()
}

/// The least that the group and those above it leave.
fn left_at(place: &Place) -> Option<u64> {
    let above = place.folder.ancestors().take_while(|folder| folder.starts_with(&place.top));
    above.take(CGROUP_DEPTH_MAX).filter_map(|folder| left_in(place.version, folder)).min()
}

fn left_in(version: Version, folder: &Path) -> Option<u64> {
    // The top group has no such files, and a group without the controller has none either.
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let limit = version.limits().iter().filter_map(|name| parse_bytes(&read(name)?)).min()?;
    let used = parse_bytes(&read(version.usage())?)?;
    let reclaimable = parse_stat(&read("memory.stat").unwrap_or_default(), version.reclaimable());
    Some(left(limit, used, reclaimable))
}

fn left(limit: u64, used: u64, reclaimable: u64) -> u64 {
    limit.saturating_sub(used.saturating_sub(reclaimable))
}

/// A number of bytes; none for `max`, which is no limit.
fn parse_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The sum of some lines of `memory.stat`.
fn parse_stat(text: &str, names: [&str; 2]) -> u64 {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let wanted = pairs.filter(|(name, _)| names.contains(name));
    wanted.filter_map(|(_, bytes)| parse_bytes(bytes)).fold(0, u64::saturating_add)
}

/// Where the limits of a process are, from its `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
fn places(groups: &str, mounts: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for line in groups.lines() {
        // Number, controllers, path; the number 0 without controllers is version 2.
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match controllers {
            "" if number == "0" => Version::V2,
            _ if controllers.split(',').any(|controller| controller == "memory") => Version::V1,
            _ => continue,
        };
        places.extend(mounts.lines().find_map(|mount| place(version, Path::new(path), mount)));
    }
    places
}

/// Where a group's path is below a mount, if the mount is of its hierarchy.
fn place(version: Version, path: &Path, mount: &str) -> Option<Place> {
    // Two numbers, device, root, mount point, options, optional fields; then, after a dash, type, source, options.
    let (before, after) = mount.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (unescape(before.next()?), unescape(before.next()?));
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let fits = match version {
        Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => kind == "cgroup2",
    };
    if !fits {
        return None;
    }
    // In a container, the mount begins at the container's own group, or the path at one that can't be seen.
    let folder = match path.strip_prefix(&root) {
        Ok(rest) if !rest.starts_with("..") => point.join(rest),
        _ => point.clone(),
    };
    Some(Place { version, top: point, folder })
}

/// In that table, space and the like are written as `\040`.
fn unescape(text: &str) -> PathBuf {
    let names = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    names.iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
35 31 0:32 /docker/ab /sys/fs/cgroup/memory\\040x ro - cgroup cgroup rw,memory
38 31 0:41 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    fn place_of(version: Version, top: &str, folder: &str) -> Place {
        Place { version, top: top.into(), folder: folder.into() }
    }

    #[test]
    fn the_groups_of_both_versions_are_found_by_their_mounts() {
        let unit = "0::/system.slice/sustain.service\n";
        let found = place_of(Version::V2, "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/sustain.service");
        assert_eq!(places(unit, V2), [found]);
        // A container of version 1 sees its own part of the hierarchy, and both versions are mounted.
        let both = "4:cpu,memory:/docker/ab/unit\n3:cpuset:/\n0::/\n";
        let memory = "/sys/fs/cgroup/memory x";
        let first = place_of(Version::V1, memory, "/sys/fs/cgroup/memory x/unit");
        let second = place_of(Version::V2, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified");
        assert_eq!(places(both, V1), [first, second]);
        // What is not below the mount is not seen: then the mount itself counts.
        let elsewhere = places("4:memory:/other\n0::/../beside\n", V1);
        let tops: Vec<_> = elsewhere.iter().map(|place| place.folder.clone()).collect();
        assert_eq!(tops, [memory, "/sys/fs/cgroup/unified"].map(PathBuf::from));
        for nonsense in ["", "0::", "4:memory", "x:y:/z", "0:memory2:/"] {
            assert_eq!(places(nonsense, V2).len(), usize::from(nonsense == "0::"), "{nonsense}");
            assert_eq!(places(unit, nonsense), []);
        }
    }

    #[test]
    fn what_is_used_counts_but_for_copies_of_files() {
        assert_eq!(parse_bytes("max\n"), None);
        assert_eq!(parse_bytes("1073741824\n"), Some(1 << 30));
        let stat =
            "anon 5\nfile 90\ninactive_file 30\nactive_file 20\nactive_file_x 1\ntotal_active_file 7\n";
        assert_eq!(parse_stat(stat, Version::V2.reclaimable()), 50);
        assert_eq!(parse_stat(stat, Version::V1.reclaimable()), 7);
        assert_eq!(left(100, 90, 50), 60);
        assert_eq!(left(100, 30, 50), 100);
        assert_eq!(left(100, 200, 50), 0);
    }

    #[test]
    fn the_tightest_of_a_group_and_those_above_it_counts() {
        let top = tempfile::tempdir().unwrap();
        let slice = top.path().join("slice");
        let unit = slice.join("unit");
        fs::create_dir_all(&unit).unwrap();
        let write = |folder: &Path, name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let place = Place { version: Version::V2, top: top.path().to_owned(), folder: unit.clone() };
        assert_eq!(left_at(&place), None, "no limit anywhere");
        write(&unit, "memory.max", "max\n");
        write(&unit, "memory.high", "max\n");
        write(&unit, "memory.current", "500\n");
        assert_eq!(left_at(&place), None);
        write(&slice, "memory.max", "2000\n");
        write(&slice, "memory.current", "1500\n");
        write(&slice, "memory.stat", "inactive_file 100\nactive_file 1\n");
        assert_eq!(left_at(&place), Some(601));
        write(&unit, "memory.high", "1000\n");
        assert_eq!(left_at(&place), Some(500));
        let old = Place { version: Version::V1, ..place };
        write(&unit, "memory.limit_in_bytes", "9223372036854771712\n");
        write(&unit, "memory.usage_in_bytes", "4096\n");
        assert!(left_at(&old).is_some_and(|left| left > 1 << 62), "no limit is a great one");
    }
}
