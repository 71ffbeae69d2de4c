//! The shape of the house: arrows between crates, and what only some rooms may use.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::process::Command;

use huitong_tests::{Arrows, misplaced, wrong_arrows};

/// Packages of the workspace with the names of their ordinary dependencies.
fn packages() -> Arrows {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 10, "cargo metadata lists the workspace");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let ordinary = dependencies
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
                .collect();
            (package["name"].as_str().unwrap().to_owned(), ordinary)
        })
        .collect()
}

#[test]
fn every_arrow_runs_downwards() {
    assert_eq!(wrong_arrows(&packages()), Vec::<String>::new());
}

#[test]
fn an_arrow_turned_round_is_found() {
    let arrows = packages();
    let mut checked = 0;
    for (package, dependencies) in &arrows {
        for dependency in dependencies.iter().filter(|name| name.starts_with("huitong-")) {
            let mut turned = arrows.clone();
            let entry = turned.iter_mut().find(|(name, _)| name == dependency).unwrap();
            entry.1.push(package.clone());
            let wrong = wrong_arrows(&turned);
            assert!(
                wrong.iter().any(|line| line.starts_with(&format!("{dependency} depends on {package},"))),
                "{package} -> {dependency} turned round is not reported: {wrong:?}"
            );
            checked += 1;
        }
    }
    assert!(checked > 20, "the workspace has arrows to turn");
}

#[test]
fn a_package_on_no_floor_is_found() {
    let arrows = vec![("huitong-utils".to_owned(), Vec::new())];
    assert_eq!(wrong_arrows(&arrows).len(), 1);
}

#[test]
fn libraries_stay_in_their_rooms() {
    let packages = packages();
    assert_eq!(misplaced(&packages), Vec::<String>::new());
    for (package, library) in [
        ("huitong-ledger", "sled"),
        ("huitong-transfer", "hyper"),
        ("huitong-cli", "huitong-objects"),
        ("huitong-grpc", "s3s"),
    ] {
        let mut moved = packages.clone();
        moved.iter_mut().find(|(name, _)| name == package).unwrap().1.push(library.to_owned());
        assert_eq!(misplaced(&moved).len(), 1, "{package} {library}");
    }
}

#[test]
fn every_dependency_gives_its_reason() {
    let manifest = std::fs::read_to_string("../Cargo.toml").unwrap();
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let entries: Vec<&str> = table
        .lines()
        .filter(|line| line.contains('=') && !line.starts_with('#') && !line.starts_with("huitong-"))
        .collect();
    assert!(entries.len() > 20);
    let silent: Vec<&&str> = entries.iter().filter(|line| !line.contains(" # ")).collect();
    assert!(silent.is_empty(), "dependencies without a reason: {silent:?}");
}
