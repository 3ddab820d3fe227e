//! The connectors that `cargo xtask connectors` built, and clouds that run them.

use std::{collections::BTreeMap, path::Path};

use raic_wasm::{Configuration, ConnectorCloud, ConnectorError, Engine, Package, TlsSettings};
use zeroize::Zeroizing;

/// Reads a component from the target folder's `connectors`; `target_tmp` is the test's
/// `CARGO_TARGET_TMPDIR`.
pub fn package(target_tmp: &str, name: &str) -> Package {
    let file = Path::new(target_tmp)
        .with_file_name("connectors")
        .join(format!("{name}.wasm"));
    let bytes = std::fs::read(&file).unwrap_or_else(|e| {
        panic!(
            "{}: {e}; `cargo xtask test` builds the connectors",
            file.display()
        )
    });
    Package::read(bytes).expect("a connector")
}

/// Access keys in the form that the S3 connector takes.
pub fn s3_keys(access_key: &str, secret_key: &str) -> Zeroizing<Vec<u8>> {
    let document = format!(r#"{{"AccessKeyId":"{access_key}","SecretAccessKey":"{secret_key}"}}"#);
    Zeroizing::new(document.into_bytes())
}

/// Opens a cloud behind a connector, under the connector's name. Settings, credentials and pinned
/// endpoints are given by name.
pub fn connected(
    target_tmp: &str,
    connector: &str,
    settings: &[(&str, &str)],
    credentials: &[(&str, &str)],
    endpoints: &[(&str, &str)],
) -> Result<ConnectorCloud, ConnectorError> {
    connected_by(
        target_tmp,
        connector,
        settings,
        credentials,
        endpoints,
        TlsSettings::default(),
    )
}

/// Opens a cloud as [`connected`] does, with settings of TLS.
pub fn connected_by(
    target_tmp: &str,
    connector: &str,
    settings: &[(&str, &str)],
    credentials: &[(&str, &str)],
    endpoints: &[(&str, &str)],
    tls: TlsSettings,
) -> Result<ConnectorCloud, ConnectorError> {
    let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    };
    let loaded = Engine::new()?.load(&package(target_tmp, connector), None)?;
    let documents = texts(credentials).into_iter();
    let configuration = Configuration {
        settings: texts(settings),
        credentials: documents
            .map(|(name, text)| (name, Zeroizing::new(text.into_bytes())))
            .collect(),
        endpoints: texts(endpoints)
            .into_iter()
            .map(|(name, url)| (name, vec![url]))
            .collect(),
        tls,
    };
    ConnectorCloud::new(connector, &loaded, &configuration)
}

/// Opens a cloud behind the S3 connector.
pub fn s3_cloud(
    target_tmp: &str,
    settings: &[(&str, &str)],
    keys: Zeroizing<Vec<u8>>,
    tls: TlsSettings,
) -> Result<ConnectorCloud, ConnectorError> {
    let connector = Engine::new()?.load(&package(target_tmp, "s3"), None)?;
    let configuration = Configuration {
        settings: settings
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        credentials: BTreeMap::from([("keys".to_owned(), keys)]),
        tls,
        ..Configuration::default()
    };
    ConnectorCloud::new("s3", &connector, &configuration)
}
