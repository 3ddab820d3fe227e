//! Puts the connectors of a release into the binary. `RAIC_CONNECTORS` names the folder that
//! `cargo xtask connectors` made. If it is not set, the binary contains no connectors, and every
//! connector waits for the operator's approval.

use std::{env, fmt::Write as _, fs, path::Path};

use sha2::{Digest as _, Sha256};

const RELEASED: [&str; 4] = ["azure", "gcs", "s3", "swift"];

fn main() {
    println!("cargo::rerun-if-env-changed=RAIC_CONNECTORS");
    println!("cargo::rerun-if-changed=build.rs");
    let mut list = String::new();
    if let Some(folder) = env::var_os("RAIC_CONNECTORS").filter(|folder| !folder.is_empty()) {
        for name in RELEASED {
            let file = Path::new(&folder).join(format!("{name}.wasm"));
            let file = file.canonicalize().unwrap_or(file);
            println!("cargo::rerun-if-changed={}", file.display());
            let bytes = fs::read(&file).unwrap_or_else(|e| {
                panic!(
                    "RAIC_CONNECTORS: {}: {e}; `cargo xtask connectors` builds it",
                    file.display()
                )
            });
            let sha256 = Sha256::digest(&bytes)
                .iter()
                .fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
            let _ = writeln!(list, "({sha256:?}, include_bytes!({file:?}).as_slice()),");
        }
    }
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    let out = Path::new(&out).join("released.rs");
    fs::write(&out, format!("&[{list}]")).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}
