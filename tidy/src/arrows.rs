//! Arrows between crates go one way: proto ← store ← gossip ← node ← cli, and vmdriver and inspect know proto and
//! store only. seal knows nobody, and only store knows it. fuzz calls what parses, and no crate here knows it. preload
//! knows nobody, and nobody it: vmdriver's build script compiles it on its own.

use toml::{Table, Value};

use crate::{Finding, Source};

/// Each crate and the ones that it may depend on, itself never. Each stands after those that it knows.
const ARROWS: [(&str, &[&str]); 11] = [
    ("proto", &[]),
    ("tidy", &[]),
    ("preload", &[]),
    ("seal", &[]),
    ("store", &["proto", "seal"]),
    ("gossip", &["proto", "store"]),
    ("vmdriver", &["proto", "store"]),
    ("inspect", &["proto", "store"]),
    ("fuzz", &["proto", "store", "gossip", "vmdriver", "inspect"]),
    ("node", &["proto", "store", "gossip", "vmdriver"]),
    ("cli", &["proto", "store", "gossip", "vmdriver", "inspect", "node"]),
];

/// What all crates of the workspace are called, before their folder's name.
const PREFIX: &str = "sustain-";

/// Dependencies of a crate's `Cargo.toml` that go against the arrows, a crate that the arrows don't
/// know, and one that doesn't take the workspace's lints. The workspace's own `Cargo.toml` must list
/// exactly the crates that are known.
#[must_use]
pub fn check_arrows(source: &Source) -> Vec<Finding> {
    let Some(folder) = source.path.strip_suffix("Cargo.toml") else { return Vec::new() };
    let folder = folder.trim_end_matches('/');
    let manifest: Table = match source.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![source.finding(None, format!("does not parse: {error}"))],
    };
    if folder.is_empty() {
        check_workspace(source, &manifest)
    } else if manifest.contains_key("workspace") {
        // A workspace of its own, which this one never builds.
        Vec::new()
    } else {
        check_crate(source, folder, &manifest)
    }
}

fn check_workspace(source: &Source, manifest: &Table) -> Vec<Finding> {
    let members = manifest.get("workspace").and_then(|workspace| workspace.get("members"));
    let mut members: Vec<&str> =
        members.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut known = ARROWS.map(|(name, _)| name);
    members.sort_unstable();
    known.sort_unstable();
    if members == known {
        return Vec::new();
    }
    let what = format!("the workspace has {members:?}, tidy/src/arrows.rs knows {known:?}");
    vec![source.finding(None, what)]
}

fn check_crate(source: &Source, folder: &str, manifest: &Table) -> Vec<Finding> {
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == folder) else {
        return vec![source.finding(None, "a crate without a place among the arrows (tidy/src/arrows.rs)")];
    };
    let mut findings = Vec::new();
    let package = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    if package != Some(&format!("{PREFIX}{folder}")) {
        findings.push(source.finding(None, format!("the crate in {folder}/ is called {PREFIX}{folder}")));
    }
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
    if lints != Some(true) {
        findings.push(source.finding(None, "takes the workspace's lints: [lints] workspace = true"));
    }
    for name in siblings(manifest) {
        if !allowed.contains(&name.as_str()) {
            findings.push(source.finding(None, format!("{folder} must not know {name}")));
        }
    }
    findings
}

/// The crates of the workspace that a manifest names, in whichever table.
fn siblings(manifest: &Table) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            for (name, dependency) in table {
                // A dependency may be renamed; `package` is then what it is.
                let package = dependency.get("package").and_then(Value::as_str).unwrap_or(name);
                names.extend(package.strip_prefix(PREFIX).map(str::to_owned));
            }
        } else if key == "target" {
            names.extend(table.values().filter_map(Value::as_table).flat_map(siblings));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &str, dependencies: &str) -> usize {
        let head = format!("[package]\nname = \"sustain-{folder}\"\n[lints]\nworkspace = true\n");
        check_arrows(&Source::new(format!("{folder}/Cargo.toml"), head + dependencies)).len()
    }

    #[test]
    fn arrows_have_no_cycle() {
        for (position, (name, allowed)) in ARROWS.iter().enumerate() {
            for other in *allowed {
                let before = ARROWS[..position].iter().any(|(earlier, _)| earlier == other);
                assert!(before, "{name} knows {other}, which stands after it");
            }
        }
    }

    #[test]
    fn along_the_arrows_is_fine() {
        assert_eq!(count("proto", "[dependencies]\nserde = \"1\"\n"), 0);
        assert_eq!(count("node", "[dependencies]\nsustain-gossip.workspace = true\n"), 0);
        assert_eq!(count("cli", "[dev-dependencies]\nsustain-store = { path = \"../store\" }\n"), 0);
    }

    #[test]
    fn against_the_arrows_is_not_in_whichever_table() {
        assert_eq!(count("proto", "[dependencies]\nsustain-store.workspace = true\n"), 1);
        assert_eq!(count("store", "[dev-dependencies]\nsustain-gossip.workspace = true\n"), 1);
        assert_eq!(count("gossip", "[build-dependencies]\nsustain-vmdriver.workspace = true\n"), 1);
        assert_eq!(
            count("vmdriver", "[target.'cfg(unix)'.dependencies]\nsustain-gossip.workspace = true\n"),
            1
        );
        assert_eq!(
            count("store", "[dependencies]\nother = { package = \"sustain-node\", path = \"x\" }\n"),
            1
        );
        assert_eq!(count("tidy", "[dependencies]\nsustain-proto.workspace = true\n"), 1);
        assert_eq!(count("proto", "[dev-dependencies]\nsustain-proto.workspace = true\n"), 1);
        assert_eq!(count("unheard-of", ""), 1);
    }

    #[test]
    fn name_and_lints_are_checked() {
        let named = |text: &str| check_arrows(&Source::new("proto/Cargo.toml", text)).len();
        assert_eq!(named("[package]\nname = \"sustain-proto\"\n"), 1);
        assert_eq!(named("[package]\nname = \"proto\"\n[lints]\nworkspace = true\n"), 1);
        assert_eq!(named("not a manifest"), 1);
    }

    #[test]
    fn the_workspace_lists_what_is_known() {
        let names = ARROWS.map(|(name, _)| format!("\"{name}\""));
        let count = |names: &[String]| {
            let text = format!("[workspace]\nmembers = [{}]\n", names.join(", "));
            check_arrows(&Source::new("Cargo.toml", text)).len()
        };
        assert_eq!(count(&names), 0);
        assert_eq!(count(&names[1..]), 1);
    }
}
