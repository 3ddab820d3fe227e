//! Compiles connectors: each in a process with limits, once for each version of the engine. The
//! native code is kept with a hash.
//!
//! Compiling a component of a few kilobytes can take minutes and gigabytes, if it was made for
//! that. So the daemon and the commands leave it to a child process, [`CompilerProcess`], which
//! limits itself before it reads the component. The native code is kept in a folder that only this
//! user writes, with its SHA-256 in front of it. It is compiled again if a disk has changed a bit
//! of it.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use crate::{ConnectorError, Package, engine};

/// How long native code of another version of the engine is kept.
const KEPT: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);
/// Address space of a compiler, in bytes. Guests that carry an interpreter take half a gigabyte.
const MAX_ADDRESS_SPACE: u64 = 3 << 30;
/// CPU time of a compiler, in seconds, all threads together. Guests that carry an interpreter take
/// a quarter of it in a debug build.
const MAX_CPU_S: u64 = 240;
/// Most bytes that are kept of a compiler's output on its standard error.
const MAX_SAID: u64 = 2 << 10;
/// Beginning of the names of files that are not written to their end.
const UNFINISHED: &str = ".tmp";
/// Length of a SHA-256, in bytes.
const HASH: usize = 32;

/// How to start a process that compiles one component. The process must call [`compile_file`] with
/// the two paths that follow its arguments.
#[derive(Clone, Debug)]
pub struct CompilerProcess {
    /// The program, such as the one that is running.
    pub program: PathBuf,
    /// The arguments that stand before the paths of the component and of the output.
    pub arguments: Vec<OsString>,
}

/// Compiles the component in the file `component`, which is not trusted, into the file `output`. It
/// limits this process first, and for good: the process can do nothing else afterwards.
///
/// # Errors
/// [`ConnectorError::Compile`] if the component does not compile; [`ConnectorError::Io`] if a file
/// cannot be read or written. If a limit is hit, the process ends by a signal or an abort.
pub fn compile_file(component: &Path, output: &Path) -> Result<(), ConnectorError> {
    let limit = |most: u64| Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    // Without its parent nobody waits for the code, and nobody would end a compiler that loops.
    let limited = set_parent_process_death_signal(Some(Signal::KILL))
        .and_then(|()| setrlimit(Resource::As, limit(MAX_ADDRESS_SPACE)))
        .and_then(|()| setrlimit(Resource::Cpu, limit(MAX_CPU_S)))
        .and_then(|()| setrlimit(Resource::Core, limit(0)));
    limited.map_err(|e| ConnectorError::Compile(format!("its compiler cannot be limited: {e}")))?;
    let bytes = fs::read(component).map_err(ConnectorError::io(component))?;
    let engine = engine::for_compiling()?;
    let code = engine
        .precompile_component(&bytes)
        .map_err(|e| ConnectorError::Compile(format!("{e:#}")))?;
    write(output, &code)
}

/// Writes native code with its hash, so that the file is whole after a crash or does not exist.
fn write(file: &Path, code: &[u8]) -> Result<(), ConnectorError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::with_prefix_in(UNFINISHED, folder)
        .map_err(ConnectorError::io(folder))?;
    let written = new
        .write_all(&Sha256::digest(code))
        .and_then(|()| new.write_all(code));
    written
        .and_then(|()| new.as_file().sync_all())
        .map_err(ConnectorError::io(folder))?;
    new.persist(file)
        .map_err(|e| ConnectorError::io(file)(e.error))?;
    Ok(())
}

/// Returns the native code in a file. Returns `None` if there is no file or its hash is wrong.
fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = match fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    if bytes.len() < HASH || Sha256::digest(&bytes[HASH..])[..] != bytes[..HASH] {
        tracing::warn!(
            "{}: its content has changed since it was compiled (a damaged disk?); compiling again",
            file.display()
        );
        return Ok(None);
    }
    bytes.drain(..HASH);
    Ok(Some(bytes))
}

/// Returns the file for the native code of a package and an engine.
fn file_of(engine: &wasmtime::Engine, package: &Package, folder: &Path) -> PathBuf {
    folder.join(format!(
        "{}-{:016x}.cwasm",
        package.sha256,
        engine::compatibility(engine)
    ))
}

/// Whether native code of a package is kept for an engine.
pub(crate) fn is_kept(engine: &wasmtime::Engine, package: &Package, folder: &Path) -> bool {
    file_of(engine, package, folder).is_file()
}

/// Loads the native code of a package, compiling it first if none is kept. Blocks for as long as
/// compiling takes.
pub(crate) fn cached(
    engine: &wasmtime::Engine,
    compiler: Option<&CompilerProcess>,
    package: &Package,
    folder: &Path,
) -> Result<Component, ConnectorError> {
    let file = file_of(engine, package, folder);
    if let Some(component) = load(engine, &file)? {
        return Ok(component);
    }
    // One compiler runs at a time, since each may take gigabytes. Another call may have compiled
    // this package meanwhile.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    if let Some(component) = load(engine, &file)? {
        return Ok(component);
    }
    tracing::info!(
        "compiling connector {} {}",
        package.manifest.name,
        package.manifest.version
    );
    match compiler {
        Some(compiler) => compiler.run(package, folder, &file)?,
        None => {
            let code = engine.precompile_component(&package.bytes);
            write(
                &file,
                &code.map_err(|e| ConnectorError::Compile(format!("{e:#}")))?,
            )?;
        }
    }
    forget_older(package, folder, &file);
    load(engine, &file)?.ok_or_else(|| {
        ConnectorError::Compile(
            "its compiled code was removed or changed just after it was written".to_owned(),
        )
    })
}

fn load(engine: &wasmtime::Engine, file: &Path) -> Result<Option<Component>, ConnectorError> {
    let Some(code) = read(file).map_err(ConnectorError::io(file))? else {
        return Ok(None);
    };
    // SAFETY: the folder is in the daemon's home, mode 0700, and only `write` writes there. The
    // code was compiled by an engine of the same settings: the name carries the component's hash
    // and the engine's compatibility. The code's own hash was checked just now.
    #[allow(unsafe_code)]
    match unsafe { Component::deserialize(engine, &code) } {
        Ok(component) => Ok(Some(component)),
        Err(e) => {
            tracing::warn!("{}: compiling again: {e:#}", file.display());
            Ok(None)
        }
    }
}

/// Removes the native code of a connector for other versions of the engine, and files that a
/// process left when it was stopped, if they were written long ago. Recent files are kept, because
/// a daemon may run on after an upgrade.
fn forget_older(package: &Package, folder: &Path, kept: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(&package.sha256) || name.starts_with(UNFINISHED);
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|modified| modified.elapsed().ok());
        if ours && entry.path() != kept && age.is_some_and(|age| age > KEPT) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl CompilerProcess {
    fn run(&self, package: &Package, folder: &Path, output: &Path) -> Result<(), ConnectorError> {
        let mut component = tempfile::NamedTempFile::with_prefix_in(UNFINISHED, folder)
            .map_err(ConnectorError::io(folder))?;
        component
            .write_all(&package.bytes)
            .map_err(ConnectorError::io(folder))?;
        let failed = |why: String| ConnectorError::Compile(why);
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args([component.path(), output])
            // Threads and their arenas reserve address space, which is limited, whether they use it
            // or not.
            .env("RAYON_NUM_THREADS", "4")
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(format!("its compiler cannot be started: {e}")))?;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            let mut said_bytes = Vec::new();
            let _ = stderr.take(MAX_SAID).read_to_end(&mut said_bytes);
            said = String::from_utf8_lossy(&said_bytes).into_owned();
        }
        let status = child
            .wait()
            .map_err(|e| failed(format!("its compiler is lost: {e}")))?;
        if status.success() {
            return Ok(());
        }
        let said = crate::shown(said.lines().next().unwrap_or_default());
        Err(failed(match (status.code(), said.is_empty()) {
            (Some(1), false) => said,
            _ => format!(
                "compiling it took more than {} GiB of memory or {MAX_CPU_S} s of CPU time, \
                 or the compiler failed ({status}); it is not a connector to trust",
                MAX_ADDRESS_SPACE >> 30
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once single bits that changed on disk crashed the daemon at each start.
    #[test]
    fn compiled_code_that_a_disk_changed_is_compiled_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.cwasm");
        let engine = engine::for_compiling().unwrap();
        let code = engine
            .precompile_component(&wat::parse_str("(component)").unwrap())
            .unwrap();
        write(&file, &code).unwrap();
        assert!(load(&engine, &file).unwrap().is_some());
        let good = fs::read(&file).unwrap();
        for at in [0, HASH, HASH + 100, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            fs::write(&file, &bad).unwrap();
            assert!(load(&engine, &file).unwrap().is_none(), "byte {at}");
        }
        for length in [0, 10, HASH, good.len() - 1] {
            fs::write(&file, &good[..length]).unwrap();
            assert!(load(&engine, &file).unwrap().is_none(), "{length} bytes");
        }
    }

    /// The engines that run connectors must accept what a child compiles.
    #[test]
    fn all_engines_compile_alike() {
        let child = engine::compatibility(&engine::for_compiling().unwrap());
        for running in crate::Engine::new().unwrap().engines() {
            assert_eq!(engine::compatibility(running), child);
        }
    }
}
