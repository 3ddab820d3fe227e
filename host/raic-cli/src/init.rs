//! `raic init`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use raic_array::{Keyring, RecoveryKey};
use serde_json::json;

use crate::{
    config::{Config, EXAMPLE},
    configuration::tell_class,
    error::{Failed, Outcome},
    files::print_json,
    home::{Home, private_file, private_folder, read},
    output::say,
};

/// Makes a home: keys, a configuration, and the folders that the configuration names. A home that
/// exists stays as it is. If an earlier attempt was cut off, its home is finished.
///
/// Order of writes: the keys in a folder of their own, which is renamed when they are whole; then
/// the configuration. Keys that exist are used and never replaced.
pub(crate) fn init(home: &Home, json: bool) -> Outcome {
    home.require_short()?;
    if home.config().exists() {
        return Err(Failed::configuration(format!(
            "{} is a home already",
            home.path().display()
        )));
    }
    if home.database().exists() {
        return Err(Failed::configuration(format!(
            "{} has a database and no config.toml; it was a home, so put its config.toml back",
            home.path().display()
        )));
    }
    let secrets = home.path().join("secrets");
    private_folder(home.path())?;
    home.close_to_others()?;
    if !secrets.exists() {
        make_keys(home, &secrets)?;
    } else if let Err(why) =
        read(&home.keyring()).and_then(|keys| Keyring::from_json(&keys).map_err(Failed::other))
    {
        return Err(Failed::configuration(format!(
            "{} exists and has no whole keyring ({}); if the folder is yours, move it away",
            secrets.display(),
            why.sentence
        )));
    }
    for cloud in 1..=4 {
        private_folder(&home.path().join(format!("clouds/{cloud}")))?;
    }
    // The configuration comes last, whole or not at all: a folder is a home once it has one.
    let begun = home.config().with_extension("new");
    remove_begun(fs::remove_file(&begun), &begun)?;
    private_file(&begun, EXAMPLE.as_bytes())?;
    fs::rename(&begun, home.config()).map_err(|e| Failed::io(home.config().display(), &e))?;
    if json {
        return print_json(&json!({
            "home": home.path(), "config": home.config(), "recovery_key": home.recovery_key(),
        }));
    }
    say!("Made a home in {}", home.path().display());
    say!("  configuration  {}", home.config().display());
    say!("  recovery key   {}", home.recovery_key().display());
    say!("What its configuration gives, on the clouds that it has now (`raic config check`):");
    let config = Config::load(home)?;
    if let Some(array) = &config.array {
        let classes = config.classes(array).map_err(Failed::configuration)?;
        let (_, class) = classes.default();
        tell_class(class, config.clouds.len(), true);
    }
    say!(
        "Move the recovery key to a safe place off this machine: it opens the copies of the keys on the clouds."
    );
    say!(
        "`raic key` asks for it. The names of files are in raic.db alone: back up raic.db and secrets/ too."
    );
    say!("Then run `raic serve`, and in another terminal `raic put FILE`.");
    Ok(())
}

/// Checks the removal of the remains of an earlier attempt at `path`. It is no error if there were
/// no remains.
fn remove_begun(removed: std::io::Result<()>, path: &Path) -> Outcome {
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failed::io(path.display(), &e)),
        _ => Ok(()),
    }
}

/// Makes the keyring and its recovery key in the folder `secrets`.
fn make_keys(home: &Home, secrets: &Path) -> Outcome {
    // The keys that an earlier attempt left there were never used.
    let making = home.path().join("secrets.new");
    remove_begun(fs::remove_dir_all(&making), &making)?;
    private_folder(&making)?;
    let keyring = Keyring::generate().map_err(Failed::other)?;
    let recovery = RecoveryKey::generate().map_err(Failed::other)?;
    let sealed = keyring.seal(&recovery).map_err(Failed::other)?;
    let file = |path: PathBuf, content: &[u8]| match path.file_name() {
        Some(name) => private_file(&making.join(name), content),
        None => Ok(()),
    };
    file(
        home.recovery_key(),
        format!("{}\n", &*recovery.to_text()).as_bytes(),
    )?;
    file(home.sealed_keyring(), &sealed)?;
    file(home.keyring(), &keyring.to_json())?;
    fs::rename(&making, secrets)
        .map_err(|e| Failed::io(format!("cannot write {}", secrets.display()), &e))
}
