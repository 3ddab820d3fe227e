//! What a command ends with: a sentence, and an exit code that scripts can act on.

use std::process::ExitCode;

use raic_cloud::{CloudError, ErrorKind};
use raic_storage::StorageError;

/// The exit codes, as `raic --help` lists them.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed for a reason not listed here
  2  the command line is wrong, or a name cannot be a file's
  3  there is no such file
  4  the configuration, a credential, a key or a connector is wrong
  5  the daemon does not run; start it with `raic serve`
  6  too few clouds can be reached to store or to read
  7  a quota or a disk is full
  8  a daemon already runs in this home, or is starting or stopping";

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Other = 1,
    Usage = 2,
    NoSuchFile = 3,
    Configuration = 4,
    NoDaemon = 5,
    TooFewClouds = 6,
    Full = 7,
    Busy = 8,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) class: Class,
    pub(crate) sentence: String,
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failed>;

impl Failed {
    pub(crate) fn other(sentence: impl std::fmt::Display) -> Self {
        Self {
            class: Class::Other,
            sentence: sentence.to_string(),
        }
    }

    /// A command line that is wrong.
    pub(crate) fn usage(sentence: impl std::fmt::Display) -> Self {
        Self {
            class: Class::Usage,
            sentence: sentence.to_string(),
        }
    }

    pub(crate) fn configuration(sentence: impl std::fmt::Display) -> Self {
        Self {
            class: Class::Configuration,
            sentence: sentence.to_string(),
        }
    }

    /// An error of the system: a full disk is one, whatever was to be written.
    pub(crate) fn io(what: impl std::fmt::Display, e: &std::io::Error) -> Self {
        let class = match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Class::Full,
            _ => Class::Other,
        };
        Self {
            class,
            sentence: format!("{what}: {e}"),
        }
    }

    /// The home's database, or what is kept in it.
    pub(crate) fn storage(e: impl Into<StorageError>) -> Self {
        let e = e.into();
        let class = if e.is_full() {
            Class::Full
        } else {
            Class::Configuration
        };
        Self {
            class,
            sentence: e.to_string(),
        }
    }

    /// A cloud that was asked by this command itself.
    pub(crate) fn cloud(e: &CloudError) -> Self {
        let class = match e.kind {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled => {
                Class::TooFewClouds
            }
            ErrorKind::QuotaExceeded => Class::Full,
            ErrorKind::ContainerNotFound
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::ClockSkew
            | ErrorKind::RefusedByHost
            | ErrorKind::Misconfigured => Class::Configuration,
            _ => Class::Other,
        };
        Self {
            class,
            sentence: e.to_string(),
        }
    }

    /// A daemon has the home's lock.
    pub(crate) fn busy(home: &std::path::Path) -> Self {
        let sentence = format!(
            "a daemon runs in {}, or is starting or stopping; stop it first, or try again in a moment",
            home.display()
        );
        Self {
            class: Class::Busy,
            sentence,
        }
    }

    /// By the admin door's word for it.
    pub(crate) fn told(code: &str, sentence: String) -> Self {
        let class = match code {
            "no-such-file" => Class::NoSuchFile,
            "configuration" | "wrong-key" | "refused" => Class::Configuration,
            "bad-name" => Class::Usage,
            "quota" => Class::Full,
            "too-few-clouds" | "unreadable" => Class::TooFewClouds,
            _ => Class::Other,
        };
        Self { class, sentence }
    }

    /// The class as a word that programs can act on, in the place of the exit code.
    pub(crate) fn code(&self) -> &'static str {
        match self.class {
            Class::Other => "other",
            Class::Usage => "usage",
            Class::NoSuchFile => "no-such-file",
            Class::Configuration => "configuration",
            Class::NoDaemon => "no-daemon",
            Class::TooFewClouds => "too-few-clouds",
            Class::Full => "full",
            Class::Busy => "busy",
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.class as u8)
    }
}
