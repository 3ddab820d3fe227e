//! `config.toml`, which alone decides which clouds there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::Read as _,
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use parking_lot::Mutex;
use raic_array::{
    ArrayConfig, ArrayError, Class, Classes, Geometry, STANDARD_CLASS, format::MAX_SEGMENT,
};
use raic_storage::{ChunkBudget, Cost, Expiry, GracePeriods, Moment, Weight};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    error::{Failed, Outcome},
    home::{self, Home},
};

/// How long a credential's command may take.
const COMMAND: Duration = Duration::from_secs(30);

/// How long a credential's command may take to end after it has printed everything.
const CLOSING: Duration = Duration::from_secs(2);

/// Most clouds that can be served.
const MOST_CLOUDS: usize = 32;

/// The smallest segment that a class may have, in bytes.
const LEAST_SEGMENT: u64 = 4 << 10;

/// The largest size that may be set, in bytes.
const MOST_BYTES: u64 = i64::MAX as u64;

/// The configuration that `raic init` writes.
pub(crate) const EXAMPLE: &str = r#"# RAIC's configuration. The daemon reads it when it starts, at `raic reload`, and after commands
# that change it, such as `raic cloud add`.

[array]
# default_class = "standard"  # the class of files whose bucket and `raic put --class` name none

# A class says how files are stored. RAIC cuts each file into n shares, on n of the clouds below,
# and any k of them give the file back. A write is acknowledged if the file survives the loss of
# any n-k clouds, those counted that are down already, and of `survive` more failure domains.
# A file keeps what it was stored with: a change here changes new files only.
[classes.standard]
k = 2
n = 4
survive = 1
# padding = "padme"           # hides exact lengths from the clouds, for up to 12 % more space;
#                             # "none" is the default
# segment_size = "128 KiB"    # what is sealed and coded at once, up to 4 MiB; the default
#
# Another class: three whole copies of each file. `raic bucket create small --class copies`
# [classes.copies]
# k = 1
# n = 3

[storage]
# These settings apply to all clouds. The values are the defaults.
# lease_expiry = "never"      # "age": an account's lease ends if it was not renewed in time
#                             # "cutoff": it ends if it was last renewed before lease_cutoff
# lease_cutoff = "2026-10-01T00:00:00Z"       # counts once this moment has passed
# deletions_per_second = 100  # on each cloud
# reconcile_hours = 24        # how often the daemon compares a cloud with the leases
# spool = "1 GiB"             # room below the home for parts of uploads that wait
# memory = "256 MiB"          # for all uploads together, and an eighth more for small ones
# read_memory = "64 MiB"      # for all reads together; a read without room is slower
# The daemon reads `spool`, `memory` and `read_memory` only when it starts.

# The door for Tahoe-LAFS clients: one storage server for each cloud. `raic tahoe servers-yaml`
# prints what a client needs. Without the section [array] the daemon serves these clients alone.
# [tahoe]
# listen = "0.0.0.0:3456"
# location = "storage.example:3456"           # what clients connect to; unset: as `listen`
# certificates.local-1 = ["grid/one.json"]    # of a grid manager, passed through to clients

# [connectors]
# signed_by = ["RWQ.."]       # public keys of minisign: only a connector that one of them signed
#                             # (FILE.minisig) can be approved

# The clouds: as many as a class has shares, or more. Each file lies on n of them, or on all if there
# are fewer. These four are folders of this home. A file stored here survives the loss of any two
# folders, but not of the disk. Replace them by your clouds before you store files that you want to
# keep.
[clouds.local-1]
backend = "disk"
path = "clouds/1"             # below the home, unless it begins with /
# reserved_space = "10 GiB"   # room on the disk that RAIC leaves to other programs
# read_only = true            # the daemon writes and deletes nothing there
# domain = "this-disk"        # clouds of one domain fail together; unset: each cloud by itself
# weight = 100                # how much it is preferred if there are more clouds than shares
# cost = 0.0                  # of reading a GB, in any unit: of clouds about as fast, cheap ones are read

[clouds.local-2]
backend = "disk"
path = "clouds/2"

[clouds.local-3]
backend = "disk"
path = "clouds/3"

[clouds.local-4]
backend = "disk"
path = "clouds/4"

# A cloud behind a connector. `raic connector list` shows the approved connectors, and
# `raic connector inspect NAME` shows the settings and credentials of one.
#
# [clouds.amazon]
# backend = "cloud"
# connector = "s3"           # the cloud runs the version that it was added with;
#                            # `raic cloud upgrade amazon` moves it to another one
# settings = { bucket = "my-bucket", region = "eu-central-1" }
# # Each credential comes from a file (mode 0600), an environment variable or a command's output:
# credentials.keys = { file = "secrets/amazon.json" }
# # credentials.keys = { env = "AMAZON_KEYS" }
# # credentials.keys = { command = ["aws", "configure", "export-credentials"] }
# ca = "/etc/my-ca.pem"      # an authority to trust, in addition to the system's
# # URLs that a login returned, one or a list for each name; `raic cloud pin amazon` writes them:
# endpoints = { storage = "https://swift.example.com/v1/AUTH_1" }
# prefix = "arrays/home"     # a folder of the container, if several arrays share it
# requests = 16              # requests at once
"#;

/// The content of `config.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `None` if there are no files, and the daemon serves Tahoe-LAFS clients alone.
    pub(crate) array: Option<ArraySection>,
    #[serde(default)]
    pub(crate) classes: BTreeMap<String, ClassSection>,
    pub(crate) tahoe: Option<TahoeSection>,
    #[serde(default)]
    pub(crate) storage: StorageSection,
    #[serde(default)]
    pub(crate) connectors: ConnectorsSection,
    #[serde(default)]
    pub(crate) clouds: BTreeMap<String, CloudSection>,
}

/// The section `[connectors]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConnectorsSection {
    /// Public keys of minisign. A connector can be approved only if one of them signed it. An empty
    /// list asks for no signature.
    pub(crate) signed_by: Vec<String>,
}

/// The section `[tahoe]`: the door for clients of Tahoe-LAFS.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TahoeSection {
    /// The address to listen at.
    pub(crate) listen: SocketAddr,
    /// The host and port that clients connect to; `None` if they are those of `listen`.
    location: Option<String>,
    /// Files of grid-manager certificates, by the names of the clouds that they are for.
    #[serde(default)]
    pub(crate) certificates: BTreeMap<String, Vec<PathBuf>>,
}

impl TahoeSection {
    /// Returns the host and port that clients connect to.
    pub(crate) fn location(&self) -> String {
        self.location
            .clone()
            .unwrap_or_else(|| self.listen.to_string())
    }

    fn check(&self) -> Result<(), String> {
        match &self.location {
            None if self.listen.ip().is_unspecified() => Err(format!(
                "tahoe: listen = \"{}\" is every address of this machine, and clients need one: \
                 set location = \"HOST:PORT\" to what they can reach",
                self.listen
            )),
            Some(location) if !is_location(location) => Err(format!(
                "tahoe: location = {location:?} is not HOST:PORT, such as \"storage.example:3456\""
            )),
            _ => Ok(()),
        }
    }
}

/// Returns whether a text is a host and a port, as they stand in a URL.
fn is_location(text: &str) -> bool {
    let host = |host: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(plain),
        }
    };
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(h, port)| host(h) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// The section `[array]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArraySection {
    default_class: Option<String>,
    /// These three stood here once, and are settings of a class.
    k: Option<toml::Value>,
    survive: Option<toml::Value>,
    padding: Option<toml::Value>,
}

impl ArraySection {
    /// Refuses the settings that are a class's, and shows what to write instead.
    fn check(&self, classes: &BTreeMap<String, ClassSection>, clouds: usize) -> Result<(), String> {
        if self.k.is_none() && self.survive.is_none() && self.padding.is_none() {
            return Ok(());
        }
        let shown = |name: &str, value: &Option<toml::Value>, default: Option<String>| {
            // What is no number or known word is not repeated: it may be a secret.
            let value = match value {
                Some(toml::Value::Integer(number)) => Some(number.to_string()),
                Some(toml::Value::String(word)) if word == "padme" || word == "none" => {
                    Some(format!("{word:?}"))
                }
                _ => default,
            };
            value.map_or(String::new(), |value| format!("    {name} = {value}\n"))
        };
        if !classes.is_empty() {
            return Err(
                "array: k, survive and padding are settings of a class now: remove them from \
                 [array], and see the sections [classes.NAME]"
                    .to_owned(),
            );
        }
        let k = self.k.as_ref().and_then(toml::Value::as_integer);
        let k = k.and_then(|k| usize::try_from(k).ok()).unwrap_or(2);
        let n = clouds.max(k.saturating_add(1)).min(MOST_CLOUDS);
        Err(format!(
            "array: k, survive and padding are settings of a class now. Write this instead of \
             them:\n\n    [array]\n\n    [classes.{STANDARD_CLASS}]\n{}    n = \
             {}\n{}{}",
            shown("k", &self.k, Some("2".to_owned())),
            n,
            shown("survive", &self.survive, Some("1".to_owned())),
            shown("padding", &self.padding, None),
        ))
    }
}

/// A section `[classes.NAME]`: how files are stored.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassSection {
    pub(crate) k: u8,
    n: u8,
    #[serde(default = "one")]
    survive: usize,
    #[serde(default)]
    padding: PaddingSetting,
    #[serde(default = "segment_size", deserialize_with = "size")]
    segment_size: ByteSize,
}

impl ClassSection {
    fn class(&self, name: &str) -> Result<Class, String> {
        let Self { k, n, survive, .. } = *self;
        let geometry = Geometry { k, n };
        if !(1..n).contains(&k) || !geometry.is_possible() {
            return Err(format!(
                "classes.{name}: k = {k} of n = {n} shares: k must be 1 or more, and less than n, \
                 which must be {MOST_CLOUDS} at most"
            ));
        }
        let lost = usize::from(n - k);
        if survive > lost {
            return Err(format!(
                "classes.{name}: survive = {survive}: {k}-of-{n} survives the loss of {lost} clouds \
                 at most"
            ));
        }
        let sizes = LEAST_SEGMENT..=u64::from(MAX_SEGMENT);
        let segment_size = match u32::try_from(self.segment_size.as_u64()) {
            Ok(size) if sizes.contains(&size.into()) => size,
            _ => {
                return Err(format!(
                    "classes.{name}: segment_size must be from 4 KiB to 4 MiB"
                ));
            }
        };
        Ok(Class {
            geometry,
            survive,
            padding: self.padding.into(),
            segment_size,
        })
    }
}

/// The setting `padding` of a class.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PaddingSetting {
    #[default]
    None,
    Padme,
}

impl From<PaddingSetting> for raic_array::Padding {
    fn from(setting: PaddingSetting) -> Self {
        match setting {
            PaddingSetting::None => Self::None,
            PaddingSetting::Padme => Self::Padme,
        }
    }
}

fn segment_size() -> ByteSize {
    ByteSize::b(Class::SEGMENT_SIZE.into())
}

fn one() -> usize {
    1
}

fn sixteen() -> usize {
    16
}

/// Reads a text such as `256 MiB`; `None` if it is not a size, or more than a file system can have.
pub(crate) fn parse_size(text: &str) -> Option<ByteSize> {
    let size: ByteSize = text.parse().ok()?;
    (size.as_u64() <= MOST_BYTES).then_some(size)
}

fn cost<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Cost, D::Error> {
    let units = f64::deserialize(from)?;
    let wrong = || serde::de::Error::custom("cost must be a number from 0 to 1000000");
    Cost::per_gigabyte(units).ok_or_else(wrong)
}

/// Reads a size: a number of bytes, or a text such as `256 MiB`.
fn size<'de, D: serde::Deserializer<'de>>(value: D) -> Result<ByteSize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bytes(i64),
        Text(String),
    }
    let no_size = |what: String| {
        serde::de::Error::custom(format!("{what} is not a size, such as \"256 MiB\""))
    };
    match Written::deserialize(value).map_err(|_| no_size("this".to_owned()))? {
        Written::Bytes(bytes) => u64::try_from(bytes)
            .map(ByteSize::b)
            .map_err(|_| no_size(bytes.to_string())),
        Written::Text(text) => parse_size(&text).ok_or_else(|| no_size(format!("{text:?}"))),
    }
}

/// The section `[storage]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StorageSection {
    lease_expiry: LeaseExpiry,
    lease_cutoff: Option<String>,
    pub(crate) deletions_per_second: u32,
    pub(crate) reconcile_hours: u32,
    #[serde(deserialize_with = "size")]
    pub(crate) spool: ByteSize,
    #[serde(deserialize_with = "size")]
    pub(crate) memory: ByteSize,
    #[serde(deserialize_with = "size")]
    pub(crate) read_memory: ByteSize,
    /// [`GracePeriods::late`] in seconds; only tests set it.
    late_seconds: Option<u64>,
    /// [`GracePeriods::upload`] in seconds; only tests set it.
    upload_seconds: Option<u64>,
    /// [`GracePeriods::suspicion`] in seconds; only tests set it.
    suspicion_seconds: Option<u64>,
}

impl Default for StorageSection {
    fn default() -> Self {
        Self {
            lease_expiry: LeaseExpiry::Never,
            lease_cutoff: None,
            deletions_per_second: 100,
            reconcile_hours: 24,
            spool: ByteSize::gib(1),
            memory: ByteSize::b(ChunkBudget::DEFAULT),
            read_memory: ByteSize::b(ArrayConfig::READ_MEMORY),
            late_seconds: None,
            upload_seconds: None,
            suspicion_seconds: None,
        }
    }
}

/// The rule by which accounts' leases end by themselves.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LeaseExpiry {
    Never,
    Age,
    Cutoff,
}

impl StorageSection {
    pub(crate) fn expiry(&self) -> Result<Expiry, String> {
        match (self.lease_expiry, &self.lease_cutoff) {
            (LeaseExpiry::Never, _) => Ok(Expiry::Never),
            (LeaseExpiry::Age, _) => Ok(Expiry::Age),
            (LeaseExpiry::Cutoff, None) => {
                Err("lease_expiry = \"cutoff\" needs a lease_cutoff".to_owned())
            }
            (LeaseExpiry::Cutoff, Some(text)) => {
                let moment: jiff::Timestamp = text
                    .parse()
                    .map_err(|e| format!("lease_cutoff: {e}; write it as 2026-10-01T00:00:00Z"))?;
                Ok(Expiry::Cutoff(Moment::from_millis(moment.as_millisecond())))
            }
        }
    }

    /// Returns the waits before something is given up or destroyed: the defaults, unless a test has
    /// set less.
    pub(crate) fn grace_periods(&self) -> GracePeriods {
        let seconds = |set: Option<u64>, default| set.map_or(default, Duration::from_secs);
        let default = GracePeriods::default();
        GracePeriods {
            late: seconds(self.late_seconds, default.late),
            upload: seconds(self.upload_seconds, default.upload),
            suspicion: seconds(self.suspicion_seconds, default.suspicion),
        }
    }
}

/// A section `[clouds.NAME]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "backend", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum CloudSection {
    /// A folder on this machine.
    Disk {
        /// The folder, below the home unless it begins with `/`.
        path: PathBuf,
        /// Bytes of the folder's disk that RAIC leaves to other programs.
        #[serde(default, deserialize_with = "size")]
        reserved_space: ByteSize,
        #[serde(default)]
        read_only: bool,
        domain: Option<String>,
        weight: Option<NonZeroU16>,
        #[serde(default, deserialize_with = "cost")]
        cost: Cost,
    },
    /// The daemon's memory: everything is gone when it ends. For tests.
    Memory {
        /// Whether an array may keep shares here.
        #[serde(default)]
        volatile: bool,
    },
    /// Nowhere: shares are taken and forgotten. For measurements.
    Null {
        /// Whether an array may keep shares here.
        #[serde(default)]
        volatile: bool,
    },
    /// A container behind a connector.
    Cloud {
        connector: String,
        #[serde(default)]
        settings: BTreeMap<String, String>,
        #[serde(default)]
        credentials: BTreeMap<String, Source>,
        ca: Option<PathBuf>,
        /// The URLs that a login returned and that were pinned, by the names of the endpoints.
        #[serde(default)]
        endpoints: BTreeMap<String, Pinned>,
        /// The folder of the container that the cloud uses; `None` for the whole container.
        prefix: Option<String>,
        #[serde(default = "sixteen")]
        requests: usize,
        #[serde(default)]
        read_only: bool,
        /// Name of a group of clouds that fail together; `None` if the cloud fails by itself.
        domain: Option<String>,
        /// How many shares the cloud gets beside the others.
        weight: Option<NonZeroU16>,
        /// What it costs to read 10^9 bytes.
        #[serde(default, deserialize_with = "cost")]
        cost: Cost,
    },
}

/// The URL or the URLs that an endpoint is pinned to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(crate) enum Pinned {
    One(String),
    Several(Vec<String>),
}

impl Pinned {
    pub(crate) fn all(&self) -> Vec<String> {
        match self {
            Self::One(url) => vec![url.clone()],
            Self::Several(urls) => urls.clone(),
        }
    }
}

/// The source of a credential's document.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
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
        Self::parse(&text, home.path())
            .and_then(|config| config.require_geometry().map(|()| config))
            .map_err(|why| Failed::configuration(format!("{}: {why}", path.display())))
    }

    /// Requires that the clouds can form an array.
    pub(crate) fn require_geometry(&self) -> Result<(), String> {
        let n = self.clouds.len();
        let Some(array) = &self.array else {
            if !self.classes.is_empty() {
                return Err(
                    "there are [classes] but no [array]: add it, and files are served".to_owned(),
                );
            }
            return match (&self.tahoe, n) {
                (None, _) => Err("it has neither [array] nor [tahoe]: nothing to serve".to_owned()),
                (Some(_), 1..=MOST_CLOUDS) => Ok(()),
                (Some(_), n) => Err(format!("{n} clouds: 1 to {MOST_CLOUDS} can be served")),
            };
        };
        let forgetful = self
            .clouds
            .iter()
            .find(|(_, c)| c.is_volatile() && !c.may_be_volatile());
        if let Some((name, _)) = forgetful {
            return Err(format!(
                "cloud {name:?} forgets its shares when the daemon ends; if the array is only for \
                 a test, set volatile = true there"
            ));
        }
        if n > MOST_CLOUDS {
            return Err(format!(
                "{n} clouds: an array can have {MOST_CLOUDS} at most"
            ));
        }
        let domains = self.clouds.iter();
        let domains = domains.map(|(name, cloud)| cloud.domain().unwrap_or(name).clone());
        let domains: Vec<String> = domains.collect();
        let classes = self.classes(array)?;
        let impossible = classes
            .all()
            .find(|(_, class)| !class.is_possible_on(&domains));
        match impossible {
            None => Ok(()),
            Some((name, class)) => {
                let Geometry { k, n: shares } = class.geometry;
                Err(format!(
                    "classes.{name}: {k}-of-{shares} with survive = {} on {n} clouds could store no \
                     file that survives what it should: add clouds of other failure domains, or lower \
                     k or survive",
                    class.survive
                ))
            }
        }
    }

    /// Makes the classes of the array.
    pub(crate) fn classes(&self, array: &ArraySection) -> Result<Classes, String> {
        let classes = self.classes.iter();
        let classes = classes.map(|(name, section)| Ok((name.clone(), section.class(name)?)));
        let classes = classes.collect::<Result<_, String>>()?;
        let default = array.default_class.as_deref().unwrap_or(STANDARD_CLASS);
        Classes::new(classes, default).map_err(|e| match e {
            ArrayError::NoSuchClass(name) => format!(
                "there is no section [classes.{name}], and it is the class of files that name none; \
                 add it, or set default_class in [array]"
            ),
            e => e.to_string(),
        })
    }

    /// Parses a configuration. Paths in it are below `home`, unless they begin with `/`.
    pub(crate) fn parse(text: &str, home: &Path) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| described(text, &e))?;
        config.storage.expiry()?;
        if let Some(array) = &config.array {
            array.check(&config.classes, config.clouds.len())?;
        }
        if let Some(tahoe) = &config.tahoe {
            tahoe.check()?;
            let unknown = |name: &&String| !config.clouds.contains_key(*name);
            if let Some(name) = tahoe.certificates.keys().find(unknown) {
                return Err(format!("tahoe.certificates: there is no cloud {name:?}"));
            }
        }
        if config.storage.memory < ByteSize::mib(1) || config.storage.spool < ByteSize::mib(8) {
            return Err(
                "storage: memory must be 1 MiB or more, and spool 8 MiB or more".to_owned(),
            );
        }
        if config.storage.deletions_per_second == 0 || config.storage.reconcile_hours == 0 {
            return Err(
                "storage: deletions_per_second and reconcile_hours must be 1 or more".to_owned(),
            );
        }
        if let Some((name, _)) = config.clouds.iter().find(
            |(_, c)| matches!(c, CloudSection::Disk { path, .. } if path.as_os_str().is_empty()),
        ) {
            return Err(format!("cloud {name:?}: its path is empty"));
        }
        for name in config.clouds.keys() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                return Err(format!(
                    "{name:?} cannot be a cloud's name: 1 to 64 of A-Z, a-z, 0-9, - and _"
                ));
            }
        }
        for (i, (name, section)) in config.clouds.iter().enumerate() {
            let same = config
                .clouds
                .iter()
                .take(i)
                .find(|(_, other)| section.is_same_place(other, home));
            if let Some((other, _)) = same {
                return Err(format!(
                    "clouds {other:?} and {name:?} are one place, or one lies in the other: its loss would take two shares of every file"
                ));
            }
        }
        Ok(config)
    }
}

/// Describes an error of the file by its place and its reason. The line itself is left out:
/// somebody may have written a secret there, and the daemon's log would keep it.
fn described(text: &str, e: &toml::de::Error) -> String {
    let message = in_plain_words(&without_values(e.message().trim()));
    let before = e.span().and_then(|span| text.get(..span.start));
    match before {
        None => message,
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before
                .rsplit('\n')
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                + 1;
            format!("line {line}, column {column}: {message}")
        }
    }
}

/// Leaves the texts of values out of an error of serde.
fn without_values(message: &str) -> String {
    let Some((before, rest)) = message.split_once("string \"") else {
        return message.to_owned();
    };
    let after = rest.rsplit_once("\", expected").map(|(_, after)| after);
    match after {
        Some(after) => format!("{before}this text, expected{after}"),
        None => format!("{before}this text"),
    }
}

/// Returns an error of serde in the words of the file, without the words of Rust.
fn in_plain_words(message: &str) -> String {
    let words = [
        ("unknown variant", "unknown value"),
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
        ("expected u8", "expected a whole number from 0 to 255"),
        (
            "expected a nonzero u16",
            "expected a whole number from 1 to 65535",
        ),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected a string", "expected a text in quotes"),
        ("expected usize", "expected a whole number, 0 or more"),
        (
            "expected a sequence",
            "expected a list, such as [\"a\", \"b\"]",
        ),
        ("expected a map", "expected a table"),
        (
            "wanted exactly 1 element, more than 1 element",
            "expected one of file, env and command, such as { file = \"secrets/amazon.json\" }",
        ),
        (
            "expected map with a single key",
            "expected one of file, env and command, such as { file = \"secrets/amazon.json\" }",
        ),
        ("expected struct ArraySection", "expected a table, [array]"),
        (
            "expected struct ClassSection",
            "expected a table, [classes.NAME]",
        ),
        ("expected struct TahoeSection", "expected a table, [tahoe]"),
        (
            "invalid socket address syntax",
            "not an address and a port, such as \"0.0.0.0:3456\"",
        ),
        (
            "expected struct StorageSection",
            "expected a table, [storage]",
        ),
        (
            "expected struct ConnectorsSection",
            "expected a table, [connectors]",
        ),
        (
            "expected internally tagged enum CloudSection",
            "expected a table, [clouds.NAME]",
        ),
    ];
    words
        .iter()
        .fold(message.to_owned(), |text, (rust, plain)| {
            text.replace(rust, plain)
        })
}

impl CloudSection {
    /// The file of certificates to trust in addition to those of the system.
    pub(crate) fn ca(&self) -> Option<&Path> {
        match self {
            Self::Cloud { ca, .. } => ca.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn domain(&self) -> Option<&String> {
        match self {
            Self::Disk { domain, .. } | Self::Cloud { domain, .. } => domain.as_ref(),
            Self::Memory { .. } | Self::Null { .. } => None,
        }
    }

    /// How many shares the cloud gets beside the others, if it is set.
    pub(crate) fn weight(&self) -> Option<Weight> {
        match self {
            Self::Disk { weight, .. } | Self::Cloud { weight, .. } => {
                weight.and_then(|weight| Weight::new(weight.get()))
            }
            Self::Memory { .. } | Self::Null { .. } => None,
        }
    }

    /// What it costs to read from the cloud.
    pub(crate) fn cost(&self) -> Cost {
        match self {
            Self::Disk { cost, .. } | Self::Cloud { cost, .. } => *cost,
            Self::Memory { .. } | Self::Null { .. } => Cost::default(),
        }
    }

    /// Whether the shares are gone when the daemon ends.
    pub(crate) fn is_volatile(&self) -> bool {
        matches!(self, Self::Memory { .. } | Self::Null { .. })
    }

    /// Whether the operator permits an array on shares that are gone when the daemon ends.
    fn may_be_volatile(&self) -> bool {
        matches!(self, Self::Memory { volatile } | Self::Null { volatile } if *volatile)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        match self {
            Self::Disk { read_only, .. } | Self::Cloud { read_only, .. } => *read_only,
            Self::Memory { .. } | Self::Null { .. } => false,
        }
    }

    /// Returns what two clouds have in common and may lose together: a disk, an account or an
    /// endpoint. Domains are not compared.
    pub(crate) fn shares_with(&self, other: &Self, home: &Path) -> Option<&'static str> {
        use std::os::unix::fs::MetadataExt as _;
        let disk = |path: &Path| {
            std::fs::metadata(home.join(path))
                .ok()
                .map(|meta| meta.dev())
        };
        match (self, other) {
            (Self::Disk { path, .. }, Self::Disk { path: p, .. }) => {
                (disk(path).is_some() && disk(path) == disk(p)).then_some("a disk")
            }
            (
                Self::Cloud {
                    connector,
                    settings,
                    credentials,
                    ..
                },
                Self::Cloud {
                    connector: c,
                    settings: s,
                    credentials: k,
                    ..
                },
            ) => {
                let place = |s: &BTreeMap<String, String>| {
                    (s.get("endpoint").cloned(), s.get("region").cloned())
                };
                if !credentials.is_empty() && credentials == k {
                    Some("an account")
                } else {
                    (connector == c && place(settings) == place(s)).then_some("an endpoint")
                }
            }
            _ => None,
        }
    }

    /// Returns whether two clouds are one place, or one lies in the other.
    fn is_same_place(&self, other: &Self, home: &Path) -> bool {
        // A folder that does not exist, as on a disk that is not mounted, is compared by its path.
        let place = |path: &Path| {
            home.join(path)
                .canonicalize()
                .unwrap_or_else(|_| home.join(path))
        };
        match (self, other) {
            (Self::Disk { path, .. }, Self::Disk { path: other, .. }) => {
                let (one, other) = (place(path), place(other));
                one.starts_with(&other) || other.starts_with(&one)
            }
            (
                Self::Cloud {
                    connector,
                    settings,
                    prefix,
                    ..
                },
                Self::Cloud {
                    connector: c,
                    settings: s,
                    prefix: p,
                    ..
                },
            ) => {
                let folder = |prefix: &Option<String>| {
                    prefix
                        .as_deref()
                        .map_or(String::new(), |p| format!("{}/", p.trim_end_matches('/')))
                };
                let (one, other) = (folder(prefix), folder(p));
                connector == c
                    && settings == s
                    && (one.starts_with(&other) || other.starts_with(&one))
            }
            _ => false,
        }
    }
}

impl Source {
    /// Reads the document. Blocks the thread while a command runs.
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
                let child = Command::new(program)
                    .args(arguments)
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .spawn();
                let child =
                    child.map_err(|e| format!("its command {program} cannot be started: {e}"))?;
                output_within(child, COMMAND).map_err(|why| format!("its command {program} {why}"))
            }
        }
    }
}

/// Returns what a command prints, if the command succeeds within `limit`.
fn output_within(mut child: Child, limit: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut stdout = child.stdout.take().ok_or("has no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut out = Zeroizing::new(Vec::new());
        let read = stdout.read_to_end(&mut out).map(|_| out);
        // If the command took too long, the receiver has gone.
        let _ = sender.send(read);
    });
    let read = receiver.recv_timeout(limit);
    if read.is_err() {
        // The command may have ended by itself just now.
        let _ = child.kill();
    }
    // The command may have closed its output and still run.
    let deadline = Instant::now() + CLOSING;
    let status = loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            None => {
                let _ = child.kill();
                break child.wait().map_err(|e| e.to_string())?;
            }
        }
    };
    match read {
        Err(_) => Err(format!("did not end within {} s", limit.as_secs())),
        Ok(Err(e)) => Err(format!("cannot be read: {e}")),
        Ok(Ok(_)) if !status.success() => Err(format!("failed ({status})")),
        Ok(Ok(out)) => Ok(out),
    }
}

/// Warns of a secret that others can read, once for each file.
fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    // A blocking lock: held while a set is changed.
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if let Ok(meta) = std::fs::metadata(path)
        && meta.permissions().mode() & 0o077 != 0
        && WARNED.lock().insert(path.to_owned())
    {
        tracing::warn!(
            "{}: others can read this secret; chmod 600 it",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/nowhere"))
    }

    #[test]
    fn the_example_is_a_configuration_of_four_folders() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(
            (
                config.classes[STANDARD_CLASS].k,
                config.classes[STANDARD_CLASS].survive,
                config.clouds.len()
            ),
            (2, 1, 4)
        );
    }

    #[test]
    fn settings_of_a_class_in_the_array_are_refused_with_what_to_write() {
        let old =
            "[array]\nk = 3\npadding = \"padme\"\n[clouds.a]\nbackend = \"disk\"\npath = \"a\"";
        let told = parse(old).unwrap_err();
        let (_, text) = told.split_once("\n\n").unwrap();
        let cloud = |i| format!("[clouds.c{i}]\nbackend = \"disk\"\npath = \"{i}\"\n");
        let clouds: String = (0..4).map(cloud).collect();
        let config = parse(&format!("{text}{clouds}")).unwrap();
        config.require_geometry().unwrap();
        let classes = config.classes(config.array.as_ref().unwrap()).unwrap();
        let (name, class) = classes.default();
        assert_eq!(
            (name, class.geometry, class.survive),
            ("standard", Geometry { k: 3, n: 4 }, 1)
        );
        assert_eq!(class.padding, raic_array::Padding::Padme);
        let secret = parse("[array]\nk = \"SECRET\"").unwrap_err();
        assert!(!secret.contains("SECRET"), "{secret}");
    }

    #[test]
    fn classes_that_can_store_nothing_are_refused() {
        let refused = |class: &str, clouds: usize| {
            let cloud = |i| format!("[clouds.c{i}]\nbackend = \"disk\"\npath = \"{i}\"\n");
            let clouds: String = (0..clouds).map(cloud).collect();
            let config = parse(&format!("[array]\n{class}\n{clouds}"));
            config.and_then(|config| config.require_geometry()).err()
        };
        let standard = "[classes.standard]\nk = 2\nn = 4";
        for clouds in [2, 3, 4, 9] {
            assert_eq!(refused(standard, clouds), None, "{clouds}");
        }
        let cold = |rest: &str| format!("{standard}\n[classes.cold]\n{rest}");
        for (class, clouds, says) in [
            (standard.to_owned(), 1, "on 1 clouds"),
            (standard.to_owned(), 33, "32 at most"),
            (String::new(), 4, "[classes.standard]"),
            (cold("k = 4\nn = 4"), 4, "less than n"),
            (cold("k = 0\nn = 4"), 4, "1 or more"),
            (cold("k = 2\nn = 33"), 4, "32 at most"),
            (cold("k = 3\nn = 4\nsurvive = 2"), 4, "1 clouds at most"),
            (
                cold("k = 2\nn = 4\nsegment_size = \"1 KiB\""),
                4,
                "segment_size",
            ),
            (cold("k = 6\nn = 9\nsurvive = 3"), 3, "classes.cold"),
        ] {
            let told = refused(&class, clouds).unwrap_or_default();
            assert!(told.contains(says), "{class} on {clouds}: {told}");
        }
    }

    #[test]
    fn the_examples_commented_cloud_is_one_too() {
        let text: String = EXAMPLE
            .lines()
            .skip_while(|line| !line.starts_with("# [clouds.amazon]"))
            .map(|line| {
                line.trim_start_matches("# ")
                    .trim_start_matches('#')
                    .to_owned()
                    + "\n"
            })
            .filter(|line| !line.contains("env =") && !line.contains("command ="))
            .filter(|line| line.contains('=') || line.starts_with('['))
            .collect();
        let config = parse(&format!(
            "[array]\n[classes.standard]\nk = 1\nn = 2\n{text}"
        ))
        .unwrap();
        assert!(
            matches!(&config.clouds["amazon"], CloudSection::Cloud { connector, .. } if connector == "s3")
        );
    }

    #[test]
    fn a_container_has_one_cloud_or_one_for_each_folder() {
        let two = |one: &str, other: &str| {
            let cloud = |name: &str, prefix: &str| {
                let prefix = if prefix.is_empty() {
                    String::new()
                } else {
                    format!("prefix = {prefix:?}\n")
                };
                format!(
                    "[clouds.{name}]\nbackend = \"cloud\"\nconnector = \"s3\"\nsettings = {{ bucket = \"b\" }}\n{prefix}"
                )
            };
            parse(&format!(
                "[array]\n[classes.standard]\nk = 1\nn = 2\n{}{}",
                cloud("one", one),
                cloud("other", other)
            ))
        };
        for (one, other) in [("a", "b"), ("a/b", "a/c"), ("a", "ab")] {
            assert!(two(one, other).is_ok(), "{one} {other}");
        }
        for (one, other) in [("", ""), ("", "a"), ("a", "a/"), ("a", "a/b")] {
            assert!(
                two(one, other).unwrap_err().contains("one place"),
                "{one} {other}"
            );
        }
    }

    #[test]
    fn a_command_that_does_not_end_is_ended() {
        let command = |words: &[&str]| {
            let child = Command::new(words[0])
                .args(&words[1..])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            output_within(child, Duration::from_millis(300))
        };
        assert_eq!(
            command(&["echo", "secret"]).unwrap().as_slice(),
            b"secret\n"
        );
        assert!(command(&["false"]).unwrap_err().contains("failed"));
        assert!(
            command(&["sleep", "60"])
                .unwrap_err()
                .contains("did not end")
        );
    }

    #[test]
    fn errors_use_the_words_of_the_file() {
        let error_of = |line: &str| {
            parse(&format!(
                "[array]\n[classes.standard]\nk = 1\nn = 2\n{line}"
            ))
            .unwrap_err()
        };
        for (line, plain) in [
            ("survive = \"x\"", "a whole number"),
            ("survives = 1", "unknown key"),
            ("[clouds.a]\nbackend = \"dsk\"", "unknown value"),
            ("[clouds.a]\nbackend = \"disk\"", "missing key"),
            (
                "[clouds.a]\nbackend = \"cloud\"\nconnector = \"s3\"\ncredentials.keys = {}",
                "file, env and command",
            ),
            (
                "[clouds.a]\nbackend = \"cloud\"\nconnector = \"s3\"\ncredentials.keys = { file = \"a\", env = \"B\" }",
                "file, env and command",
            ),
            ("[clouds]\na = 1", "a table"),
            ("[connectors]\nsigned_by = 1", "a list"),
            ("[storage]\ndeletions_per_second = -1", "a whole number"),
        ] {
            let error = error_of(line);
            let rust = [
                "u8", "u32", "u64", "usize", "variant", "field", "struct", "enum", "map ",
                "sequence",
            ];
            assert!(
                error.contains(plain) && !rust.iter().any(|word| error.contains(word)),
                "{line}: {error}"
            );
        }
        // A secret in the wrong place does not get into a log.
        for line in [
            "survive = \"SECRET\"",
            "survive = [\"SECRET\"",
            "[storage]\nspool = 1, SECRET",
        ] {
            assert!(!error_of(line).contains("SECRET"), "{}", error_of(line));
        }
        assert!(error_of("survive = \"x\"").starts_with("line 5, column 11: "));
        assert!(error_of("[storage]\nspool = \"99999999999 GiB\"").contains("not a size"));
        assert!(
            parse("[array]\n[classes.standard]\nk = 300")
                .unwrap_err()
                .contains("from 0 to 255")
        );
    }

    #[test]
    fn a_folder_within_anothers_is_no_cloud_of_its_own() {
        let two = |one: &str, other: &str| {
            let cloud = |name: &str, path: &str| {
                format!("[clouds.{name}]\nbackend = \"disk\"\npath = {path:?}\n")
            };
            parse(&format!(
                "[array]\n[classes.standard]\nk = 1\nn = 2\n{}{}",
                cloud("one", one),
                cloud("other", other)
            ))
        };
        assert!(two("clouds/1", "clouds/10").is_ok());
        assert!(
            two("clouds/1", "clouds/1/shares")
                .unwrap_err()
                .contains("lies in the other")
        );
        assert!(
            two("/mnt/a/b", "/mnt/a")
                .unwrap_err()
                .contains("lies in the other")
        );
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        for text in [
            "[array]\n[classes.standard]\nk = 2\nn = 4\nsurvives = 1",
            "[array]\n[classes.standard]\nk = 2\nn = 4\n[clouds.a]\nbackend = \"dsk\"",
            "array = 3",
            "[",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let empty = parse("").unwrap().require_geometry().unwrap_err();
        assert!(empty.contains("nothing to serve"), "{empty}");
        let door = "[tahoe]\nlisten = \"0.0.0.0:1\"";
        assert!(parse(door).unwrap_err().contains("set location"));
        for location in ["x", "x:0", "x:99999", "a b:1", "[::1:1", ":1"] {
            let door = format!("{door}\nlocation = {location:?}");
            assert!(
                parse(&door).unwrap_err().contains("not HOST:PORT"),
                "{location}"
            );
        }
        for location in ["storage.example:3456", "10.0.0.1:1", "[::1]:3456"] {
            assert!(
                parse(&format!("{door}\nlocation = {location:?}")).is_ok(),
                "{location}"
            );
        }
        let twice = "[array]\n[classes.standard]\nk = 1\nn = 2\n[clouds.a]\nbackend = \"disk\"\npath = \"x/\"\n[clouds.b]\nbackend = \"disk\"\npath = \"x\"";
        assert!(parse(twice).unwrap_err().contains("one place"));
        let bad_name = "[array]\n[classes.standard]\nk = 2\nn = 4\n[clouds.\"a/b\"]\nbackend = \"disk\"\npath = \"x\"";
        assert!(parse(bad_name).unwrap_err().contains("a/b"));
    }
}
