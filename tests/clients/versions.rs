//! docs/simulator.md says which versions are tested: those that are pinned.

/// The version of a package in its list, whose lines are `PACKAGE SEPARATOR VERSION`.
fn pinned<'a>(list: &'a str, package: &str, separator: &str) -> &'a str {
    let is_it = |line: &'a str| line.trim_start_matches("require ").strip_prefix(package)?.strip_prefix(separator);
    list.lines().find_map(is_it).unwrap_or_else(|| panic!("{package} is not pinned"))
}

#[test]
fn the_documented_versions_are_the_pinned_ones() {
    let documented = include_str!("../../docs/simulator.md");
    let python = include_str!("../openstack/lib/requirements.txt");
    let go = include_str!("gophercloud/go.mod");
    for (words, version) in [
        ("(python-openstackclient)", pinned(python, "python-openstackclient", "==")),
        ("openstacksdk", pinned(python, "openstacksdk", "==")),
        ("gophercloud", pinned(go, "github.com/gophercloud/gophercloud/v2", " v")),
    ] {
        let is_row = |line: &&str| line.starts_with('|') && line.contains(words);
        let row = documented.lines().find(is_row).unwrap_or_else(|| panic!("{words} has no row"));
        assert!(row.contains(&format!("| {version} |")), "{words}: {version}: {row}");
    }
}
