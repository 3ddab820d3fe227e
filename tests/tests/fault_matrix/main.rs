//! The fault matrix: every fault, at every moment of a request, of one, two and three clouds of
//! four.
//!
//! With up to two faulty clouds every file is read and written. With three there is one clear
//! error, and files are listed and removed all the same. Wrong bytes never come, and nothing hangs.
//! A quick part of the matrix always runs; `RAIC_SLOW` runs the whole, as `cargo xtask test slow`
//! does. `RAIC_SEED` sets which clouds are faulty.

mod cell;
mod rig;

use futures::{StreamExt as _, stream};
use raic_lean_cloud::{Fault, Misbehaviour, Moment};

use crate::{
    cell::{Cell, Outcome},
    rig::Connector,
};

/// Cells that are tried at once: most of them wait.
const AT_ONCE: usize = 12;
const SEED: u64 = 2013;

/// All cells: what can happen, and what cannot.
fn matrix() -> (Vec<Cell>, Vec<(Misbehaviour, &'static str)>) {
    let (mut cells, mut impossible) = (Vec::new(), Vec::new());
    for (at, fault) in Moment::ALL
        .into_iter()
        .flat_map(|at| Fault::ALL.map(|fault| (at, fault)))
    {
        let misbehaviour = Misbehaviour { at, fault };
        for faulty in 1..=3 {
            match misbehaviour.why_impossible() {
                Some(why) => impossible.push((misbehaviour, why)),
                None => cells.push(Cell {
                    misbehaviour,
                    faulty,
                }),
            }
        }
    }
    (cells, impossible)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_moment_of_up_to_three_clouds() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let seed = std::env::var("RAIC_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let is_full = std::env::var_os("RAIC_SLOW").is_some();
    let (cells, impossible) = matrix();
    assert_eq!(cells.len() + impossible.len(), 180);
    let chosen = cells.into_iter().filter(|cell| is_full || cell.is_quick());
    let connector = Connector::load();
    let tried: Vec<(Cell, Result<Outcome, String>)> = stream::iter(chosen)
        .map(|cell| {
            let connector = &connector;
            async move { (cell, cell.run(connector, seed).await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for (misbehaviour, why) in impossible.iter().step_by(3) {
        println!("{misbehaviour}: 3 cells cannot be, since {why}");
    }
    let mut wrong = Vec::new();
    for (cell, outcome) in &tried {
        match outcome {
            Ok(outcome) => println!("{cell}: {outcome}"),
            Err(what) => wrong.push(format!("{cell}: {what}")),
        }
    }
    println!(
        "seed {seed}: {} cells tried, {} as they should be, {} cannot be",
        tried.len(),
        tried.len() - wrong.len(),
        impossible.len()
    );
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
