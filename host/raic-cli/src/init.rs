//! `raic init`.

use raic_array::{Keyring, RecoveryKey};
use serde_json::json;

use crate::{
    config::EXAMPLE,
    error::{Failed, Outcome},
    files::print_json,
    home::{Home, private_file, private_folder},
    output::say,
};

/// Makes keys, configuration and the folders it names. A home that is there stays as it is.
pub(crate) fn init(home: &Home, json: bool) -> Outcome {
    if home.config().exists() {
        return Err(Failed::configuration(format!("{} is a home already", home.path().display())));
    }
    private_folder(&home.path().join("secrets"))?;
    let keyring = Keyring::generate().map_err(Failed::other)?;
    let recovery = RecoveryKey::generate().map_err(Failed::other)?;
    let sealed = keyring.seal(&recovery).map_err(Failed::other)?;
    private_file(&home.recovery_key(), format!("{}\n", &*recovery.to_text()).as_bytes())?;
    private_file(&home.sealed_keyring(), &sealed)?;
    private_file(&home.keyring(), &keyring.to_json())?;
    for cloud in 1..=4 {
        private_folder(&home.path().join(format!("clouds/{cloud}")))?;
    }
    // Last: a home is one once it has its configuration.
    private_file(&home.config(), EXAMPLE.as_bytes())?;
    if json {
        return print_json(&json!({
            "home": home.path(), "config": home.config(), "recovery_key": home.recovery_key(),
        }));
    }
    say!("Made a home in {}", home.path().display());
    say!("  configuration  {}", home.config().display());
    say!("  recovery key   {}", home.recovery_key().display());
    say!(
        "Move the recovery key to a safe place off this machine: with it and the clouds everything can be rebuilt,"
    );
    say!(
        "without it and this machine nothing can. Then run `raic serve`, and in another terminal `raic put FILE`."
    );
    Ok(())
}
