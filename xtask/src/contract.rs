//! Checks the contract: it must parse, and still be what was frozen.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use wit_component::{OutputToString, WitPrinter};
use wit_parser::{PackageId, Resolve, WorldKey};

use crate::stage::{Outcome, root};

/// The frozen version, which is also the name of its copy in `wit/frozen`.
const FROZEN: &str = "0.1.0";

/// Parses the contract, resolves its worlds, and compares it with the frozen one.
///
/// Interfaces may be added. Those that were frozen must stay as they are, apart from comments. What
/// a connector must export stays the same, and every frozen import stays.
pub(crate) fn check() -> Outcome {
    let start = Instant::now();
    let folder = root().join("wit");
    let current = Contract::read(&folder.join("connector.wit"))?;
    current.world("connector-full")?;
    let frozen = Contract::read(&folder.join(format!("frozen/{FROZEN}.wit")))?;
    let now = current.interfaces()?;
    for (name, was) in frozen.interfaces()? {
        match now.get(&name) {
            None => {
                return Err(format!(
                    "wit/: the interface {name} of {FROZEN} is gone; compiled connectors use it"
                ));
            }
            Some(is) if *is != was => {
                return Err(format!(
                    "wit/: the interface {name} is not what {FROZEN} froze; \
                     compiled connectors would not load:\n{}",
                    difference(&was, is)
                ));
            }
            Some(_) => {}
        }
    }
    let (was, is) = (frozen.world("connector")?, current.world("connector")?);
    if was.1 != is.1 {
        return Err(format!(
            "wit/: what a connector must export was {:?} and is now {:?}",
            was.1, is.1
        ));
    }
    if let Some(gone) = was.0.iter().find(|import| !is.0.contains(import)) {
        return Err(format!(
            "wit/: the world connector no longer imports {gone}"
        ));
    }
    println!("== contract: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// A parsed contract.
struct Contract {
    resolve: Resolve,
    package: PackageId,
}

impl Contract {
    fn read(file: &Path) -> Outcome<Self> {
        let text =
            fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        let mut resolve = Resolve::default();
        let package = resolve.push_str(file, &text);
        let package = package.map_err(|e| format!("{} does not parse: {e:#}", file.display()))?;
        Ok(Self { resolve, package })
    }

    /// The text of each interface, without comments.
    fn interfaces(&self) -> Outcome<BTreeMap<String, String>> {
        let interfaces = &self.resolve.packages[self.package].interfaces;
        let text = |id| {
            let mut printer = WitPrinter::new(OutputToString::default());
            printer.emit_docs(false);
            let printed = printer.print_interface(&self.resolve, id);
            printed
                .map(|()| printer.output.to_string())
                .map_err(|e| format!("{e:#}"))
        };
        interfaces
            .iter()
            .map(|(name, id)| Ok((name.clone(), text(*id)?)))
            .collect()
    }

    /// The names of what a world imports, and of what it exports.
    fn world(&self, name: &str) -> Outcome<(Vec<String>, Vec<String>)> {
        let world = self.resolve.select_world(&[self.package], Some(name));
        let world =
            &self.resolve.worlds[world.map_err(|e| format!("wit/ lacks world {name}: {e:#}"))?];
        let names = |items: Vec<&WorldKey>| {
            items
                .into_iter()
                .map(|key| self.resolve.name_world_key(key))
                .collect()
        };
        Ok((
            names(world.imports.keys().collect()),
            names(world.exports.keys().collect()),
        ))
    }
}

/// Shows the first line that differs, as it was and as it is.
fn difference(was: &str, is: &str) -> String {
    let mut lines = was.lines().zip(is.lines().chain(std::iter::repeat("")));
    let (was, is) = lines
        .find(|(was, is)| was != is)
        .unwrap_or(("(the end)", "more"));
    format!("  was {}\n  is  {}", was.trim(), is.trim())
}
