//! `raic connector test`: runs the conformance suite, and prints a report.

mod refusals;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use raic_cloud::{
    Cloud, ErrorKind, Retry, RetryPolicy,
    conformance::{BEHAVIOURS, Extent, Finding, Verdict, check},
};
use raic_wasm::{
    ApprovalStore, Configuration, Connector, ConnectorCloud, CredentialDocuments, TlsSettings,
};
use serde_json::json;
use zeroize::Zeroizing;

use refusals::{REFUSALS, Refusal, SetUp};

use crate::{
    clouds::pairs,
    error::{Failed, Outcome},
    files::print_json,
    home::Home,
    output::say,
};

/// How long the test of one behaviour may take.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Args)]
pub(crate) struct TestArguments {
    /// The connector's file; it need not be approved
    file: PathBuf,
    /// A setting of the connector; may be repeated
    #[arg(long = "set", visible_alias = "settings", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// The file with a credential's document; may be repeated
    #[arg(long = "credential", value_name = "NAME=FILE")]
    credentials: Vec<String>,
    /// The URL of an endpoint that a login returns, such as Swift's storage; needed if no setting
    /// names the host, or if only a put returns it
    #[arg(long = "endpoint", value_name = "NAME=URL")]
    endpoints: Vec<String>,
    /// The file of a certificate authority (PEM) to trust, in addition to the system's
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Create the container first
    #[arg(long)]
    create: bool,
    /// Test with objects up to 64 MiB and listings of 2,500 names; a real provider charges for them
    #[arg(long)]
    full: bool,
    /// A setting that names a container that does not exist; it is created and deleted, if the
    /// connector can do that; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    missing: Vec<String>,
    /// The file with a credential that may only read the container
    #[arg(long, value_name = "NAME=FILE")]
    read_only: Vec<String>,
    /// The file with a credential that was valid and has expired
    #[arg(long, value_name = "NAME=FILE")]
    expired: Vec<String>,
    /// The name of a behaviour, to test only that; may be repeated
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,
}

/// Counts of the lines of a report, by their outcome.
#[derive(Default)]
struct Counts {
    holds: usize,
    lacks: usize,
    wrong: usize,
    untried: usize,
}

pub(super) async fn test(home: &Home, json: bool, arguments: &TestArguments) -> Outcome {
    let known: Vec<_> = BEHAVIOURS
        .iter()
        .map(|b| b.name)
        .chain(REFUSALS.iter().map(|r| r.name))
        .collect();
    if let Some(unknown) = arguments
        .only
        .iter()
        .find(|only| !known.contains(&only.as_str()))
    {
        return Err(Failed::configuration(format!(
            "there is no behaviour {unknown:?}; there are {}",
            known.join(", ")
        )));
    }
    let package = super::read(&arguments.file)?;
    // A guest that carries an interpreter takes many seconds to compile. If there is a home, its
    // native code is kept there.
    let store = home
        .config()
        .exists()
        .then(|| ApprovalStore::open(&home.connectors()))
        .transpose();
    let store = store.map_err(Failed::configuration)?;
    let compiled = store.as_ref().map(ApprovalStore::compiled);
    let failed = |e| Failed::configuration(format!("{}: {e}", arguments.file.display()));
    let connector =
        tokio::task::block_in_place(|| super::engine()?.load(&package, compiled).map_err(failed))?;
    let mut configuration = configuration(arguments)?;
    let cloud = open(&connector, &configuration)?;
    // Settings and credentials for later tests must be right before anything is sent.
    let (missing, given) = (
        pairs(&arguments.missing)?,
        [&arguments.read_only, &arguments.expired],
    );
    let [read_only, expired] = given.map(|named| documents(named));
    let (read_only, expired) = (read_only?, expired?);
    let mut settings = configuration.settings.clone();
    settings.extend(missing.clone());
    open(
        &connector,
        &Configuration {
            settings,
            ..configuration.clone()
        },
    )?;
    for others in [&read_only, &expired] {
        let mut credentials = configuration.credentials.clone();
        credentials.extend(others.clone());
        open(
            &connector,
            &Configuration {
                credentials,
                ..configuration.clone()
            },
        )?;
    }
    let cloud = follow_endpoints(json, &connector, &mut configuration, cloud).await?;
    if arguments.create {
        cloud
            .create_container()
            .await
            .map_err(|e| Failed::other(format!("{e:#}")))?;
    } else if let Err(e) = cloud.probe().await {
        // Without the container, no other test can find anything.
        return Err(match e.kind {
            ErrorKind::ContainerNotFound => {
                Failed::configuration(format!("{e:#}; --create creates it, if the connector can"))
            }
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied | ErrorKind::Misconfigured => {
                Failed::configuration(format!("{e:#}; nothing was tried"))
            }
            _ => Failed::other(format!("{e:#}; nothing was tried")),
        });
    }
    let unique = raic_storage::StorageIndex::random().map_err(Failed::other)?;
    let prefix = format!("raic-test/{unique}/");
    // The retries are those of the daemon: if the service is too busy, a request is repeated.
    let cloud = Arc::new(cloud);
    let patient = Retry::new(cloud.clone(), RetryPolicy::default());
    let extent = if arguments.full {
        Extent::Full
    } else {
        Extent::Quick
    };
    let mut counts = Counts::default();
    let is_asked =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    for behaviour in BEHAVIOURS
        .iter()
        .filter(|behaviour| is_asked(behaviour.name))
    {
        let began = Instant::now();
        let checked =
            tokio::time::timeout(PATIENCE, check(behaviour, &patient, &prefix, extent)).await;
        let verdict = checked.unwrap_or_else(|_| too_slow());
        counts.report(json, behaviour.name, behaviour.what, began, verdict)?;
    }
    let set_up = SetUp {
        connector: &connector,
        configuration: &configuration,
        cloud: &cloud,
        prefix: &prefix,
        missing,
        read_only,
        expired,
    };
    for refusal in REFUSALS.iter().filter(|refusal| is_asked(refusal.name)) {
        let began = Instant::now();
        let checked = tokio::time::timeout(PATIENCE, set_up.check(refusal)).await;
        match checked.unwrap_or_else(|_| Some(too_slow())) {
            Some(verdict) => counts.report(json, refusal.name, refusal.what, began, verdict)?,
            None => counts.untried(json, refusal)?,
        }
    }
    let Counts {
        holds,
        lacks,
        wrong,
        untried,
    } = counts;
    if json {
        print_json(&json!({"holds": holds, "lacks": lacks, "wrong": wrong, "untried": untried}))?;
    } else {
        say!("{holds} hold, {lacks} are lacking, {wrong} are wrong, {untried} were not tried");
    }
    match wrong {
        0 => Ok(()),
        _ => Err(Failed::other(format!(
            "{} {} does not conform",
            package.manifest.name, package.manifest.version
        ))),
    }
}

/// Pins the endpoints that a login returns, one after the other. The first may be needed to reach
/// the second.
async fn follow_endpoints(
    json: bool,
    connector: &Connector,
    configuration: &mut Configuration,
    mut cloud: ConnectorCloud,
) -> Outcome<ConnectorCloud> {
    for _ in 0..=connector.manifest().endpoints.len() {
        let _ = cloud.probe().await;
        let learned = cloud.learned();
        if learned.is_empty() {
            break;
        }
        for (name, url) in learned {
            // As `cloud add` does: the connector is not trusted, and could name any host within
            // reach as its service.
            if !cloud.names_host_of(&url) {
                return Err(Failed::configuration(format!(
                    "its login returned {url} as its {name}, on a host that no setting names; if \
                     that is right, add --endpoint {name}={url}"
                )));
            }
            say_unless(json, &format!("its login returned {url} as its {name}"));
            configuration.endpoints.insert(name, vec![url]);
        }
        cloud = open(connector, configuration)?;
    }
    Ok(cloud)
}

impl Counts {
    /// Counts and prints a test that was left out, because it needs an option that was not given.
    fn untried(&mut self, json: bool, refusal: &Refusal) -> Outcome {
        self.untried += 1;
        let (name, what) = (refusal.name, refusal.what);
        let needs = refusal.needs.unwrap_or_default();
        if json {
            return print_json(&json!({
                "behaviour": name, "what": what, "outcome": "untried", "detail": needs, "seconds": 0.0,
            }));
        }
        say!("  ? {name:<21} {what}");
        say!("    {:<21} not tried: it needs {needs}", "");
        Ok(())
    }

    /// Counts and prints the outcome of a test.
    fn report(
        &mut self,
        json: bool,
        name: &str,
        what: &str,
        began: Instant,
        verdict: Verdict,
    ) -> Outcome {
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

fn too_slow() -> Verdict {
    Err(format!("took more than {} s", PATIENCE.as_secs()))
}

/// Prints a line for people, unless the output is JSON.
fn say_unless(json: bool, line: &str) {
    if !json {
        say!("{line}");
    }
}

fn open(connector: &Connector, configuration: &Configuration) -> Outcome<ConnectorCloud> {
    ConnectorCloud::new("test", connector, configuration).map_err(Failed::configuration)
}

fn read(file: &str) -> Outcome<Vec<u8>> {
    std::fs::read(file).map_err(|e| Failed::configuration(format!("cannot read {file}: {e}")))
}

/// Reads credential documents from arguments of the form NAME=FILE.
fn documents(named: &[String]) -> Outcome<CredentialDocuments> {
    let files = pairs(named)?;
    files
        .iter()
        .map(|(name, file)| Ok((name.clone(), Zeroizing::new(read(file)?))))
        .collect()
}

fn configuration(arguments: &TestArguments) -> Outcome<Configuration> {
    let extra_ca = arguments
        .ca
        .as_ref()
        .map(|path| read(&path.display().to_string()))
        .transpose()?;
    Ok(Configuration {
        settings: pairs(&arguments.settings)?,
        credentials: documents(&arguments.credentials)?,
        tls: TlsSettings { extra_ca },
        endpoints: pairs(&arguments.endpoints)?
            .into_iter()
            .map(|(name, url)| (name, vec![url]))
            .collect(),
    })
}
