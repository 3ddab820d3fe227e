//! `cp` and `mv`, within the array. What is stored is shared, and not stored anew.

use clap::Args;
use hyper::Method;
use raic_gateway::wire::File;

use super::{Bucket, last_part, print_json, remote::Remote};
use crate::{
    client::{Client, nothing},
    error::{Failed, Outcome},
    home::Home,
    output::say,
};

#[derive(Args)]
pub(crate) struct CopyArguments {
    /// The name of the file
    from: String,
    /// The name of the new file; one that ends with / is a folder
    to: String,
    /// The bucket of the new file [default: that of the file]
    #[arg(long, value_name = "NAME")]
    to_bucket: Option<String>,
    /// Keep a file that has the new name already, and fail
    #[arg(long)]
    no_replace: bool,
    #[command(flatten)]
    bucket: Bucket,
}

pub(crate) async fn cp(home: &Home, json: bool, arguments: CopyArguments) -> Outcome {
    copy(home, json, arguments, false).await
}

pub(crate) async fn mv(home: &Home, json: bool, arguments: CopyArguments) -> Outcome {
    copy(home, json, arguments, true).await
}

async fn copy(home: &Home, json: bool, arguments: CopyArguments, moves: bool) -> Outcome {
    let CopyArguments {
        from,
        mut to,
        to_bucket,
        no_replace,
        bucket,
    } = arguments;
    if to.is_empty() || to.ends_with('/') {
        to += last_part(&from)
            .ok_or_else(|| Failed::usage(format!("{from:?} ends without a file's name")))?;
    }
    let pairs = [
        ("from", from.clone()),
        ("from_bucket", bucket.bucket.clone()),
        ("moves", moves.to_string()),
        ("no_replace", no_replace.to_string()),
    ];
    let bucket = Bucket {
        bucket: to_bucket.unwrap_or(bucket.bucket),
    };
    let path = Remote::new(&bucket, &to).path("copies", &pairs);
    let made: File = Client(home).ask(Method::POST, &path, nothing()).await?;
    if json {
        return print_json(&made);
    }
    let did = if moves { "moved" } else { "copied" };
    let replaced = if made.replaced {
        ", which replaced a file"
    } else {
        ""
    };
    say!("{did} {from} to {to}{replaced}");
    Ok(())
}
