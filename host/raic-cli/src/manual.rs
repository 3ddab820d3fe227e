//! `raic completions` and `raic man`, which clap makes from the definitions of the commands.

use std::{fs, io, path::Path};

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};
use serde_json::json;

use crate::{
    Arguments,
    error::{Failed, Outcome},
    files::print_json,
    output::say,
};

pub(crate) fn completions(shell: Shell) -> Outcome {
    // The script is made in memory first, because clap panics if standard output is closed.
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "raic", &mut script);
    match io::Write::write_all(&mut io::stdout(), &script) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failed::other(format!("cannot write the output: {e}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn pages(folder: &Path, json: bool) -> Outcome {
    let cannot = |e: io::Error| Failed::other(format!("cannot write to {}: {e}", folder.display()));
    fs::create_dir_all(folder).map_err(cannot)?;
    clap_mangen::generate_to(Arguments::command().name("raic"), folder).map_err(cannot)?;
    if json {
        return print_json(&json!({"folder": folder}));
    }
    say!(
        "the manual pages are in {}; `man -l {}/raic.1` shows the first",
        folder.display(),
        folder.display()
    );
    Ok(())
}
