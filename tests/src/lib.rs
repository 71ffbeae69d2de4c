//! Tests of the whole house. What is shared between them lives here; the data they use lies in `data/`.

/// One arrow of the house: the name of a package and the names of the workspace packages it depends on.
pub type Arrows = Vec<(String, Vec<String>)>;

/// The floors from the ground up. A package may depend on packages of lower floors, and on those of its own floor that
/// stand before it in the list (`foundation` and `space` are ordered; faces never import each other).
pub const FLOORS: &[(&str, &[&str])] = &[
    ("foundation", &["huitong-ids", "huitong-proof", "huitong-policy", "huitong-store", "huitong-ledger"]),
    (
        "space",
        &["huitong-identity", "huitong-evidence", "huitong-catalog", "huitong-contract", "huitong-transfer"],
    ),
    ("face", &["huitong-grpc", "huitong-objects"]),
    ("node", &["huitong-node"]),
    ("cli", &["huitong-cli"]),
    ("tests", &["huitong-tests"]),
];

/// Arrows that run the wrong way, in words; empty when the house stands.
#[must_use]
pub fn wrong_arrows(arrows: &Arrows) -> Vec<String> {
    let mut wrong = Vec::new();
    for (package, dependencies) in arrows {
        let Some(from) = place(package) else {
            wrong.push(format!("{package} stands on no floor: add it to FLOORS and ARCHITECTURE.md"));
            continue;
        };
        for dependency in dependencies {
            let Some(to) = place(dependency) else { continue };
            let same_face = from.0 == to.0 && FLOORS.get(from.0).is_some_and(|floor| floor.0 == "face");
            if to >= from || same_face {
                wrong.push(format!("{package} depends on {dependency}, which is not below it"));
            }
        }
    }
    wrong
}

/// Floor and place on it.
fn place(package: &str) -> Option<(usize, usize)> {
    FLOORS.iter().enumerate().find_map(|(floor, (_, packages))| {
        packages.iter().position(|name| *name == package).map(|position| (floor, position))
    })
}

/// Packages that only some floors may name, with the packages that may.
pub const ONLY_IN: &[(&str, &[&str])] = &[
    ("sled", &["huitong-store"]),
    ("clap", &["huitong-cli"]),
    ("anyhow", &["huitong-cli", "huitong-tests"]),
    ("prost", &["huitong-grpc"]),
    ("tonic", &["huitong-grpc", "huitong-node", "huitong-cli"]),
    ("rcgen", &["huitong-identity", "huitong-node"]),
    ("axum", &["huitong-node"]),
    ("hyper", &["huitong-objects"]),
    ("quick-xml", &["huitong-objects"]),
    ("s3s", &["huitong-objects"]),
    ("huitong-objects", &["huitong-node"]),
];

/// Packages that are named where they do not belong, in words.
#[must_use]
pub fn misplaced(packages: &Arrows) -> Vec<String> {
    let mut wrong = Vec::new();
    for (package, dependencies) in packages {
        for dependency in dependencies {
            if let Some((name, allowed)) = ONLY_IN.iter().find(|(name, _)| name == dependency)
                && !allowed.contains(&package.as_str())
            {
                wrong.push(format!("{package} names {name}, which belongs to {} only", allowed.join(", ")));
            }
        }
    }
    wrong
}
