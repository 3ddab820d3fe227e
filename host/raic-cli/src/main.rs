//! `raic`: files over independent clouds.

mod bucket;
mod client;
mod clouds;
mod config;
mod configuration;
mod connector_watch;
mod connectors;
mod daemon;
mod demo;
mod demo_service;
mod error;
mod files;
mod home;
mod init;
mod key;
mod manual;
mod offline;
mod opener;
mod output;
mod practice_service;
mod progress;
mod released;
mod storage;
mod tahoe;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    error::{EXIT_CODES, Failed, Outcome},
    home::Home,
};

#[derive(Parser)]
#[command(
    name = "raic",
    version,
    about = "Keeps files encrypted and erasure-coded over independent clouds: any n-k of them may fail",
    after_help = EXIT_CODES
)]
struct Arguments {
    /// The folder with configuration, keys and database [default: $RAIC_HOME, else
    /// $XDG_DATA_HOME/raic, else ~/.local/share/raic]
    #[arg(long, global = true, value_name = "FOLDER")]
    home: Option<PathBuf>,
    /// Print JSON instead of text: one value, or several, one a line; an error is a value too, the
    /// last line on standard error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a home: keys, and a configuration whose four clouds are local folders
    Init,
    /// Runs the daemon in the foreground; the commands for files, accounts and leases need it
    Serve,
    /// Stores files, folders or standard input; replaces files that have the names
    Put(files::PutArguments),
    /// Reads a file back, or all files of a folder
    Get(files::GetArguments),
    /// Writes files to standard output
    Cat(files::CatArguments),
    /// Lists files and folders
    Ls(files::LsArguments),
    /// Shows a file: size, hash, and the cloud of each share
    Stat(files::StatArguments),
    /// Removes files, or all files of a folder
    Rm(files::RmArguments),
    /// Copies a file within the array, without storing its content anew
    Cp(files::CpArguments),
    /// Gives a file another name, also in another bucket
    Mv(files::CopyArguments),
    /// Makes a folder in the array like a folder of this machine
    Sync(files::SyncArguments),
    /// Makes, lists and removes buckets
    #[command(subcommand)]
    Bucket(bucket::BucketCommand),
    /// Rotates the array's key, and changes or checks the recovery key
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Shows the state of the array and of each cloud; exits with 6 if too few clouds work to store
    /// a file
    Status {
        /// Also show the requests to each cloud since the daemon started, and how long they took
        #[arg(long, short)]
        verbose: bool,
    },
    /// Makes the daemon read config.toml and the credentials again; lists clouds that do not work
    Reload,
    /// Checks config.toml, and says what its array survives
    #[command(subcommand)]
    Config(configuration::ConfigCommand),
    /// Adds, lists and tests clouds, and moves them to other versions of their connectors
    #[command(subcommand)]
    Cloud(clouds::CloudCommand),
    /// Makes, changes and lists accounts, which hold leases and pay for space
    #[command(subcommand)]
    Account(storage::AccountCommand),
    /// Shows the space that accounts and clouds use
    Usage {
        /// The kind of the lines: one for each account, each cloud, or each day of the history
        #[arg(long, value_enum, default_value_t = storage::By::Account)]
        by: storage::By,
    },
    /// Lists and renews leases, collects shares without a lease, and compares clouds with the
    /// leases, or rebuilds leases from the clouds
    #[command(subcommand)]
    Lease(storage::LeaseCommand),
    /// Serves clients of Tahoe-LAFS: prints their servers.yaml, shows the state of their servers,
    /// takes over and gives out shares, revokes secrets
    #[command(subcommand)]
    Tahoe(tahoe::TahoeCommand),
    /// Shows the newest events: what Tahoe-LAFS clients report, lease activity, revoked secrets
    Events {
        /// Go on, and show each new event
        #[arg(long, short)]
        follow: bool,
    },
    /// Inspects, approves, lists and revokes connectors; begins, builds and tests new connectors
    #[command(subcommand)]
    Connector(connectors::ConnectorCommand),
    /// Accepts this machine's clock after it was set
    #[command(subcommand)]
    Clock(storage::ClockCommand),
    /// Shows RAIC on this machine with four S3 services: two are stopped, and the data of one is
    /// damaged
    Demo(demo::DemoArguments),
    /// Prints a completion script for a shell, such as
    /// `raic completions bash > /etc/bash_completion.d/raic`
    Completions {
        /// The shell that the script is for
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages, one for each command, such as `raic man /usr/local/share/man/man1`
    Man {
        /// The folder to write to; it is made if it does not exist
        folder: PathBuf,
    },
    /// Runs an S3 service of the demo
    #[command(hide = true)]
    DemoService(demo_service::DemoServiceArguments),
    /// Compiles a connector that is not trusted, in this process and with limits
    #[command(hide = true)]
    CompileConnector {
        /// The file of the component
        component: PathBuf,
        /// The file to write the native code to
        output: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => return not_parsed(&e),
    };
    let json = arguments.json;
    if let Command::CompileConnector { component, output } = &arguments.command {
        // Before any thread starts, because the limits are those of the whole process.
        return ended(
            raic_wasm::compile_file(component, output).map_err(Failed::other),
            false,
        );
    }
    if let Err(failed) = start_log(matches!(arguments.command, Command::Serve)) {
        return ended(Err(failed), json);
    }
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return ended(Err(Failed::other(format!("cannot start: {e}"))), json),
    };
    let outcome = runtime.block_on(run(arguments));
    // A read of standard input cannot be cancelled, so it is not waited for.
    runtime.shutdown_background();
    ended(outcome, json)
}

/// Prints what clap answers to a command line by itself: an error, the help or the version. With
/// `--json`, an error is printed as JSON. Returns the exit code, or exits.
fn not_parsed(e: &clap::Error) -> ExitCode {
    let asks_for_json = std::env::args_os()
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json");
    if asks_for_json && e.use_stderr() {
        let sentence = e.render().to_string();
        let sentence = sentence.trim().trim_start_matches("error: ").to_owned();
        return ended(Err(Failed::usage(sentence)), true);
    }
    e.exit()
}

/// Prints the error of a command, if it failed, and returns the command's exit code.
fn ended(outcome: Outcome, json: bool) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if json {
                let error = serde_json::json!({"error": failed.sentence, "code": failed.code});
                output::error_line(format_args!(
                    "{}",
                    output::as_json(&error).unwrap_or_default()
                ));
            } else {
                output::error_line(format_args!("raic: {}", failed.sentence));
            }
            ExitCode::from(failed.exit_code())
        }
    }
}

/// Starts the log on standard error, with the levels of `RAIC_LOG` if it is set.
fn start_log(is_daemon: bool) -> Outcome {
    let default = if is_daemon { "info" } else { "warn" };
    let filter = match std::env::var("RAIC_LOG") {
        Err(_) => tracing_subscriber::EnvFilter::new(default),
        Ok(text) => tracing_subscriber::EnvFilter::try_new(&text).map_err(|e| {
            Failed::configuration(format!(
                "RAIC_LOG={text:?}: {e}; use info, debug, or raic_storage=debug,warn, for example"
            ))
        })?,
    };
    // A log that cannot be written must fail no request: the disk may be full, or the log's reader
    // may have died. So neither the writer nor the subscriber reports it.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false);
    log.with_writer(|| output::Unheeded(std::io::stderr()))
        .init();
    Ok(())
}

/// Raises the limit of open files to the highest that the system allows. Connections, the database
/// and the shares of every cloud count as open files, and shells begin with a limit of 1024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(e) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
    {
        tracing::debug!("the limit of open files stays at {current:?}: {e}");
    }
}

async fn run(arguments: Arguments) -> Outcome {
    let home = Home::find(arguments.home)?;
    let json = arguments.json;
    match arguments.command {
        Command::Init => init::init(&home, json),
        Command::Serve => daemon::serve(home).await,
        Command::Put(arguments) => files::put(&home, json, arguments).await,
        Command::Get(arguments) => files::get(&home, json, arguments).await,
        Command::Cat(arguments) => files::cat(&home, arguments).await,
        Command::Ls(arguments) => files::ls(&home, json, arguments).await,
        Command::Stat(arguments) => files::stat(&home, json, arguments).await,
        Command::Rm(arguments) => files::rm(&home, json, arguments).await,
        Command::Cp(arguments) => files::cp(&home, json, arguments).await,
        Command::Mv(arguments) => files::mv(&home, json, arguments).await,
        Command::Sync(arguments) => files::sync(&home, json, arguments).await,
        Command::Key(command) => key::run(&home, json, command).await,
        Command::Bucket(command) => bucket::run(&home, json, command).await,
        Command::Status { verbose } => clouds::status(&home, json, verbose).await,
        Command::Config(command) => configuration::run(&home, json, &command),
        Command::Reload => clouds::reload(&home, json).await,
        Command::Cloud(command) => clouds::run(&home, json, command).await,
        Command::Account(command) => storage::account(&home, json, command).await,
        Command::Usage { by } => storage::usage(&home, json, by).await,
        Command::Lease(command) => storage::lease(&home, json, command).await,
        Command::Tahoe(command) => tahoe::run(&home, json, command).await,
        Command::Events { follow } => tahoe::events(&home, json, follow).await,
        Command::Clock(storage::ClockCommand::Accept) => storage::accept_clock(&home, json).await,
        Command::Connector(command) => connectors::run(&home, json, command).await,
        Command::Demo(arguments) => demo::demo(arguments).await,
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(&folder, json),
        Command::DemoService(arguments) => demo_service::serve(arguments).await,
        Command::CompileConnector { .. } => Ok(()),
    }
}
