//! The engine: compiled components, limits on what compiles, and the clock that interrupts guests.

use std::{fs, hash::Hash as _, hash::Hasher as _, path::Path, sync::Arc, thread, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component, HasData, InstancePre, Linker},
};

use crate::{
    CONTRACT, ConnectorError, MEMORY_MIB, Manifest, Package,
    bindings::{
        ConnectorFull,
        exports::raic::connector::{account, batch_delete, container, object_store},
    },
    call::Call,
};

/// The epoch's length: how finely a guest's CPU time is counted.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// The most linear memory a guest may have.
const MAX_MEMORY: usize = (MEMORY_MIB as usize) << 20;
const STACK: usize = 512 << 10;
const ASYNC_STACK: usize = 2 << 20;
/// Core instances of one component: componentize-py makes one of each of its 38 libraries.
const MAX_CORE_INSTANCES: u32 = 64;
/// Calls that run at once, all clouds together; more wait. The pool has a slot for each.
const MAX_CALLS: u32 = 256;

/// Compiles connectors and runs them. Cheap to clone; one for the whole daemon.
#[derive(Clone)]
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Arc<Linker<Call>>,
    calls: Arc<Semaphore>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// A compiled connector, ready to be instantiated.
#[derive(Clone)]
pub struct Connector {
    pub(crate) engine: wasmtime::Engine,
    pre: InstancePre<Call>,
    exports: Arc<Exports>,
    pub(crate) manifest: Arc<Manifest>,
    /// Room for a call's instance, shared by all connectors of the engine.
    pub(crate) calls: Arc<Semaphore>,
    /// Room for the memory of calls, in MiB.
    pub(crate) memory: Arc<Semaphore>,
    sha256: String,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("name", &self.manifest.name).field("sha256", &self.sha256).finish()
    }
}

impl Connector {
    /// What it declares.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the component, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// Where a component has its exports: the one that every connector has, and optional abilities.
struct Exports {
    object_store: object_store::GuestIndices,
    container: Option<container::GuestIndices>,
    account: Option<account::GuestIndices>,
    batch_delete: Option<batch_delete::GuestIndices>,
}

impl Exports {
    fn find(pre: &InstancePre<Call>) -> wasmtime::Result<Self> {
        let has = |interface: &str| {
            let name = format!("raic:connector/{interface}@{CONTRACT}");
            pre.component().get_export_index(None, &name).is_some()
        };
        Ok(Self {
            object_store: object_store::GuestIndices::new(pre)?,
            container: has("container").then(|| container::GuestIndices::new(pre)).transpose()?,
            account: has("account").then(|| account::GuestIndices::new(pre)).transpose()?,
            batch_delete: has("batch-delete").then(|| batch_delete::GuestIndices::new(pre)).transpose()?,
        })
    }
}

/// The room of one call: of its cloud's memory, and of the engine's calls.
pub(crate) struct Room {
    _memory: Option<OwnedSemaphorePermit>,
    _call: Option<OwnedSemaphorePermit>,
}

/// An instance's exports, to be called.
pub(crate) struct Instance {
    pub(crate) object_store: object_store::Guest,
    pub(crate) container: Option<container::Guest>,
    pub(crate) account: Option<account::Guest>,
    pub(crate) batch_delete: Option<batch_delete::Guest>,
}

impl Connector {
    /// Whether it can remove several objects by one request.
    pub(crate) fn has_batch_delete(&self) -> bool {
        self.exports.batch_delete.is_some()
    }

    /// Waits for the room that a call takes. What was waited for is given back where the future is dropped.
    pub(crate) async fn room(&self) -> Room {
        let memory = self.memory.clone().acquire_many_owned(self.manifest.memory_mib).await;
        let call = self.calls.clone().acquire_owned().await;
        // Neither is ever closed.
        Room { _memory: memory.ok(), _call: call.ok() }
    }

    /// A fresh instance in `store`.
    pub(crate) async fn instantiate(&self, store: &mut Store<Call>) -> wasmtime::Result<Instance> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let Exports { object_store, container, account, batch_delete } = &*self.exports;
        Ok(Instance {
            object_store: object_store.load(&mut *store, &instance)?,
            container: container.as_ref().map(|found| found.load(&mut *store, &instance)).transpose()?,
            account: account.as_ref().map(|found| found.load(&mut *store, &instance)).transpose()?,
            batch_delete: batch_delete
                .as_ref()
                .map(|found| found.load(&mut *store, &instance))
                .transpose()?,
        })
    }
}

struct Imports;

impl HasData for Imports {
    type Data<'a> = &'a mut Call;
}

impl Engine {
    /// Starts an engine and its clock, a thread that ends with the engine. Instances come from a pool where the
    /// address space has room for one, else each from the system.
    ///
    /// # Errors
    /// [`ConnectorError::Compile`] where this machine cannot run WebAssembly at all.
    pub fn new() -> Result<Self, ConnectorError> {
        let failed = |e: wasmtime::Error| ConnectorError::Compile(format!("{e:#}"));
        let engine = wasmtime::Engine::new(&config(true))
            .or_else(|e| {
                tracing::info!("connectors run without an instance pool: {e:#}");
                wasmtime::Engine::new(&config(false))
            })
            .map_err(failed)?;
        let mut linker = Linker::new(&engine);
        ConnectorFull::add_to_linker::<_, Imports>(&mut linker, |call| call).map_err(failed)?;
        let clock = engine.weak();
        thread::Builder::new()
            .name("connector-clock".to_owned())
            .spawn(move || {
                while let Some(engine) = clock.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    thread::sleep(TICK);
                }
            })
            .map_err(|e| ConnectorError::Compile(format!("no thread for the clock: {e}")))?;
        Ok(Self { engine, linker: Arc::new(linker), calls: Arc::new(Semaphore::new(MAX_CALLS as usize)) })
    }

    /// Compiles a connector, or takes what was compiled before from `cache`, a folder that only this host writes.
    /// Blocks for 0.1 to 0.3 s for a guest in Rust, seconds for one that carries an interpreter.
    ///
    /// # Errors
    /// [`ConnectorError::Compile`] where it does not fit the contract's types.
    pub fn load(&self, package: &Package, cache: Option<&Path>) -> Result<Connector, ConnectorError> {
        let failed = |e: wasmtime::Error| ConnectorError::Compile(format!("{e:#}"));
        let component = match cache {
            None => Component::new(&self.engine, &package.bytes).map_err(failed)?,
            Some(folder) => self.cached(package, folder)?,
        };
        let pre = self.linker.instantiate_pre(&component).map_err(failed)?;
        let exports = Exports::find(&pre).map_err(failed)?;
        Ok(Connector {
            engine: self.engine.clone(),
            pre,
            exports: Arc::new(exports),
            manifest: Arc::new(package.manifest.clone()),
            calls: self.calls.clone(),
            memory: Arc::new(Semaphore::new(MEMORY_MIB as usize)),
            sha256: package.sha256.clone(),
        })
    }

    fn cached(&self, package: &Package, folder: &Path) -> Result<Component, ConnectorError> {
        let file = folder.join(format!("{}-{:016x}.cwasm", package.sha256, self.compatibility()));
        if file.is_file() {
            // SAFETY: the folder is in the daemon's home, mode 0700, and this function alone writes it, from what
            // this same engine compiled; the name carries the component's hash and the engine's compatibility.
            #[allow(unsafe_code)]
            match unsafe { Component::deserialize_file(&self.engine, &file) } {
                Ok(component) => return Ok(component),
                Err(e) => tracing::warn!("{}: compiling again: {e:#}", file.display()),
            }
        }
        let component = Component::new(&self.engine, &package.bytes)
            .map_err(|e| ConnectorError::Compile(format!("{e:#}")))?;
        let code = component.serialize().map_err(|e| ConnectorError::Compile(format!("{e:#}")))?;
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(ConnectorError::io(folder))?;
        std::io::Write::write_all(&mut new, &code).map_err(ConnectorError::io(folder))?;
        // After a crash a file must not be there with less than its bytes: it is native code.
        new.as_file().sync_all().map_err(ConnectorError::io(folder))?;
        new.persist(&file).map_err(|e| ConnectorError::io(&file)(e.error))?;
        self.forget_older(package, folder, &file);
        Ok(component)
    }

    fn compatibility(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    /// Removes what other versions of the engine compiled of the same connector.
    fn forget_older(&self, package: &Package, folder: &Path, kept: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let ours = entry.file_name().to_string_lossy().starts_with(&package.sha256);
            if ours && entry.path() != kept {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn config(pool: bool) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .async_stack_size(ASYNC_STACK)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false);
    if pool {
        let mut pooling = PoolingAllocationConfig::new();
        pooling
            .total_component_instances(MAX_CALLS)
            .total_core_instances(MAX_CALLS * MAX_CORE_INSTANCES)
            .total_memories(MAX_CALLS * 2)
            .total_tables(MAX_CALLS * 16)
            .total_stacks(MAX_CALLS)
            .max_core_instances_per_component(MAX_CORE_INSTANCES)
            .max_memories_per_component(4)
            .max_tables_per_component(16)
            .table_elements(100_000)
            .max_component_instance_size(10 << 20)
            .max_memory_size(MAX_MEMORY)
            .linear_memory_keep_resident(512 << 10)
            // Where the kernel tells which pages were written, only those are reset.
            .pagemap_scan(Enabled::Auto)
            .async_stack_keep_resident(64 << 10)
            .table_keep_resident(64 << 10)
            // Giving memory back costs an interrupt on every other core: seldom, and much at once.
            .decommit_batch_size(32);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
        config.memory_reservation(MAX_MEMORY as u64);
    }
    config
}
