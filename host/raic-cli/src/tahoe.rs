//! The commands for Tahoe-LAFS clients, and the command that shows events.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Subcommand;
use hyper::Method;
use raic_gateway::wire::{
    Code, EventLine, FolderMove, FolderRequest, MoveDirection, TahoeServer, TahoeStatus,
};
use serde_json::{Value, json};

use crate::{
    client::{Client, encode, nothing},
    config::{Config, TahoeSection},
    error::{Failed, Outcome},
    files::{print_json, when},
    home::{self, Home},
    output::{say, tell},
    progress::{self, counted},
};

/// How often new events are asked for.
const PAUSE: Duration = Duration::from_secs(1);
/// How many of the newest events are shown.
const NEWEST: u32 = 100;

#[derive(Subcommand)]
pub(crate) enum TahoeCommand {
    /// Prints the servers.yaml of a Tahoe-LAFS client; it has secrets, and belongs into the folder
    /// private/ of the client
    ServersYaml {
        /// The name of the account in whose name the client stores
        #[arg(long, default_value = "anonymous")]
        account: String,
    },
    /// Shows the state of the door for Tahoe-LAFS clients
    Status,
    /// Takes over the shares and leases of a Tahoe-LAFS storage folder, whose node must be stopped;
    /// may be run again after it was stopped
    Import {
        /// The storage folder, which has the folder shares/
        folder: PathBuf,
        /// The name of the cloud that gets the shares
        #[arg(long)]
        cloud: String,
        /// The name of the account that will hold the leases
        #[arg(long, default_value = "anonymous")]
        account: String,
        /// The id in the old server's FURL (private/storage.furl), so that its clients stay able to
        /// write to mutable files
        #[arg(long, requires = "server_id")]
        furl_id: Option<String>,
        /// The id by which clients know the old server: v0- and 52 characters
        #[arg(long, requires = "furl_id")]
        server_id: Option<String>,
    },
    /// Writes the shares and leases of a cloud into a Tahoe-LAFS storage folder; may be run again
    /// after it was stopped
    Export {
        /// The storage folder; it is made if it does not exist
        folder: PathBuf,
        /// The name of the cloud
        #[arg(long)]
        cloud: String,
    },
    /// Revokes the secrets of an account's clients; they need a new servers.yaml
    Revoke {
        /// The name of the account
        account: String,
    },
}

pub(crate) async fn run(home: &Home, json: bool, command: TahoeCommand) -> Outcome {
    match command {
        TahoeCommand::ServersYaml { account } => servers_yaml(home, json, &account).await,
        TahoeCommand::Status => status(home, json).await,
        TahoeCommand::Import {
            folder,
            cloud,
            account,
            furl_id,
            server_id,
        } => {
            let request = FolderRequest {
                direction: MoveDirection::Import,
                cloud,
                folder: absolute(&folder)?,
                account,
                furl_id,
                server_id,
            };
            move_shares(home, json, request).await
        }
        TahoeCommand::Export { folder, cloud } => {
            let request = FolderRequest {
                direction: MoveDirection::Export,
                cloud,
                folder: absolute(&folder)?,
                account: "anonymous".to_owned(),
                furl_id: None,
                server_id: None,
            };
            move_shares(home, json, request).await
        }
        TahoeCommand::Revoke { account } => {
            let path = format!("/v1/accounts/{}/revoke", encode(&account));
            Client(home)
                .send(Method::POST, &path, &[], nothing())
                .await?;
            if json {
                return print_json(&json!({"account": account, "revoked": true}));
            }
            say!("The secrets of {account}'s clients are void.");
            say!("Give each client a new file: raic tahoe servers-yaml --account {account}");
            Ok(())
        }
    }
}

fn absolute(folder: &Path) -> Outcome<String> {
    let path = std::path::absolute(folder).map_err(|e| Failed::io(folder.display(), &e))?;
    path.into_os_string().into_string().map_err(|path| {
        Failed::configuration(format!(
            "{path:?} is not UTF-8, as the path of the folder must be"
        ))
    })
}

/// Moves shares between a cloud and a folder, and shows the progress until the end.
async fn move_shares(home: &Home, json: bool, request: FolderRequest) -> Outcome {
    let path = "/v1/tahoe/moves";
    let direction = request.direction;
    let mut done: FolderMove = Client(home).ask_about(Method::POST, path, &request).await?;
    let mut last = Instant::now();
    while done.is_running {
        tokio::time::sleep(Duration::from_millis(200)).await;
        done = Client(home).ask(Method::GET, path, nothing()).await?;
        if last.elapsed() > Duration::from_secs(5) && !json {
            last = Instant::now();
            tell!(
                "{} of {} moved so far ({})",
                counted(done.moved + done.known, "share"),
                done.found,
                progress::bytes(done.bytes)
            );
        }
    }
    if json {
        print_json(&done)?;
    } else {
        say!(
            "{} moved ({}), {} there already",
            counted(done.moved, "share"),
            progress::bytes(done.bytes),
            done.known
        );
        if done.read_only > 0 {
            say!(
                "{} are read-only in the folder: their write enablers are not known",
                counted(done.read_only, "mutable share")
            );
        }
        let names_one = direction == MoveDirection::Import && done.named_ids.len() == 1;
        if names_one && request.furl_id.is_none() {
            say!(
                "The mutable shares name the FURL id {}. If clients still use them, run this again \
                 with --furl-id {} --server-id ID.",
                done.named_ids[0],
                done.named_ids[0]
            );
        }
        for problem in &done.problems {
            tell!("not moved: {problem}");
        }
    }
    match done.failed {
        0 => Ok(()),
        failed => Err(Failed::other(format!(
            "{} could not be moved; the others were",
            counted(failed, "file")
        ))),
    }
}

/// Returns the announcement of a storage server, as a client's `servers.yaml` has it.
fn announcement(server: &TahoeServer, location: &str, certificates: Vec<Value>) -> (String, Value) {
    let nurl = format!(
        "pb://{}@{location}/{}#v=1",
        server.key_hash, server.swissnum
    );
    // The FURL is never contacted. Its id seeds the secrets of leases and the write enablers.
    let furl = format!("pb://{}@tcp:127.0.0.1:1/unused", server.furl_id);
    let mut announcement = json!({
        "nickname": format!("raic-{}", server.cloud),
        "anonymous-storage-FURL": furl,
        "anonymous-storage-NURLs": [nurl],
    });
    if !certificates.is_empty() {
        announcement["grid-manager-certificates"] = certificates.into();
    }
    (server.server_id.clone(), announcement)
}

/// Reads the grid-manager certificates of a cloud.
fn certificates(home: &Home, section: &TahoeSection, cloud: &str) -> Outcome<Vec<Value>> {
    let files = section.certificates.get(cloud).into_iter().flatten();
    let read = |file: &Path| {
        let path = home.path().join(file);
        let wrong = |why: &str| {
            let path = path.display();
            Failed::configuration(format!("{path} is not a grid manager's certificate: {why}"))
        };
        let certificate: Value =
            serde_json::from_slice(&home::read(&path)?).map_err(|e| wrong(&e.to_string()))?;
        let is_whole =
            certificate["certificate"].is_string() && certificate["signature"].is_string();
        match is_whole {
            true => Ok(certificate),
            false => Err(wrong("it lacks `certificate` or `signature`")),
        }
    };
    files.map(|file| read(file)).collect()
}

/// Returns how the Tahoe door differs from the configuration, as a sentence: the door is opened
/// once, when the daemon starts. `None` if it does not differ, or that cannot be found out.
pub(crate) async fn stale(home: &Home, config: &Config) -> Option<String> {
    let status: Outcome<TahoeStatus> = Client(home)
        .ask(Method::GET, "/v1/tahoe/status", nothing())
        .await;
    match (status, &config.tahoe) {
        (Ok(status), Some(section)) if status.listen == section.listen.to_string() => None,
        (Ok(status), Some(section)) => Some(format!(
            "[tahoe] has listen = \"{}\", and the daemon listens at {}",
            section.listen, status.listen
        )),
        (Ok(_), None) => Some("config.toml has no section [tahoe] any more".to_owned()),
        (Err(failed), Some(_)) if failed.code == Code::Configuration => {
            Some("config.toml has a new section [tahoe]".to_owned())
        }
        (Err(_), _) => None,
    }
}

async fn servers_yaml(home: &Home, json: bool, account: &str) -> Outcome {
    let path = format!("/v1/tahoe/servers?account={}", encode(account));
    let servers: Vec<TahoeServer> = Client(home).ask(Method::GET, &path, nothing()).await?;
    let config = Config::load(home)?;
    // What is printed must lead to the daemon that runs.
    if let Some(stale) = stale(home, &config).await {
        return Err(Failed::configuration(format!(
            "{stale}; restart the daemon"
        )));
    }
    let section = config
        .tahoe
        .ok_or_else(|| Failed::configuration("config.toml has no section [tahoe]"))?;
    let location = section.location();
    let mut storage = serde_json::Map::new();
    for server in &servers {
        let certificates = certificates(home, &section, &server.cloud)?;
        let (id, announcement) = announcement(server, &location, certificates);
        storage.insert(id, json!({ "ann": announcement }));
    }
    if json {
        return print_json(&json!({ "storage": storage }));
    }
    say!("# The storage servers of account {account}. Whoever has this file stores in its name.");
    say!("storage:");
    for (id, entry) in &storage {
        say!("  {id}:");
        say!("    ann:");
        for (key, value) in entry["ann"].as_object().into_iter().flatten() {
            // JSON is YAML, too.
            say!("      {key}: {value}");
        }
    }
    Ok(())
}

async fn status(home: &Home, json: bool) -> Outcome {
    let status: TahoeStatus = Client(home)
        .ask(Method::GET, "/v1/tahoe/status", nothing())
        .await?;
    if json {
        return print_json(&status);
    }
    say!("connections {}", status.connections);
    for server in &status.servers {
        let stores = match server.stores {
            true => "takes shares",
            false => "takes no shares now",
        };
        let free = server
            .available
            .map(|free| format!(", {} free", progress::bytes(free)))
            .unwrap_or_default();
        let uploads = counted(server.uploads, "upload");
        say!(
            "server      {:<16} {stores}{free}, {uploads} under way",
            server.cloud
        );
    }
    Ok(())
}

/// Prints the newest events. With `follow`, goes on with each new one.
pub(crate) async fn events(home: &Home, json: bool, follow: bool) -> Outcome {
    let mut path = format!("/v1/events?limit={NEWEST}");
    loop {
        let events: Vec<EventLine> = Client(home).ask(Method::GET, &path, nothing()).await?;
        let newest = events.last().map(|event| event.number);
        if events.is_empty() && !follow && !json {
            say!("no events yet");
        }
        for event in events {
            print_event(json, &event)?;
        }
        if !follow {
            return Ok(());
        }
        if let Some(newest) = newest {
            path = format!("/v1/events?after={newest}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn print_event(json: bool, event: &EventLine) -> Outcome {
    if json {
        return print_json(event);
    }
    let about: Vec<&str> = [&event.cloud, &event.account]
        .into_iter()
        .filter_map(|about| about.as_deref())
        .collect();
    say!(
        "{}  {:<9} {:<24} {}",
        when(event.at_ms),
        event.kind,
        about.join(" "),
        event.text.replace(['\n', '\r'], " ")
    );
    Ok(())
}
