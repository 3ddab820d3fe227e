//! The lean loopback cloud as a process of its own, for benchmarks.

use std::time::Duration;

use clap::Parser;
use raic_lean_cloud::{Keys, LeanCloud, Pace};

/// Serves buckets from memory until it is killed. The keys come from the environment variables
/// RAIC_LEAN_ACCESS_KEY and RAIC_LEAN_SECRET_KEY.
#[derive(Parser)]
struct Arguments {
    /// The port of 127.0.0.1 to listen on
    port: u16,
    /// Names of the buckets to make
    buckets: Vec<String>,
    /// How long each request waits
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    latency: u64,
    /// Most bytes a second in each direction
    #[arg(long, value_name = "BYTES")]
    rate: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let keys = Keys {
        access_key: std::env::var("RAIC_LEAN_ACCESS_KEY")?,
        secret_key: std::env::var("RAIC_LEAN_SECRET_KEY")?,
    };
    let pace = Pace {
        latency: Duration::from_millis(arguments.latency),
        bytes_per_second: arguments.rate,
    };
    let cloud = LeanCloud::start(arguments.port, keys, pace).await?;
    for bucket in &arguments.buckets {
        cloud.create_bucket(bucket);
    }
    std::future::pending().await
}
