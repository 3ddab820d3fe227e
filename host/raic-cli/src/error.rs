//! What a command ends with: a sentence, and an exit code that scripts can act on.

use std::process::ExitCode;

/// The exit codes, as `raic --help` lists them.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed for a reason not listed here
  2  the command line is wrong
  3  there is no such file
  4  the configuration, a credential, a key or a connector is wrong
  5  the daemon does not run; start it with `raic serve`
  6  too few clouds can be reached to store or to read
  7  a quota or a disk is full";

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Other = 1,
    NoSuchFile = 3,
    Configuration = 4,
    NoDaemon = 5,
    TooFewClouds = 6,
    Full = 7,
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
        Self { class: Class::Other, sentence: sentence.to_string() }
    }

    pub(crate) fn configuration(sentence: impl std::fmt::Display) -> Self {
        Self { class: Class::Configuration, sentence: sentence.to_string() }
    }

    /// By the admin door's word for it.
    pub(crate) fn told(code: &str, sentence: String) -> Self {
        let class = match code {
            "no-such-file" => Class::NoSuchFile,
            "configuration" | "wrong-key" => Class::Configuration,
            "quota" => Class::Full,
            "too-few-clouds" | "unreadable" => Class::TooFewClouds,
            _ => Class::Other,
        };
        Self { class, sentence }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.class as u8)
    }
}
