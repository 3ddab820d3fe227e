//! `bucket`: makes, lists and removes buckets.

use clap::{Subcommand, ValueEnum};
use hyper::Method;
use raic_gateway::wire::{Bucket, Versioning};
use serde_json::json;

use crate::{
    client::{Client, encode, nothing, query},
    error::Outcome,
    files::{print_json, when},
    home::Home,
    output::say,
    progress::{bytes, counted},
};

#[derive(Subcommand)]
pub(crate) enum BucketCommand {
    /// Makes a bucket
    Create {
        /// The name: 3 to 63 of a-z, 0-9, dots and hyphens
        name: String,
        /// The class of its files, as in config.toml
        #[arg(long)]
        class: Option<String>,
        /// Keep the old versions of its files
        #[arg(long)]
        versioning: bool,
    },
    /// Keeps the old versions of a bucket's files from now on, or suspends that
    Versioning {
        /// The name of the bucket
        name: String,
        /// on: new files do not take the place of old ones. suspended: they do again, and the
        /// versions that are there stay
        #[arg(value_enum)]
        versioning: Change,
    },
    /// Lists buckets, with the number and the bytes of their files
    List,
    /// Removes a bucket that holds no file
    Remove {
        /// The name of the bucket
        name: String,
    },
}

/// A change of a bucket's versioning.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Change {
    On,
    Suspended,
}

pub(crate) async fn run(home: &Home, json: bool, command: BucketCommand) -> Outcome {
    let path = |name: &str| format!("/v1/buckets/{}", encode(name));
    match command {
        BucketCommand::List => {
            let buckets: Vec<Bucket> = Client(home)
                .ask(Method::GET, "/v1/buckets", nothing())
                .await?;
            for bucket in buckets {
                if json {
                    print_json(&bucket)?;
                    continue;
                }
                let files = counted(bucket.files, "file");
                let created = when(bucket.created_ms);
                let (size, name) = (bytes(bucket.bytes), bucket.name);
                let lacks = match bucket.lacks_class {
                    true => ", which config.toml lacks: it takes no files",
                    false => "",
                };
                let class = bucket
                    .class
                    .map_or(String::new(), |class| format!("  (class {class}{lacks})"));
                let versioning = match bucket.versioning {
                    Versioning::Off => "",
                    Versioning::On => "  (keeps versions)",
                    Versioning::Suspended => "  (keeps no new versions)",
                };
                say!("{size:>11}  {files:>12}  {created}  {name}{class}{versioning}");
            }
            Ok(())
        }
        BucketCommand::Versioning { name, versioning } => {
            let versioning = match versioning {
                Change::On => "on",
                Change::Suspended => "suspended",
            };
            let pairs = [("versioning", versioning.to_owned())];
            let path = path(&name) + &query(&pairs);
            Client(home)
                .send(Method::PATCH, &path, &[], nothing())
                .await?;
            match json {
                true => print_json(&json!({"bucket": name, "versioning": versioning})),
                false => Ok(()),
            }
        }
        BucketCommand::Create {
            name,
            class,
            versioning,
        } => {
            let class = class.map(|class| ("class", class));
            let versioning = versioning.then(|| ("versioning", "on".to_owned()));
            let pairs: Vec<_> = class.into_iter().chain(versioning).collect();
            let path = path(&name) + &query(&pairs);
            Client(home)
                .send(Method::PUT, &path, &[], nothing())
                .await?;
            match json {
                true => print_json(&json!({"bucket": name, "created": true})),
                false => Ok(()),
            }
        }
        BucketCommand::Remove { name } => {
            Client(home)
                .send(Method::DELETE, &path(&name), &[], nothing())
                .await?;
            match json {
                true => print_json(&json!({"bucket": name, "removed": true})),
                false => Ok(()),
            }
        }
    }
}
