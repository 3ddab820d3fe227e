//! `raic account`, `raic usage`, `raic lease` and `raic clock`.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use raic_gateway::wire::{
    AcceptedClock, AccountInfo, AccountRequest, Code, CollectLine, LeaseLine, UsageLine, Walk,
    WouldGo,
};
use raic_storage::{Clock, Database, GracePeriods, LeaseDb};

use crate::{
    client::{Client, encode, nothing},
    config::parse_size,
    error::{Failed, Outcome},
    files::{print_json, when},
    home::Home,
    offline::lock,
    output::say,
    progress,
};

/// How often the daemon is asked for the progress of a walk.
const PAUSE: Duration = Duration::from_millis(200);
/// Seconds of a day.
const DAY: u64 = 24 * 3600;

#[derive(Subcommand)]
pub(crate) enum AccountCommand {
    /// Makes an account
    Create {
        /// The name of the account: 1 to 64 of A-Z, a-z, 0-9, - _ . and @
        name: String,
        #[command(flatten)]
        settings: AccountSettings,
    },
    /// Changes an account
    Set {
        /// The name of the account
        name: String,
        #[command(flatten)]
        settings: AccountSettings,
    },
    /// Lists accounts
    List,
    /// Stops an account from writing; its files stay readable
    Disable {
        /// The name of the account
        name: String,
    },
    /// Lets an account write again
    Enable {
        /// The name of the account
        name: String,
    },
}

#[derive(Args)]
pub(crate) struct AccountSettings {
    /// The soft quota, such as "10 GiB": the daemon's log warns above it; "none" removes it
    #[arg(long)]
    soft: Option<String>,
    /// The hard quota, such as "10 GiB": the account may use no more; "none" removes it
    #[arg(long)]
    hard: Option<String>,
    /// How many days the account's leases last after each renewal; 31 for a new account, and
    /// with 0 they end at once
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=36_500))]
    lease_days: Option<u64>,
}

impl AccountSettings {
    fn request(&self) -> Outcome<AccountRequest> {
        let quota = |text: &Option<String>| -> Outcome<Option<Option<u64>>> {
            match text.as_deref() {
                None => Ok(None),
                Some("none") => Ok(Some(None)),
                Some(text) => match parse_size(text) {
                    Some(size) => Ok(Some(Some(size.as_u64()))),
                    None => Err(Failed::configuration(format!(
                        "{text:?} is not a size, or too large for one; write it as \"10 GiB\""
                    ))),
                },
            }
        };
        Ok(AccountRequest {
            disabled: None,
            soft_quota: quota(&self.soft)?,
            hard_quota: quota(&self.hard)?,
            lease_seconds: self.lease_days.map(|days| days.saturating_mul(DAY)),
        })
    }
}

pub(crate) async fn account(home: &Home, json: bool, command: AccountCommand) -> Outcome {
    let disabled = |disabled| AccountRequest {
        disabled: Some(disabled),
        ..AccountRequest::default()
    };
    let (method, name, request) = match command {
        AccountCommand::List => {
            let accounts: Vec<AccountInfo> = Client(home)
                .ask(Method::GET, "/v1/accounts", nothing())
                .await?;
            return accounts.iter().try_for_each(|account| show(account, json));
        }
        AccountCommand::Create { name, settings } => (Method::PUT, name, settings.request()?),
        AccountCommand::Set { name, settings } => (Method::POST, name, settings.request()?),
        AccountCommand::Disable { name } => (Method::POST, name, disabled(true)),
        AccountCommand::Enable { name } => (Method::POST, name, disabled(false)),
    };
    let path = format!("/v1/accounts/{}", encode(&name));
    show(
        &Client(home).ask_about(method, &path, &request).await?,
        json,
    )
}

/// Prints an account.
fn show(account: &AccountInfo, json: bool) -> Outcome {
    if json {
        return print_json(account);
    }
    let quota = |quota: Option<u64>| quota.map_or_else(|| "none".to_owned(), progress::bytes);
    say!(
        "{:<24} soft {:<12} hard {:<12} leases {} days{}",
        account.name,
        quota(account.soft_quota),
        quota(account.hard_quota),
        account.lease_seconds / DAY,
        if account.disabled { "  disabled" } else { "" }
    );
    Ok(())
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum By {
    /// What each account pays for: its files and the shares that it leases
    Account,
    /// The shares that each cloud holds, leased or not
    Cloud,
    /// The history: what each account used on each cloud and for files when the daemon first saw a
    /// day (UTC)
    Day,
}

pub(crate) async fn usage(home: &Home, json: bool, by: By) -> Outcome {
    let by = match by {
        By::Account => "account",
        By::Cloud => "cloud",
        By::Day => "day",
    };
    let mut page = format!("/v1/usage?by={by}");
    let mut has_heading = json;
    loop {
        let lines: Vec<UsageLine> = Client(home).ask(Method::GET, &page, nothing()).await?;
        if !std::mem::replace(&mut has_heading, true) {
            let of = if by == "day" {
                "day, account and cloud"
            } else {
                by
            };
            say!("{:>14}  {:>10}  {:>10}  {of}", "bytes", "shares", "files");
        }
        for line in &lines {
            if json {
                print_json(line)?;
                continue;
            }
            let names = [&line.day, &line.account, &line.cloud];
            let names: Vec<_> = names.into_iter().flatten().map(String::as_str).collect();
            say!(
                "{:>14}  {:>10}  {:>10}  {}",
                line.bytes,
                line.shares,
                line.files,
                names.join("  ")
            );
        }
        match lines.last().and_then(|line| line.day.as_ref()) {
            Some(day) => page = format!("/v1/usage?by={by}&before={}", encode(day)),
            None => return Ok(()),
        }
    }
}

/// Most shares of each kind that a dry run of collection shows of a cloud.
const SHOWN: usize = 1000;

#[derive(Subcommand)]
pub(crate) enum ClockCommand {
    /// Accepts the clock as right after it was set ahead or back by more than 5 minutes; until then
    /// nothing expires or is deleted
    Accept,
}

#[derive(Subcommand)]
pub(crate) enum LeaseCommand {
    /// Lists leases
    List {
        /// The name of an account, to list only its leases
        #[arg(long)]
        account: Option<String>,
        /// A storage index, to list only the leases on its shares
        #[arg(long)]
        index: Option<String>,
    },
    /// Adds an account's lease to the shares of a storage index, or renews it
    Renew {
        /// The storage index, 26 characters of a-z and 2-7; `raic stat` shows that of a file
        index: String,
        /// The name of the account that holds the lease
        #[arg(long, default_value = "anonymous")]
        account: String,
    },
    /// Ends leases that are due and deletes shares without a lease, without waiting for the daemon
    Collect {
        /// Only show the shares that would be deleted
        #[arg(long)]
        dry_run: bool,
    },
    /// Compares the clouds with the leases now, without waiting for the daemon
    Reconcile,
    /// Takes the containers over after the database was lost, and gives every whole share without a
    /// row a starter lease
    Rebuild {
        /// Only move a damaged database away, while no daemon runs; do this before the rebuild
        #[arg(long)]
        replace_database: bool,
        /// Only record that the database is a backup, while no daemon runs; do this before the
        /// rebuild, so that it looks in the containers for newer shares
        #[arg(long, conflicts_with = "replace_database")]
        restored_backup: bool,
    },
}

pub(crate) async fn lease(home: &Home, json: bool, command: LeaseCommand) -> Outcome {
    match command {
        LeaseCommand::List { account, index } => list(home, json, account, index).await,
        LeaseCommand::Renew { index, account } => {
            let path = format!(
                "/v1/leases/renew?account={}&index={}",
                encode(&account),
                encode(&index)
            );
            let renewed: BTreeMap<String, usize> =
                Client(home).ask(Method::POST, &path, nothing()).await?;
            if renewed.values().sum::<usize>() == 0 {
                return Err(Failed::other(format!(
                    "no cloud has a whole share of {index}"
                )));
            }
            if json {
                return print_json(&renewed);
            }
            for (cloud, shares) in &renewed {
                say!("{cloud:<16} {}", progress::counted(*shares as u64, "share"));
            }
            Ok(())
        }
        LeaseCommand::Collect { dry_run } => {
            let method = if dry_run { Method::GET } else { Method::POST };
            let lines: Vec<CollectLine> =
                Client(home).ask(method, "/v1/collect", nothing()).await?;
            for line in &lines {
                if json {
                    print_json(line)?;
                    continue;
                }
                for share in &line.would_go {
                    let WouldGo {
                        storage_index,
                        share,
                        bytes,
                        reason,
                    } = share;
                    say!(
                        "{:<16} {storage_index} {share:>3} {bytes:>14}  {reason}",
                        line.cloud
                    );
                }
                if dry_run {
                    let more = if line.would_go.len() == SHOWN {
                        " or more"
                    } else {
                        ""
                    };
                    let going = line.would_go.len();
                    let things = if going == 1 { "share" } else { "shares" };
                    say!("{:<16} {going}{more} {things} would go", line.cloud);
                } else {
                    let CollectLine {
                        cloud,
                        expired,
                        deleted,
                        failed,
                        ..
                    } = line;
                    say!(
                        "{cloud:<16} {expired} leases ended, {deleted} shares deleted, {failed} failed"
                    );
                }
            }
            let faults: Vec<_> = lines
                .iter()
                .filter_map(|line| line.error.as_deref())
                .collect();
            if !faults.is_empty() {
                return Err(Failed {
                    code: Code::TooFewClouds,
                    sentence: faults.join("; "),
                });
            }
            Ok(())
        }
        LeaseCommand::Reconcile => walk(home, json, "reconcile").await,
        LeaseCommand::Rebuild {
            replace_database: true,
            ..
        } => replace_database(home, json),
        LeaseCommand::Rebuild {
            restored_backup: true,
            ..
        } => restored_backup(home, json).await,
        LeaseCommand::Rebuild { .. } => walk(home, json, "rebuild").await,
    }
}

async fn list(home: &Home, json: bool, account: Option<String>, index: Option<String>) -> Outcome {
    let mut filter = String::new();
    for (name, value) in [("account", account), ("index", index)] {
        if let Some(value) = value {
            filter += &format!("&{name}={}", encode(&value));
        }
    }
    let mut after = String::new();
    loop {
        let path = format!("/v1/leases?{after}{filter}");
        let page: Vec<LeaseLine> = Client(home).ask(Method::GET, &path, nothing()).await?;
        for line in &page {
            if json {
                print_json(line)?;
                continue;
            }
            let ends = line
                .expires_ms
                .map_or_else(|| "lasts".to_owned(), |ms| format!("until {}", when(ms)));
            let LeaseLine {
                cloud,
                storage_index,
                share,
                account,
                bytes,
                state,
                ..
            } = line;
            say!(
                "{cloud:<16} {storage_index} {share:>3} {bytes:>14}  {state:<7} {account:<16} {ends}"
            );
        }
        match page.last() {
            Some(last) => {
                let place = format!("{}/{}/{}", last.cloud, last.storage_index, last.share);
                after = format!("after={}", encode(&place));
            }
            None => return Ok(()),
        }
    }
}

pub(crate) async fn accept_clock(home: &Home, json: bool) -> Outcome {
    let accepted: AcceptedClock = Client(home)
        .ask(Method::POST, "/v1/clock/accept", nothing())
        .await?;
    if json {
        return print_json(&accepted);
    }
    match accepted.off_ms / 1000 {
        0 => say!("the clock had not moved; nothing waited for it"),
        seconds => say!(
            "the clock is accepted as right; it had moved by {seconds} s. Every wait lasts as long \
             as it had to"
        ),
    }
    Ok(())
}

/// Begins a walk, and shows its progress until it ends.
async fn walk(home: &Home, json: bool, what: &str) -> Outcome {
    let bar = indicatif::ProgressBar::new(0);
    let mut report: Walk = Client(home)
        .ask(Method::POST, &format!("/v1/walks/{what}"), nothing())
        .await?;
    while report.is_running {
        bar.set_length(report.clouds.iter().map(|cloud| cloud.of).sum());
        bar.set_position(report.clouds.iter().map(|cloud| cloud.prefixes).sum());
        tokio::time::sleep(PAUSE).await;
        report = Client(home)
            .ask(Method::GET, "/v1/walks", nothing())
            .await?;
    }
    bar.finish_and_clear();
    for cloud in &report.clouds {
        if json {
            print_json(cloud)?;
            continue;
        }
        say!(
            "{:<16} {} shares listed, {} discovered, {} torn, {} reaped, {} vanished, {} lost",
            cloud.cloud,
            cloud.listed,
            cloud.discovered,
            cloud.torn,
            cloud.reaped,
            cloud.vanished,
            cloud.lost
        );
        if cloud.failed > 0 {
            say!(
                "{:<16} {} shares could not be examined; the daemon's log has the reasons, and the \
                 next walk tries again",
                cloud.cloud,
                cloud.failed
            );
        }
    }
    let faults: Vec<&str> = report
        .clouds
        .iter()
        .filter_map(|cloud| cloud.error.as_deref())
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failed {
        code: Code::TooFewClouds,
        sentence: format!(
            "the walk did not reach its end: {}; run it again, and it continues there",
            faults.join("; ")
        ),
    })
}

async fn restored_backup(home: &Home, json: bool) -> Outcome {
    let _lock = lock(home)?.ok_or_else(|| Failed::busy(home.path()))?;
    let path = home.database();
    if !path.exists() {
        return Err(Failed::configuration(format!(
            "there is no database at {}",
            path.display()
        )));
    }
    let database = tokio::task::spawn_blocking(move || Database::open(&path))
        .await
        .map_err(Failed::other)?;
    let leasedb = LeaseDb::open(
        database.map_err(Failed::configuration)?,
        Clock::system(),
        GracePeriods::default(),
    )
    .await;
    leasedb
        .map_err(Failed::configuration)?
        .restored()
        .await
        .map_err(Failed::configuration)?;
    if json {
        return print_json(&serde_json::json!({"restored": true}));
    }
    say!("Now run `raic serve`, and in another terminal `raic lease rebuild`.");
    say!("Files stored since the backup are not in its catalog; their shares are kept.");
    Ok(())
}

fn replace_database(home: &Home, json: bool) -> Outcome {
    let _lock = lock(home)?.ok_or_else(|| Failed::busy(home.path()))?;
    let path = home.database();
    let mark = jiff::Timestamp::now()
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string();
    let mut moved = Vec::new();
    for suffix in ["", "-wal", "-shm"] {
        let mut from = path.clone().into_os_string();
        from.push(suffix);
        let mut to = path.clone().into_os_string();
        to.push(format!(".{mark}{suffix}"));
        match std::fs::rename(&from, &to) {
            Ok(()) => moved.push(to.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Failed::other(format!(
                    "cannot move {}: {e}",
                    from.display()
                )));
            }
        }
    }
    if moved.is_empty() {
        return Err(Failed::other(format!(
            "there is no database at {}",
            path.display()
        )));
    }
    if json {
        return print_json(&serde_json::json!({"moved": moved}));
    }
    say!("The database is kept as {}", moved.join(", "));
    say!("Now run `raic serve`, and in another terminal `raic lease rebuild`.");
    say!(
        "Names of files are not rebuilt by it: they need the catalog, which was in that database."
    );
    Ok(())
}
