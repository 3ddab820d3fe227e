//! `key`: rotates the array's key, and changes the recovery key.
//!
//! Order of writes: the new keyring, sealed and in clear, is written into `secrets/rotating`. The
//! rename of that folder to `secrets/rotated` is the moment at which the rotation is done. After it
//! the files are moved to their places, the sealed one first; whoever opens the keyring next does
//! that if a crash came between. The daemon uses the new key once it has read it (`raic reload`)
//! and enough clouds have a copy.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use raic_array::{Identity, Keyring, RecoveryKey};
use raic_gateway::wire::Code;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    client::{Client, nothing},
    error::{Failed, Outcome},
    files::print_json,
    home::{Home, private_file, private_folder, read},
    output::say,
};

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a new array key, which seals what is stored from now on; asks for the recovery key
    Rotate {
        #[command(flatten)]
        recovery: Recovery,
        /// Also make a new identity, so that keys, ids and secrets of the Tahoe door are others
        #[arg(long)]
        identity: bool,
    },
    /// Makes a new recovery key, and a new array key with it; asks for the old recovery key
    Change {
        #[command(flatten)]
        recovery: Recovery,
        /// The file to write the new recovery key to; it must not exist
        #[arg(long, value_name = "FILE")]
        new: PathBuf,
    },
    /// Writes a copy of the keyring to a file, sealed by the recovery key, for a safe place
    Export {
        #[command(flatten)]
        recovery: Recovery,
        /// The file to write; it must not exist
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Writes a recovery key as 24 words, to copy it by hand; they are the key wherever it is asked
    /// for
    Words {
        #[command(flatten)]
        recovery: Recovery,
    },
    /// Checks whether a recovery key opens the keyring of this home
    Check {
        #[command(flatten)]
        recovery: Recovery,
    },
}

/// Where the recovery key is read from.
#[derive(Args)]
pub(crate) struct Recovery {
    /// The file of the recovery key; - is standard input [default: the terminal is asked]
    #[arg(long = "recovery-key", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Longest text that is read as a recovery key, in bytes.
const LONGEST: u64 = 4096;

impl Recovery {
    fn read(&self) -> Outcome<RecoveryKey> {
        let mut text = Zeroizing::new(String::new());
        let mut take = |source: &mut dyn io::Read| source.take(LONGEST).read_to_string(&mut text);
        let taken = match &self.file {
            Some(file) if file != Path::new("-") => {
                fs::File::open(file).and_then(|mut file| take(&mut file))
            }
            None if io::stdin().is_terminal() => {
                // Whoever looks at the screen sees it: it is typed once in years, and checked.
                crate::output::tell!("Type the recovery key, in as many lines as you like:");
                // What follows a key that is complete, or an empty line, is not read.
                loop {
                    let read = io::stdin().read_line(&mut text);
                    let is_whole = RecoveryKey::from_text(&text).is_ok();
                    let is_last = text.ends_with("\n\n") || text.len() as u64 > LONGEST;
                    if is_whole || is_last || !matches!(read, Ok(1..)) {
                        break read;
                    }
                }
            }
            None => {
                return Err(Failed::usage(
                    "the recovery key is needed; name its file with --recovery-key FILE, or - for \
                     standard input",
                ));
            }
            Some(_) => take(&mut io::stdin().lock()),
        };
        let from = match &self.file {
            Some(file) if file != Path::new("-") => format!(" from {}", file.display()),
            _ => String::new(),
        };
        taken.map_err(|e| Failed::other(format!("cannot read the recovery key{from}: {e}")))?;
        RecoveryKey::from_text(&text).map_err(wrong_key)
    }
}

fn wrong_key(e: raic_array::ArrayError) -> Failed {
    Failed {
        code: Code::WrongKey,
        sentence: e.to_string(),
    }
}

pub(crate) async fn run(home: &Home, json: bool, command: KeyCommand) -> Outcome {
    // Two rotations at once would make one generation of two keys.
    let _alone = lock(home)?;
    finish_rotation(home)?;
    let (KeyCommand::Rotate { recovery, .. }
    | KeyCommand::Change { recovery, .. }
    | KeyCommand::Export { recovery, .. }
    | KeyCommand::Words { recovery }
    | KeyCommand::Check { recovery }) = &command;
    let recovery = recovery.read()?;
    let sealed = read(&home.sealed_keyring())?;
    let keyring = Keyring::open(&sealed, &recovery).map_err(wrong_key)?;
    let clear = Keyring::from_json(&read(&home.keyring())?).map_err(Failed::configuration)?;
    if clear.to_json() != keyring.to_json() {
        return Err(Failed::configuration(format!(
            "{} and {} are not the same keyring: one of them is from a backup or another home; put \
             the newer one of this home in its place before the keys are changed",
            home.keyring().display(),
            home.sealed_keyring().display()
        )));
    }
    let mut new_recovery_key = None;
    let (recovery, rotated) = match command {
        KeyCommand::Check { .. } if json => {
            return print_json(&json!({"opens": true, "generation": keyring.generation()}));
        }
        KeyCommand::Words { .. } => {
            let words = recovery.to_words();
            if json {
                return print_json(&json!({"words": *words}));
            }
            say!("{}", *words);
            return Ok(());
        }
        KeyCommand::Check { .. } => {
            say!("It is the recovery key of this home.");
            return Ok(());
        }
        KeyCommand::Export { to: file, .. } => {
            private_file(&file, &sealed)?;
            let generation = keyring.generation();
            if json {
                return print_json(&json!({"file": file, "generation": generation}));
            }
            say!(
                "{} has the keyring up to key {generation}, sealed by the recovery key. Keep the \
                 two apart.",
                file.display()
            );
            return Ok(());
        }
        KeyCommand::Rotate { identity, .. } => {
            let identity = match identity {
                true => Identity::New,
                false => Identity::Kept,
            };
            (recovery, keyring.rotated(identity).map_err(Failed::other)?)
        }
        KeyCommand::Change { new, .. } => {
            let recovery = RecoveryKey::generate().map_err(Failed::other)?;
            let text = Zeroizing::new(format!("{}\n", &*recovery.to_text()));
            // Before it seals anything: a key that cannot be kept must not be used.
            private_file(&new, text.as_bytes())?;
            let rotated = keyring.rotated(Identity::Kept).map_err(Failed::other)?;
            new_recovery_key = Some(new);
            (recovery, rotated)
        }
    };
    let has_new_identity = !keyring.has_identity_of(&rotated);
    store(home, &rotated, &recovery)?;
    let generation = rotated.generation();
    // A daemon that runs uses the new key after it has read it.
    let reloaded = Client(home)
        .send(Method::POST, "/v1/reload", &[], nothing())
        .await;
    let is_used = match reloaded {
        Ok(_) => true,
        Err(failed) if failed.code == Code::NoDaemon => false,
        Err(failed) => {
            let sentence = format!(
                "the array has key {generation} now, but the daemon could not read it: {}; run \
                 `raic reload`",
                failed.sentence
            );
            return Err(Failed { sentence, ..failed });
        }
    };
    if json {
        return print_json(&json!({"generation": generation, "reloaded": is_used}));
    }
    say!(
        "The array has key {generation} now. It is used once enough clouds have a copy of the keyring."
    );
    say!("Back up secrets/ again: without the new keyring, files that it seals do not open.");
    if let Some(file) = new_recovery_key {
        say!(
            "The recovery key is in {}. Move it to a safe place off this machine; the one before opens \
             only what is older.",
            file.display()
        );
    }
    if !is_used {
        say!("The daemon uses it when it is started.");
    } else if has_new_identity {
        say!("The Tahoe door has its new identity when the daemon is started again.");
    }
    Ok(())
}

/// Waits until no other command changes the keys.
fn lock(home: &Home) -> Outcome<fs::File> {
    let folder = home.path().join("secrets");
    let locked = fs::File::open(&folder).and_then(|file| {
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    });
    locked.map_err(|e| Failed::configuration(format!("cannot lock {}: {e}", folder.display())))
}

fn rotating(home: &Home) -> PathBuf {
    home.path().join("secrets/rotating")
}

fn rotated(home: &Home) -> PathBuf {
    home.path().join("secrets/rotated")
}

/// Puts a new keyring in the place of the old one.
fn store(home: &Home, keyring: &Keyring, recovery: &RecoveryKey) -> Outcome {
    let (begun, done) = (rotating(home), rotated(home));
    // What an earlier attempt left there was never used.
    match fs::remove_dir_all(&begun) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Failed::io(begun.display(), &e));
        }
        _ => {}
    }
    private_folder(&begun)?;
    let sealed = keyring.seal(recovery).map_err(Failed::other)?;
    private_file(&begun.join("keyring.sealed"), &sealed)?;
    private_file(&begun.join("keyring.json"), &keyring.to_json())?;
    fs::rename(&begun, &done)
        .and_then(|()| fs::File::open(home.path().join("secrets"))?.sync_all())
        .map_err(|e| Failed::io(done.display(), &e))?;
    finish_rotation(home)
}

/// Ends a rotation that was done, and whose files are not in their places yet.
pub(crate) fn finish_rotation(home: &Home) -> Outcome {
    let done = rotated(home);
    if !done.exists() {
        return Ok(());
    }
    let moved = || -> io::Result<()> {
        for place in [home.sealed_keyring(), home.keyring()] {
            let name = place.file_name().unwrap_or_default();
            match fs::rename(done.join(name), &place) {
                // It was moved before a crash.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        fs::File::open(home.path().join("secrets"))?.sync_all()?;
        match fs::remove_dir(&done) {
            // A daemon that read its configuration just then has ended it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    };
    moved().map_err(|e| Failed::io(done.display(), &e))
}

/// Reads the keyring, and its sealed form, which belong together even if a rotation is under way.
pub(crate) fn keyrings(home: &Home) -> Outcome<(Keyring, Bytes)> {
    loop {
        finish_rotation(home)?;
        let before = read(&home.keyring())?;
        let sealed = read(&home.sealed_keyring())?;
        let after = Zeroizing::new(read(&home.keyring())?);
        let before = Zeroizing::new(before);
        // The keyring in clear is moved last, and the folder goes after that.
        if before == after && !rotated(home).exists() {
            let keyring = Keyring::from_json(&after)
                .map_err(|e| Failed::configuration(format!("{}: {e}", home.keyring().display())))?;
            return Ok((keyring, sealed.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::find(Some(folder.path().join("home"))).unwrap();
        private_folder(&home.path().join("secrets")).unwrap();
        (folder, home)
    }

    fn generations(home: &Home, recovery: &RecoveryKey) -> (u32, u32) {
        let sealed = Keyring::open(&read(&home.sealed_keyring()).unwrap(), recovery).unwrap();
        let clear = Keyring::from_json(&read(&home.keyring()).unwrap()).unwrap();
        (sealed.generation(), clear.generation())
    }

    /// The host may stop after any step. Then the home has the old keyring or the new one, and the
    /// sealed one is the same.
    #[test]
    fn a_stop_at_any_step_leaves_one_keyring() {
        let recovery = RecoveryKey::generate().unwrap();
        let first = Keyring::generate().unwrap();
        let second = first.rotated(Identity::Kept).unwrap();
        for step in 0..6 {
            let (_folder, home) = home();
            private_file(&home.sealed_keyring(), &first.seal(&recovery).unwrap()).unwrap();
            private_file(&home.keyring(), &first.to_json()).unwrap();
            let (begun, done) = (rotating(&home), rotated(&home));
            let sealed = second.seal(&recovery).unwrap();
            let steps: [&dyn Fn(); 5] = [
                &|| private_folder(&begun).unwrap(),
                &|| private_file(&begun.join("keyring.sealed"), &sealed).unwrap(),
                &|| private_file(&begun.join("keyring.json"), &second.to_json()).unwrap(),
                &|| fs::rename(&begun, &done).unwrap(),
                &|| fs::rename(done.join("keyring.sealed"), home.sealed_keyring()).unwrap(),
            ];
            steps[..step.min(5)].iter().for_each(|step| step());
            finish_rotation(&home).unwrap();
            let expected = if step < 4 { (1, 1) } else { (2, 2) };
            assert_eq!(generations(&home, &recovery), expected, "{step}");
            assert!(!done.exists());
            // A later rotation goes through.
            store(&home, &second, &recovery).unwrap();
            assert_eq!(generations(&home, &recovery), (2, 2));
            assert!(!begun.exists() && !done.exists());
        }
    }
}
