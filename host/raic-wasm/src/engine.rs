//! The engine: compiled components, limits on what they may use, and the clock that interrupts
//! guests.

use std::{hash::Hash as _, hash::Hasher as _, path::Path, sync::Arc, thread, time::Duration};

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
    compilation::{self, CompilerProcess},
};

/// Length of an epoch: how often the CPU time of a running guest is checked.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Most linear memory that a guest may have, in bytes.
const MAX_MEMORY: usize = (MEMORY_MIB as usize) << 20;
/// Most linear memory, in MiB, of a guest whose instances come from the pool of small ones. Most
/// connectors in Rust need no more.
const SMALL_MIB: u32 = 8;
const STACK: usize = 512 << 10;
const ASYNC_STACK: usize = 2 << 20;
/// Most core instances of one component. componentize-py makes one for each of its 38 libraries.
const MAX_CORE_INSTANCES: u32 = 64;
/// Most linear memories of one component. The pool has room for as many in each call, so that no
/// cloud can use up another's.
const MAX_MEMORIES: u32 = 4;
/// Most calls that run at once, of all clouds together; further calls wait. Each pool has a slot
/// for each.
const MAX_CALLS: u32 = 256;

/// Compiles connectors and runs them. An engine is cheap to clone; the daemon has one.
#[derive(Clone)]
pub struct Engine {
    small: Pool,
    large: Pool,
    calls: Arc<Semaphore>,
    compiler: Option<CompilerProcess>,
}

/// The source of instances of one size. The memory that an instance used is given back to the
/// system in batches, since each time costs an interrupt on every other core. A batch counts
/// instances, not bytes. So instances that may be large have a pool of their own, in which each is
/// given back at once.
#[derive(Clone)]
struct Pool {
    engine: wasmtime::Engine,
    linker: Arc<Linker<Call>>,
}

impl Pool {
    fn new(memory: usize, batch: usize) -> Result<Self, ConnectorError> {
        let failed = |e: wasmtime::Error| ConnectorError::Compile(format!("{e:#}"));
        let engine = wasmtime::Engine::new(&config(Some((memory, batch))))
            .or_else(|e| {
                tracing::info!("connectors run without an instance pool: {e:#}");
                wasmtime::Engine::new(&config(None))
            })
            .map_err(failed)?;
        let mut linker = Linker::new(&engine);
        ConnectorFull::add_to_linker::<_, Imports>(&mut linker, |call| call).map_err(failed)?;
        Ok(Self {
            engine,
            linker: Arc::new(linker),
        })
    }
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
    /// One permit for each call that may run at once; shared by all connectors of the engine.
    pub(crate) calls: Arc<Semaphore>,
    /// One permit for each MiB of memory that all calls of this connector may have together. Clones
    /// share it; the daemon loads a connector for each cloud.
    pub(crate) memory: Arc<Semaphore>,
    sha256: String,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("name", &self.manifest.name)
            .field("sha256", &self.sha256)
            .finish()
    }
}

impl Connector {
    /// The connector's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the component, in lower-case hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// Indices of a component's exports: the one that every connector has, and the optional ones.
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
            container: has("container")
                .then(|| container::GuestIndices::new(pre))
                .transpose()?,
            account: has("account")
                .then(|| account::GuestIndices::new(pre))
                .transpose()?,
            batch_delete: has("batch-delete")
                .then(|| batch_delete::GuestIndices::new(pre))
                .transpose()?,
        })
    }
}

/// The permits of one call: for its memory, and for one of the engine's calls.
pub(crate) struct Room {
    _memory: Option<OwnedSemaphorePermit>,
    _call: Option<OwnedSemaphorePermit>,
}

/// An instance's exports, ready to be called.
pub(crate) struct Instance {
    pub(crate) object_store: object_store::Guest,
    pub(crate) container: Option<container::Guest>,
    pub(crate) account: Option<account::Guest>,
    pub(crate) batch_delete: Option<batch_delete::Guest>,
}

impl Connector {
    /// Whether the connector can delete several objects by one request.
    pub(crate) fn has_batch_delete(&self) -> bool {
        self.exports.batch_delete.is_some()
    }

    /// Waits for the permits that a call needs. If the future is dropped, they are given back.
    pub(crate) async fn room(&self) -> Room {
        let memory = self
            .memory
            .clone()
            .acquire_many_owned(self.manifest.memory_mib)
            .await;
        let call = self.calls.clone().acquire_owned().await;
        // Neither semaphore is ever closed, so both permits are there.
        Room {
            _memory: memory.ok(),
            _call: call.ok(),
        }
    }

    /// Makes a fresh instance in `store`.
    pub(crate) async fn instantiate(&self, store: &mut Store<Call>) -> wasmtime::Result<Instance> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let Exports {
            object_store,
            container,
            account,
            batch_delete,
        } = &*self.exports;
        Ok(Instance {
            object_store: object_store.load(&mut *store, &instance)?,
            container: container
                .as_ref()
                .map(|found| found.load(&mut *store, &instance))
                .transpose()?,
            account: account
                .as_ref()
                .map(|found| found.load(&mut *store, &instance))
                .transpose()?,
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
    /// Starts an engine and its clock, a thread that ends with the engine and its connectors.
    /// Instances come from a pool if the address space has room for one, else each comes from the
    /// system.
    ///
    /// # Errors
    /// [`ConnectorError::Compile`] if this machine cannot run WebAssembly, or cannot start a
    /// thread.
    pub fn new() -> Result<Self, ConnectorError> {
        let small = Pool::new((SMALL_MIB as usize) << 20, 8)?;
        let large = Pool::new(MAX_MEMORY, 1)?;
        let clocks = [small.engine.weak(), large.engine.weak()];
        thread::Builder::new()
            .name("connector-clock".to_owned())
            .spawn(move || {
                // A connector keeps the engine of its own pool alive, and not the other.
                loop {
                    let engines = clocks.each_ref().map(wasmtime::EngineWeak::upgrade);
                    engines
                        .iter()
                        .flatten()
                        .for_each(wasmtime::Engine::increment_epoch);
                    if engines.iter().all(Option::is_none) {
                        break;
                    }
                    drop(engines);
                    thread::sleep(TICK);
                }
            })
            .map_err(|e| ConnectorError::Compile(format!("no thread for the clock: {e}")))?;
        Ok(Self {
            small,
            large,
            calls: Arc::new(Semaphore::new(MAX_CALLS as usize)),
            compiler: None,
        })
    }

    /// Returns the engine with compiling left to a process with limits. Without such a process, a
    /// connector that is loaded is trusted not to take minutes and gigabytes.
    #[must_use]
    pub fn compiling_by(self, compiler: CompilerProcess) -> Self {
        Self {
            compiler: Some(compiler),
            ..self
        }
    }

    #[cfg(test)]
    pub(crate) fn engines(&self) -> [&wasmtime::Engine; 2] {
        [&self.small.engine, &self.large.engine]
    }

    fn pool(&self, package: &Package) -> &Pool {
        if package.manifest.memory_mib <= SMALL_MIB {
            &self.small
        } else {
            &self.large
        }
    }

    /// Whether [`load`](Self::load) would have to compile a connector. It must, for instance, if
    /// another version of this host compiled it last.
    pub fn must_compile(&self, package: &Package, cache: &Path) -> bool {
        !compilation::is_kept(&self.pool(package).engine, package, cache)
    }

    /// Compiles a connector, or loads its native code from `cache`, a folder that only this host
    /// writes. Compiling blocks for 0.1 to 0.3 s for a guest in Rust, and for seconds for a guest
    /// that carries an interpreter.
    ///
    /// # Errors
    /// [`ConnectorError::Compile`] if the component does not compile or does not fit the contract's
    /// types; [`ConnectorError::Io`] if `cache` cannot be read or written.
    pub fn load(
        &self,
        package: &Package,
        cache: Option<&Path>,
    ) -> Result<Connector, ConnectorError> {
        let failed = |e: wasmtime::Error| ConnectorError::Compile(format!("{e:#}"));
        let pool = self.pool(package);
        let component = match cache {
            None => Component::new(&pool.engine, &package.bytes).map_err(failed)?,
            Some(folder) => {
                compilation::cached(&pool.engine, self.compiler.as_ref(), package, folder)?
            }
        };
        let pre = pool.linker.instantiate_pre(&component).map_err(failed)?;
        let exports = Exports::find(&pre).map_err(failed)?;
        Ok(Connector {
            engine: pool.engine.clone(),
            pre,
            exports: Arc::new(exports),
            manifest: Arc::new(package.manifest.clone()),
            calls: self.calls.clone(),
            memory: Arc::new(Semaphore::new(MEMORY_MIB as usize)),
            sha256: package.sha256.clone(),
        })
    }
}

/// Returns a hash of all that must be equal in an engine that compiles and in one that runs.
pub(crate) fn compatibility(engine: &wasmtime::Engine) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// Makes an engine without a pool, so that the address space is left to the compiler.
pub(crate) fn for_compiling() -> Result<wasmtime::Engine, ConnectorError> {
    wasmtime::Engine::new(&config(None)).map_err(|e| ConnectorError::Compile(format!("{e:#}")))
}

/// Returns the settings of an engine. `pool` is the most memory of an instance, in bytes, and the
/// number of instances that are given back in one batch; `None` for an engine without a pool. What
/// one engine compiles runs on all.
fn config(pool: Option<(usize, usize)>) -> Config {
    let mut config = Config::new();
    config
        .memory_reservation(MAX_MEMORY as u64)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .async_stack_size(ASYNC_STACK)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false);
    if let Some((memory, batch)) = pool {
        let mut pooling = PoolingAllocationConfig::new();
        pooling
            .total_component_instances(MAX_CALLS)
            .total_core_instances(MAX_CALLS * MAX_CORE_INSTANCES)
            .total_memories(MAX_CALLS * MAX_MEMORIES)
            .total_tables(MAX_CALLS * 16)
            .total_stacks(MAX_CALLS)
            .max_core_instances_per_component(MAX_CORE_INSTANCES)
            .max_memories_per_component(MAX_MEMORIES)
            .max_tables_per_component(16)
            .table_elements(100_000)
            .max_component_instance_size(10 << 20)
            .max_memory_size(memory)
            .linear_memory_keep_resident(512 << 10)
            // If the kernel reports which pages were written, only those are reset.
            .pagemap_scan(Enabled::Auto)
            .async_stack_keep_resident(64 << 10)
            .table_keep_resident(64 << 10)
            .decommit_batch_size(batch);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    }
    config
}
