//! `raic connector test`: the conformance suite as a report.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use raic_cloud::{
    Cloud, ErrorKind, ObjectKey, Payload, Retry, RetryPolicy, WriteMode,
    conformance::{BEHAVIOURS, Extent, Finding, Verdict, check},
};
use raic_wasm::{ApprovalStore, Configuration, Connector, ConnectorCloud, Engine, TlsSettings};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    clouds::pairs,
    error::{Failed, Outcome},
    files::print_json,
    home::Home,
    output::say,
};

/// What is tried beside the suite's behaviours.
const CREDENTIALS: &str = "credentials";

/// The longest that a behaviour may take.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Args)]
pub(crate) struct TestArguments {
    /// The connector's file; it need not be approved
    file: PathBuf,
    /// A setting of the connector
    #[arg(long = "set", visible_alias = "settings", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// The file with a credential's document
    #[arg(long = "credential", value_name = "NAME=FILE")]
    credentials: Vec<String>,
    /// An authority (PEM) to trust beside the system's
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Make the container first
    #[arg(long)]
    create: bool,
    /// Objects to 64 MiB and listings of 2,500 names; a real provider charges for them
    #[arg(long)]
    full: bool,
    /// Only the behaviours of these names
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,
}

/// How a line of the report ends.
#[derive(Default)]
struct Counts {
    holds: usize,
    lacks: usize,
    wrong: usize,
}

pub(super) async fn test(home: &Home, json: bool, arguments: &TestArguments) -> Outcome {
    let known: Vec<_> = BEHAVIOURS.iter().map(|b| b.name).chain([CREDENTIALS]).collect();
    if let Some(unknown) = arguments.only.iter().find(|only| !known.contains(&only.as_str())) {
        return Err(Failed::configuration(format!(
            "no behaviour {unknown:?}; there are {}",
            known.join(", ")
        )));
    }
    let package = super::read(&arguments.file)?;
    // A guest that carries an interpreter takes many seconds to compile: once, where there is a home.
    let store = home.config().exists().then(|| ApprovalStore::open(&home.connectors())).transpose();
    let store = store.map_err(Failed::configuration)?;
    let compiled = store.as_ref().map(ApprovalStore::compiled);
    let connector =
        tokio::task::block_in_place(|| Engine::new().and_then(|engine| engine.load(&package, compiled)));
    let connector =
        connector.map_err(|e| Failed::configuration(format!("{}: {e}", arguments.file.display())))?;
    let mut configuration = configuration(arguments)?;
    let cloud = open(&connector, &configuration)?;
    // What its login says of endpoints is taken as it is: whoever tests, sees it here.
    let _ = cloud.probe().await;
    let learned = cloud.learned();
    let cloud = if learned.is_empty() {
        cloud
    } else {
        for (name, url) in &learned {
            say_unless(json, &format!("its login says that its {name} is at {url}"));
        }
        configuration.endpoints.extend(learned);
        open(&connector, &configuration)?
    };
    if arguments.create {
        cloud.create_container().await.map_err(Failed::other)?;
    } else if let Err(e) = cloud.probe().await
        && e.kind == ErrorKind::ContainerNotFound
    {
        return Err(Failed::configuration(format!("{e}; --create makes it, where the connector can")));
    }
    let unique = raic_storage::StorageIndex::random().map_err(Failed::other)?;
    let prefix = format!("raic-test/{unique}/");
    // As every cloud is used: what a service is too busy for is asked again.
    let cloud = Retry::new(cloud, RetryPolicy::default());
    let extent = if arguments.full { Extent::Full } else { Extent::Quick };
    let mut counts = Counts::default();
    for behaviour in BEHAVIOURS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == behaviour.name) {
            continue;
        }
        let began = Instant::now();
        let checked = tokio::time::timeout(PATIENCE, check(behaviour, &cloud, &prefix, extent)).await;
        let verdict = checked.unwrap_or_else(|_| Err(format!("took more than {} s", PATIENCE.as_secs())));
        counts.tell(json, behaviour.name, behaviour.what, began, verdict)?;
    }
    if arguments.only.is_empty() || arguments.only.iter().any(|only| only == CREDENTIALS) {
        let began = Instant::now();
        let verdict = wrong_credentials(&connector, &configuration, &prefix).await;
        let what = "wrong credentials are refused, and said to be the reason";
        counts.tell(json, CREDENTIALS, what, began, verdict)?;
    }
    let Counts { holds, lacks, wrong } = counts;
    if json {
        print_json(&json!({"holds": holds, "lacks": lacks, "wrong": wrong}))?;
    } else {
        say!("{holds} hold, {lacks} are lacking, {wrong} are wrong");
    }
    match wrong {
        0 => Ok(()),
        _ => Err(Failed::other(format!(
            "{} {} does not conform",
            package.manifest.name, package.manifest.version
        ))),
    }
}

impl Counts {
    fn tell(&mut self, json: bool, name: &str, what: &str, began: Instant, verdict: Verdict) -> Outcome {
        let (mark, outcome, detail) = match verdict {
            Ok(Finding::Holds) => (" ok ", "holds", None),
            Ok(Finding::Lacks(why)) => ("  - ", "lacks", Some(why)),
            Err(why) => ("!!! ", "wrong", Some(why)),
        };
        match outcome {
            "holds" => self.holds += 1,
            "lacks" => self.lacks += 1,
            _ => self.wrong += 1,
        }
        let seconds = began.elapsed().as_secs_f64();
        if json {
            return print_json(&json!({
                "behaviour": name, "what": what, "outcome": outcome, "detail": detail, "seconds": seconds,
            }));
        }
        say!("{mark}{name:<21} {what} ({seconds:.1} s)");
        if let Some(detail) = detail {
            say!("    {:<21} {detail}", "");
        }
        Ok(())
    }
}

fn say_unless(json: bool, line: &str) {
    if !json {
        say!("{line}");
    }
}

fn open(connector: &Connector, configuration: &Configuration) -> Outcome<ConnectorCloud> {
    ConnectorCloud::new("test", connector, configuration).map_err(Failed::configuration)
}

fn configuration(arguments: &TestArguments) -> Outcome<Configuration> {
    let read = |file: &str| {
        let read = std::fs::read(file);
        read.map_err(|e| Failed::configuration(format!("cannot read {file}: {e}")))
    };
    let credentials = pairs(&arguments.credentials)?;
    let credentials = credentials.iter().map(|(name, file)| Ok((name.clone(), Zeroizing::new(read(file)?))));
    let extra_ca = arguments.ca.as_ref().map(|path| read(&path.display().to_string())).transpose()?;
    Ok(Configuration {
        settings: pairs(&arguments.settings)?,
        credentials: credentials.collect::<Outcome<_>>()?,
        tls: TlsSettings { extra_ca },
        endpoints: BTreeMap::new(),
    })
}

/// With every credential a little other, nothing may be written, and the error must say why.
async fn wrong_credentials(connector: &Connector, right: &Configuration, prefix: &str) -> Verdict {
    let mut credentials = right.credentials.clone();
    let mut is_changed = false;
    for (name, credential) in &connector.manifest().credentials {
        let Some(document) = credentials.get_mut(name) else { continue };
        for part in credential.parts.values().filter(|part| part.secret) {
            is_changed |= garble(document, &part.from);
        }
    }
    if !is_changed {
        return Ok(Finding::Lacks("the connector takes no secrets".to_owned()));
    }
    let wrong = Configuration {
        settings: right.settings.clone(),
        credentials,
        tls: right.tls.clone(),
        endpoints: right.endpoints.clone(),
    };
    let cloud = match ConnectorCloud::new("test", connector, &wrong) {
        Ok(cloud) => cloud,
        // A key that is none any more.
        Err(_) => {
            return Ok(Finding::Lacks("a wrong credential does not pass the host's own checks".to_owned()));
        }
    };
    let key = ObjectKey::new(format!("{prefix}wrong")).map_err(|e| e.to_string())?;
    let put = cloud.put(&key, Payload::from(&b"content"[..]), WriteMode::Overwrite).await;
    let tried = [("put", put.map(drop)), ("probe", cloud.probe().await)];
    for (what, outcome) in tried {
        match outcome {
            Err(e) if matches!(e.kind, ErrorKind::Unauthenticated | ErrorKind::PermissionDenied) => {}
            Err(e) => return Err(format!("{what} must fail as unauthenticated, not as {}: {e}", e.kind)),
            Ok(()) => return Err(format!("{what} succeeds with a wrong credential")),
        }
    }
    Ok(Finding::Holds)
}

/// Changes a secret within its document by one character in its middle; false where it is not there.
fn garble(document: &mut Zeroizing<Vec<u8>>, from: &str) -> bool {
    let changed = |text: &str| -> Option<String> {
        let mut bytes = text.as_bytes().to_vec();
        let middle = bytes.len() / 2;
        let at = (middle..bytes.len()).chain(0..middle).find(|i| bytes[*i].is_ascii_alphanumeric())?;
        bytes[at] = match bytes[at] {
            b'a' | b'A' | b'0' => bytes[at] + 1,
            b if b.is_ascii_digit() => b'0',
            b if b.is_ascii_lowercase() => b'a',
            _ => b'A',
        };
        String::from_utf8(bytes).ok()
    };
    let Ok(text) = std::str::from_utf8(document) else { return false };
    let whole = match from.strip_prefix("json:") {
        None => changed(text),
        Some(pointer) => serde_json::from_str(text).ok().and_then(|mut json: serde_json::Value| {
            let value = json.pointer_mut(pointer)?;
            *value = changed(value.as_str()?)?.into();
            Some(json.to_string())
        }),
    };
    whole.map(|whole| *document = Zeroizing::new(whole.into_bytes())).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_garbled_secret_is_another_of_the_same_form() {
        let mut text = Zeroizing::new(b"c2VjcmV0\n".to_vec());
        assert!(garble(&mut text, "text"));
        assert_eq!(text.len(), 9);
        assert_ne!(&text[..], b"c2VjcmV0\n");
        let mut json = Zeroizing::new(br#"{"a":"b","k":{"s":"0"}}"#.to_vec());
        assert!(garble(&mut json, "json:/k/s"));
        assert_eq!(&json[..], br#"{"a":"b","k":{"s":"1"}}"#);
        assert!(!garble(&mut json, "json:/none"));
    }
}
