//! A connector's file, read without running it.

use std::{fs::File, io::Read as _, path::Path};

use sha2::Digest as _;
use wasmparser::{Encoding, Parser, Payload as Section, Validator, WasmFeatures};

use crate::{CONTRACT, ConnectorError, MANIFEST_SECTION, Manifest};

/// Largest connector file, in bytes. Guests in JavaScript and Python carry an interpreter of 12 to
/// 18 MB.
pub const MAX_CONNECTOR: usize = 64 << 20;

const PACKAGE: &str = "raic:connector/";
const INTERFACES: [&str; 6] = ["types", "payloads", "secrets", "http", "cloud", "log"];

/// A component that imports and exports what the contract demands: its bytes, their hash and its
/// manifest.
#[derive(Clone, Debug)]
pub struct Package {
    /// The component.
    pub bytes: Vec<u8>,
    /// SHA-256 of the component, in lower-case hex. The operator approves it, and clouds pin it.
    pub sha256: String,
    /// The component's manifest.
    pub manifest: Manifest,
    /// Names of the interfaces that the component imports: its permissions, beside the manifest's.
    pub imports: Vec<String>,
}

/// Longest manifest, in bytes.
const MAX_MANIFEST: usize = 64 << 10;

impl Package {
    /// Reads a file that anybody may have put there. It follows no link, does not wait for a pipe,
    /// and reads no more bytes than a connector may have.
    ///
    /// # Errors
    /// The errors of [`Package::read`]; [`ConnectorError::Io`] if the file cannot be read.
    pub fn open(path: &Path) -> Result<Self, ConnectorError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let file = File::options()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(ConnectorError::io(path))?;
        if !file.metadata().map_err(ConnectorError::io(path))?.is_file() {
            return Err(ConnectorError::Malformed(
                "it is not a regular file".to_owned(),
            ));
        }
        let mut bytes = Vec::new();
        let most = MAX_CONNECTOR as u64 + 1;
        file.take(most)
            .read_to_end(&mut bytes)
            .map_err(ConnectorError::io(path))?;
        Self::read(bytes)
    }

    /// Checks a file's bytes. They must be a whole, valid component with a manifest, which imports
    /// nothing but the contract and exports `object-store`.
    ///
    /// # Errors
    /// One variant of [`ConnectorError`] for each of these conditions.
    pub fn read(bytes: Vec<u8>) -> Result<Self, ConnectorError> {
        // The first line says what is wrong; the further ones show bytes.
        let malformed = |why: String| {
            let first = why.lines().next().unwrap_or_default().trim_end_matches(':');
            // The line may quote names from the file.
            ConnectorError::Malformed(crate::shown(first))
        };
        if bytes.len() > MAX_CONNECTOR {
            return Err(malformed(format!(
                "it is larger than {MAX_CONNECTOR} bytes"
            )));
        }
        if Parser::is_core_wasm(&bytes) {
            return Err(ConnectorError::CoreModule);
        }
        let (mut imports, mut exports, mut manifests) = (Vec::new(), Vec::new(), Vec::new());
        let mut depth = 0_usize;
        for section in Parser::new(0).parse_all(&bytes) {
            match section.map_err(|e| malformed(e.to_string()))? {
                Section::Version {
                    encoding: Encoding::Module,
                    ..
                } if depth == 0 => {
                    return Err(ConnectorError::CoreModule);
                }
                Section::ModuleSection { .. } | Section::ComponentSection { .. } => depth += 1,
                Section::End(_) => depth = depth.saturating_sub(1),
                Section::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        imports.push(
                            import
                                .map_err(|e| malformed(e.to_string()))?
                                .name
                                .name
                                .to_owned(),
                        );
                    }
                }
                Section::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        exports.push(
                            export
                                .map_err(|e| malformed(e.to_string()))?
                                .name
                                .name
                                .to_owned(),
                        );
                    }
                }
                Section::CustomSection(section)
                    if depth == 0 && section.name() == MANIFEST_SECTION =>
                {
                    manifests.push(section.data());
                }
                _ => {}
            }
        }
        imports.iter().try_for_each(|import| check_import(import))?;
        let wanted = format!("{PACKAGE}object-store@{CONTRACT}");
        if !exports.contains(&wanted) {
            let other = exports
                .into_iter()
                .find(|e| e.starts_with("raic:connector/object-store@"));
            return Err(match other {
                Some(found) => ConnectorError::ContractVersion { found },
                None => ConnectorError::MissingExport(wanted),
            });
        }
        Validator::new_with_features(WasmFeatures::default())
            .validate_all(&bytes)
            .map_err(|e| malformed(e.to_string()))?;
        let manifest = match manifests[..] {
            [] => return Err(ConnectorError::NoManifest),
            [manifest] if manifest.len() > MAX_MANIFEST => {
                return Err(ConnectorError::Manifest(format!(
                    "it is longer than {MAX_MANIFEST} bytes"
                )));
            }
            [manifest] => Manifest::parse(manifest)?,
            // It must be certain which manifest is shown and which counts.
            _ => {
                let why = "there are several; this component has one already, so give \
                           `raic connector build` the component that its tools made before \
                           it was a connector";
                return Err(ConnectorError::Manifest(why.to_owned()));
            }
        };
        let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&bytes));
        Ok(Self {
            bytes,
            sha256,
            manifest,
            imports,
        })
    }
}

fn check_import(import: &str) -> Result<(), ConnectorError> {
    if import.starts_with("wasi:") {
        return Err(ConnectorError::ImportsWasi(import.to_owned()));
    }
    let unknown = || ConnectorError::UnknownImport(import.to_owned());
    let (interface, version) = import
        .strip_prefix(PACKAGE)
        .and_then(|rest| rest.split_once('@'))
        .ok_or_else(unknown)?;
    if version != CONTRACT {
        return Err(ConnectorError::ContractVersion {
            found: import.to_owned(),
        });
    }
    if INTERFACES.contains(&interface) {
        Ok(())
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wat: &str) -> ConnectorError {
        Package::read(wat::parse_str(wat).unwrap()).unwrap_err()
    }

    #[test]
    fn what_is_no_connector_is_told_in_one_sentence() {
        assert!(matches!(
            Package::read(Vec::new()),
            Err(ConnectorError::Malformed(_))
        ));
        assert!(matches!(
            Package::read(b"#!/bin/sh\n".to_vec()),
            Err(ConnectorError::Malformed(_))
        ));
        assert!(matches!(read("(module)"), ConnectorError::CoreModule));
        assert!(matches!(
            read("(component)"),
            ConnectorError::MissingExport(_)
        ));
        let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
        assert!(
            matches!(read(wasi), ConnectorError::ImportsWasi(name) if name.starts_with("wasi:cli"))
        );
        let unknown = r#"(component (import "raic:connector/files@0.1.0" (instance)))"#;
        assert!(matches!(read(unknown), ConnectorError::UnknownImport(_)));
        let newer = r#"(component (import "raic:connector/http@0.9.0" (instance)))"#;
        assert!(matches!(
            read(newer),
            ConnectorError::ContractVersion { .. }
        ));
    }

    #[test]
    fn a_component_cut_anywhere_is_malformed() {
        let whole = wat::parse_str(r#"(component (import "raic:connector/log@0.1.0" (instance)))"#)
            .unwrap();
        for end in 0..whole.len() {
            let e = Package::read(whole[..end].to_vec()).unwrap_err();
            assert!(
                matches!(
                    e,
                    ConnectorError::Malformed(_) | ConnectorError::MissingExport(_)
                ),
                "{end}: {e}"
            );
        }
    }
}
