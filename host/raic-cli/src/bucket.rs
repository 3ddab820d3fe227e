//! `bucket`: makes, lists and removes buckets.

use clap::Subcommand;
use hyper::Method;
use raic_gateway::wire::Bucket;
use serde_json::json;

use crate::{
    client::{Client, encode, nothing},
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
    },
    /// Lists buckets, with the number and the bytes of their files
    List,
    /// Removes a bucket that holds no file
    Remove {
        /// The name of the bucket
        name: String,
    },
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
                let class = bucket
                    .class
                    .map_or(String::new(), |class| format!("  (class {class})"));
                say!("{size:>11}  {files:>12}  {created}  {name}{class}");
            }
            Ok(())
        }
        BucketCommand::Create { name, class } => {
            let query = match class {
                Some(class) => format!("?class={}", encode(&class)),
                None => String::new(),
            };
            let path = format!("{}{query}", path(&name));
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
