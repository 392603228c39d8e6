//! Compiles every .proto file under sbc/v1 and sbc/peer/v1 without protoc, and keeps the descriptors of sbc.v1 for
//! reflection and for JSON.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=sbc");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let control = files("sbc/v1");
    let peer = files("sbc/peer/v1");

    // Encoded by protox and not by prost: only that keeps the options of sbc/v1/options.proto.
    let mut public = protox::Compiler::new(["."]).expect("the crate's directory");
    public.include_imports(true).open_files(&control).unwrap_or_else(|e| panic!("{e:?}"));
    fs::write(out.join("descriptors.bin"), public.encode_file_descriptor_set()).expect("OUT_DIR is writable");

    // The package of an empty directory has no generated file to include.
    fs::write(out.join("sbc.peer.v1.rs"), "").expect("OUT_DIR is writable");
    let set = protox::compile(control.iter().chain(&peer), ["."]).unwrap_or_else(|e| panic!("{e:?}"));
    tonic_prost_build::configure().btree_map(".").bytes(".sbc.peer.v1").compile_fds(set).expect("code generation");
}

/// The .proto files of a directory in a fixed order, relative to the crate.
fn files(dir: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(Path::new(dir)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|e| e == "proto"))
        .collect();
    files.sort();
    files
}
