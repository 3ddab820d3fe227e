//! `raic`: files over independent clouds.

mod client;
mod clouds;
mod config;
mod connector_watch;
mod connectors;
mod daemon;
mod demo;
mod demo_service;
mod error;
mod files;
mod home;
mod init;
mod output;
mod practice_service;
mod progress;
mod released;
mod storage;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    error::{EXIT_CODES, Outcome},
    home::Home,
};

#[derive(Parser)]
#[command(
    version,
    about = "Keeps files encrypted and erasure-coded over independent clouds: any n-k of them may fail",
    after_help = EXIT_CODES
)]
struct Arguments {
    /// The folder with configuration, keys and database [default: $XDG_DATA_HOME/raic or ~/.local/share/raic]
    #[arg(long, global = true, env = "RAIC_HOME", value_name = "FOLDER")]
    home: Option<PathBuf>,
    /// Print one JSON value instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a home: keys, and a configuration whose four clouds are local folders
    Init,
    /// Runs the daemon in the foreground; the other commands talk to it
    Serve,
    /// Stores a file, or standard input, replacing the one of that name
    Put {
        /// What to store; - is standard input
        file: PathBuf,
        /// Its name [default: the file's]
        name: Option<String>,
        /// The account that pays for it
        #[arg(long, default_value = "anonymous")]
        account: String,
    },
    /// Gives a file back
    Get {
        /// Which
        name: String,
        /// Where to [default: the name's last part]; - is standard output
        file: Option<PathBuf>,
    },
    /// Lists files
    Ls {
        /// Only names that begin so
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Removes files
    Rm {
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Shows a file: size, hash, and where its shares are
    Stat {
        /// Which
        name: String,
    },
    /// Shows how clouds and array are
    Status,
    /// Makes the daemon read config.toml and the credentials again
    Reload,
    /// Adds, lists and tests clouds, and moves them to other versions of their connectors
    #[command(subcommand)]
    Cloud(clouds::CloudCommand),
    /// Makes, changes and lists accounts, which hold leases and pay for space
    #[command(subcommand)]
    Account(storage::AccountCommand),
    /// Shows what accounts and clouds use
    Usage {
        /// By what
        #[arg(long, value_enum, default_value_t = storage::By::Account)]
        by: storage::By,
    },
    /// Leases: lists and renews them, collects what has none, compares clouds with them, rebuilds them
    #[command(subcommand)]
    Lease(storage::LeaseCommand),
    /// Inspects, approves and lists connectors; begins, builds and tries new ones
    #[command(subcommand)]
    Connector(connectors::ConnectorCommand),
    /// Shows all of it on this machine: four S3 services, two of them stopped, one with its data damaged
    Demo(demo::DemoArguments),
    /// An S3 service of the demo
    #[command(hide = true)]
    DemoService(demo_service::DemoServiceArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let default = if matches!(arguments.command, Command::Serve) { "info" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("RAIC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("raic: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(arguments));
    // Reading standard input cannot be cancelled; do not wait for it.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("raic: {}", failed.sentence);
            failed.exit_code()
        }
    }
}

async fn run(arguments: Arguments) -> Outcome {
    let home = Home::find(arguments.home)?;
    let json = arguments.json;
    match arguments.command {
        Command::Init => init::init(&home, json),
        Command::Serve => daemon::serve(home).await,
        Command::Put { file, name, account } => files::put(&home, json, &file, name, &account).await,
        Command::Get { name, file } => files::get(&home, json, &name, file).await,
        Command::Ls { prefix } => files::ls(&home, json, &prefix).await,
        Command::Rm { names } => files::rm(&home, json, &names).await,
        Command::Stat { name } => files::stat(&home, json, &name).await,
        Command::Status => clouds::status(&home, json).await,
        Command::Reload => clouds::reload(&home, json).await,
        Command::Cloud(command) => clouds::run(&home, json, command).await,
        Command::Account(command) => storage::account(&home, json, command).await,
        Command::Usage { by } => storage::usage(&home, json, by).await,
        Command::Lease(command) => storage::lease(&home, json, command).await,
        Command::Connector(command) => connectors::run(&home, json, command).await,
        Command::Demo(arguments) => demo::demo(arguments).await,
        Command::DemoService(arguments) => demo_service::serve(arguments).await,
    }
}
