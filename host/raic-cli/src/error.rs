//! The outcome of a command. A failed command has a sentence for people, and a code for scripts.

use raic_cloud::{CloudError, ErrorKind};
use raic_gateway::wire::Code;
use raic_storage::StorageError;

/// The list of exit codes, at the end of `raic --help`.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed for a reason not listed here
  2  the command line is wrong, or a text cannot be a file's name
  3  there is no such file or bucket
  4  the configuration, an account, a credential, a key or a connector is wrong
  5  the daemon does not run; start it with `raic serve`
  6  too few clouds can be reached to store or to read
  7  a quota or a disk is full
  8  a daemon already runs in this home, or is starting or stopping
  9  there is a file or a bucket of that name already, or a bucket holds files";

/// The error of a failed command.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) code: Code,
    pub(crate) sentence: String,
}

/// The result of a command, or of a part of it.
pub(crate) type Outcome<T = ()> = Result<T, Failed>;

impl Failed {
    /// Makes an error without a code of its own.
    pub(crate) fn other(sentence: impl std::fmt::Display) -> Self {
        Self {
            code: Code::Other,
            sentence: sentence.to_string(),
        }
    }

    /// Makes the error of a wrong command line.
    pub(crate) fn usage(sentence: impl std::fmt::Display) -> Self {
        Self {
            code: Code::Usage,
            sentence: sentence.to_string(),
        }
    }

    /// Makes the error of a wrong configuration, account, credential, key or connector.
    pub(crate) fn configuration(sentence: impl std::fmt::Display) -> Self {
        Self {
            code: Code::Configuration,
            sentence: sentence.to_string(),
        }
    }

    /// Makes the error of a system call. A full disk has its own code, whatever was to be written.
    pub(crate) fn io(what: impl std::fmt::Display, e: &std::io::Error) -> Self {
        let code = match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::Full,
            _ => Code::Other,
        };
        Self {
            code,
            sentence: format!("{what}: {e}"),
        }
    }

    /// Makes the error of the home's database, or of an operation on its content.
    pub(crate) fn storage(e: impl Into<StorageError>) -> Self {
        let e = e.into();
        let code = if e.is_full() {
            Code::Full
        } else {
            Code::Configuration
        };
        Self {
            code,
            sentence: e.to_string(),
        }
    }

    /// Makes the error of a cloud to which this command itself sent the request.
    pub(crate) fn cloud(e: &CloudError) -> Self {
        let code = match e.kind {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled => {
                Code::TooFewClouds
            }
            ErrorKind::QuotaExceeded => Code::Full,
            ErrorKind::ContainerNotFound
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::ClockSkew
            | ErrorKind::RefusedByHost
            | ErrorKind::Misconfigured => Code::Configuration,
            _ => Code::Other,
        };
        Self {
            code,
            sentence: e.to_string(),
        }
    }

    /// Makes the error of a command that needs the home's lock while a daemon holds it.
    pub(crate) fn busy(home: &std::path::Path) -> Self {
        let sentence = format!(
            "a daemon runs in {}, or is starting or stopping; stop it first, or try again in a moment",
            home.display()
        );
        Self {
            code: Code::Busy,
            sentence,
        }
    }

    /// Returns the exit code, as `raic --help` lists it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.code {
            Code::Other | Code::BadRange | Code::ContentBrokeOff => 1,
            Code::Usage | Code::BadName => 2,
            Code::NoSuchFile => 3,
            Code::Configuration | Code::Refused | Code::WrongKey => 4,
            Code::NoDaemon => 5,
            Code::TooFewClouds => 6,
            Code::Full => 7,
            Code::Busy => 8,
            Code::Exists => 9,
        }
    }
}
