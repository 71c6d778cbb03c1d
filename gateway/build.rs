//! Packs the console's files (`ui/`) into the program. They are compressed here once, not at run time.
//! And tells the linker of a release build which functions lie together (`layout.ld`).

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=ui");
    lay_out();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut table = String::from("&[\n");
    for file in files(&source) {
        let path = file.strip_prefix(&source).expect("a file of ui/").display().to_string();
        let body = fs::read(&file).expect("a file of ui/");
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&body).expect("memory");
        let name = format!("{}.gz", path.replace('/', "-"));
        fs::write(out.join(&name), packed.finish().expect("memory")).expect("a file in OUT_DIR");
        let mut hash = DefaultHasher::new();
        body.hash(&mut hash);
        let _ = writeln!(
            table,
            "File {{ path: \"/{path}\", media_type: {:?}, etag: \"\\\"{:x}\\\"\", gzip: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")) }},",
            media_type(&path),
            hash.finish()
        );
    }
    table.push(']');
    fs::write(out.join("ui.rs"), table).expect("a file in OUT_DIR");
}

/// Hands `layout.ld` to the linker: without it, a gateway at rest has 4 MB more of its code in memory.
///
/// GNU ld and LLD read it. Other linkers may not: if RUSTFLAGS names a linker, the file is not used, nor with
/// `GATEPOST_LAYOUT=none`.
fn lay_out() {
    let variable = |name| env::var(name).unwrap_or_default();
    let release = variable("PROFILE") == "release" && variable("CARGO_CFG_TARGET_OS") == "linux";
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let is_wanted =
        variable("GATEPOST_LAYOUT") != "none" && !["fuse-ld", "linker"].iter().any(|named| flags.contains(named));
    println!("cargo::rerun-if-env-changed=GATEPOST_LAYOUT");
    println!("cargo::rerun-if-changed=layout.ld");
    if release && is_wanted {
        println!(
            "cargo::rustc-link-arg-bins=-T{}/layout.ld",
            variable("CARGO_MANIFEST_DIR")
        );
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("ui/") {
        let path = entry.expect("an entry of ui/").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        other => panic!("ui/{path}: no media type is known for {other:?}"),
    }
}
