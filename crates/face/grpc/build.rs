//! Compiles the interface in `/proto` into Rust. It needs neither protoc nor a network.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protox::Compiler;

/// Rust and comments of the whole interface, and two descriptor sets for reflection: what peers are served, and what
/// the operator is served.
fn main() -> Result<(), Box<dyn Error>> {
    // Asked for when it runs: a build cache may outlive the checkout in which this was compiled.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo says where the package is")?;
    let root = Path::new(&package).join("../../../proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?);
    // Relative to this package, for the same reason.
    println!("cargo:rerun-if-changed=../../../proto");

    let mut all = Vec::new();
    find_protos(&root, &mut all)?;
    // The same order everywhere, so that the same sources give the same bytes.
    all.sort();
    let (operator, peer): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|path| path.components().any(|part| part.as_os_str() == "admin"));

    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(compile(&root, &all)?.file_descriptor_set())?;
    fs::write(out.join("peer.bin"), compile(&root, &peer)?.encode_file_descriptor_set())?;
    fs::write(out.join("operator.bin"), compile(&root, &operator)?.encode_file_descriptor_set())?;
    Ok(())
}

fn compile(root: &Path, files: &[PathBuf]) -> Result<Compiler, Box<dyn Error>> {
    let mut compiler = Compiler::new([root])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    Ok(compiler)
}

fn find_protos(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find_protos(&path, found)?;
        } else if path.extension() == Some(OsStr::new("proto")) {
            found.push(path);
        }
    }
    Ok(())
}
