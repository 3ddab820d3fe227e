//! `config.toml`: the one truth for which clouds there are.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    error::{Failed, Outcome},
    home::{self, Home},
};

/// What `raic init` writes.
pub(crate) const EXAMPLE: &str = r#"# RAIC's configuration. The daemon reads it when it starts, and after `raic cloud add`.

[array]
# Every file is cut into n shares, one for each cloud below; any k of them give it back.
# A write is acknowledged when it survives the loss of `survive` more clouds than are down already.
k = 2
survive = 1

# As many clouds as the array has shares. These four are folders of this home, to begin with: a file stored here
# survives the loss of any two of the folders, not of the disk. Put your clouds in their place before you store what
# you want to keep: the number of clouds is the n of k-of-n.
[clouds.local-1]
backend = "disk"
path = "clouds/1" # below the home, unless it begins with /

[clouds.local-2]
backend = "disk"
path = "clouds/2"

[clouds.local-3]
backend = "disk"
path = "clouds/3"

[clouds.local-4]
backend = "disk"
path = "clouds/4"

# A cloud behind a connector. `raic connector list` shows which are approved, `raic connector inspect NAME` what
# settings and credentials they take.
#
# [clouds.amazon]
# backend = "cloud"
# connector = "s3"           # the version approved when the cloud was added; the first digits of a SHA-256 move it
# settings = { bucket = "my-bucket", region = "eu-central-1" }
# # Each credential from a file (mode 0600), an environment variable, or a command's output:
# credentials.keys = { file = "secrets/amazon.json" }
# # credentials.keys = { env = "AMAZON_KEYS" }
# # credentials.keys = { command = ["aws", "configure", "export-credentials"] }
# ca = "/etc/my-ca.pem"      # an authority to trust beside the system's
# requests = 16              # requests at once
"#;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) array: ArraySection,
    #[serde(default)]
    pub(crate) clouds: BTreeMap<String, CloudSection>,
}

/// `[array]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArraySection {
    pub(crate) k: u8,
    #[serde(default = "one")]
    pub(crate) survive: usize,
}

fn one() -> usize {
    1
}

fn sixteen() -> usize {
    16
}

/// `[clouds.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(tag = "backend", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum CloudSection {
    /// A folder.
    Disk { path: PathBuf },
    /// A container behind a connector.
    Cloud {
        connector: String,
        #[serde(default)]
        settings: BTreeMap<String, String>,
        #[serde(default)]
        credentials: BTreeMap<String, Source>,
        ca: Option<PathBuf>,
        #[serde(default = "sixteen")]
        requests: usize,
    },
}

/// Where a credential's document comes from.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Source {
    File(PathBuf),
    Env(String),
    Command(Vec<String>),
}

impl Config {
    pub(crate) fn load(home: &Home) -> Outcome<Self> {
        let path = home.config();
        let text = home::read(&path)?;
        let text = String::from_utf8(text)
            .map_err(|_| Failed::configuration(format!("{} is not UTF-8", path.display())))?;
        Self::parse(&text).map_err(|why| Failed::configuration(format!("{}: {why}", path.display())))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
        for name in config.clouds.keys() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                return Err(format!("{name:?} cannot be a cloud's name: 1 to 64 of A-Z, a-z, 0-9, - and _"));
            }
        }
        Ok(config)
    }
}

impl Source {
    /// The document. Blocks while a command runs.
    pub(crate) fn load(&self, home: &Home) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Self::File(path) => {
                let path = home.path().join(path);
                warn_if_open(&path);
                let read = std::fs::read(&path).map(Zeroizing::new);
                read.map_err(|e| format!("its file {} cannot be read: {e}", path.display()))
            }
            Self::Env(name) => match env::var(name) {
                Ok(value) => Ok(Zeroizing::new(value.into_bytes())),
                Err(_) => Err(format!("the environment variable {name} is not set")),
            },
            Self::Command(words) => {
                let (program, arguments) = words.split_first().ok_or("its command is empty")?;
                let out = Command::new(program)
                    .args(arguments)
                    .stdin(Stdio::null())
                    .stderr(Stdio::inherit())
                    .output();
                let out = out.map_err(|e| format!("its command {program} cannot be started: {e}"))?;
                if out.status.success() {
                    Ok(Zeroizing::new(out.stdout))
                } else {
                    Err(format!("its command {program} failed ({})", out.status))
                }
            }
        }
    }
}

fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Ok(meta) = std::fs::metadata(path)
        && meta.permissions().mode() & 0o077 != 0
    {
        tracing::warn!("{}: others can read this secret; chmod 600 it", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_configuration_of_four_folders() {
        let config = Config::parse(EXAMPLE).unwrap();
        assert_eq!((config.array.k, config.array.survive, config.clouds.len()), (2, 1, 4));
    }

    #[test]
    fn the_examples_commented_cloud_is_one_too() {
        let text: String = EXAMPLE
            .lines()
            .skip_while(|line| !line.starts_with("# [clouds.amazon]"))
            .map(|line| line.trim_start_matches("# ").trim_start_matches('#').to_owned() + "\n")
            .filter(|line| !line.contains("env =") && !line.contains("command ="))
            .filter(|line| line.contains('=') || line.starts_with('['))
            .collect();
        let config = Config::parse(&format!("[array]\nk = 1\n{text}")).unwrap();
        assert!(
            matches!(&config.clouds["amazon"], CloudSection::Cloud { connector, .. } if connector == "s3")
        );
    }

    #[test]
    fn what_is_misspelt_is_told_with_its_place() {
        for wrong in [
            "[array]\nk = 2\nsurvives = 1",
            "[array]\nk = 2\n[clouds.a]\nbackend = \"dsk\"",
            "array = 3",
            "[",
            "",
        ] {
            assert!(Config::parse(wrong).is_err(), "{wrong}");
        }
        let bad_name = "[array]\nk = 2\n[clouds.\"a/b\"]\nbackend = \"disk\"\npath = \"x\"";
        assert!(Config::parse(bad_name).unwrap_err().contains("a/b"));
    }
}
