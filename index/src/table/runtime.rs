//! The private async runtime, and the object store that makes Lance's manifests durable.

use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;

use lance::io::{ObjectStoreParams, WrappingObjectStore};
use object_store::ObjectStore;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};

/// Lance's futures nest deeply, and unoptimised builds of it have large frames.
const STACK_BYTES: usize = 16 << 20;

/// Runs a future to its end.
///
/// It runs on a thread of its own, so that callers may themselves be inside an async runtime, so that the depth of Lance's
/// futures does not depend on the caller's stack, and so that a panic inside Lance becomes an error.
pub(super) fn wait<F>(future: F) -> Result<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = runtime()?;
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("ragtune-index".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || runtime.block_on(future))
            .map_err(Error::storage("starting a thread"))?;
        thread.join().map_err(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            let source = format!("the storage library panicked: {said}").into();
            Error::Storage { doing: "an operation on the dataset".into(), source }
        })
    })
}

/// How Lance is to reach the disk: through [`Synced`].
pub(super) fn store() -> ObjectStoreParams {
    // One object for the whole process: Lance shares stores by the identity of their wrapper.
    static WRAPPER: LazyLock<Arc<dyn WrappingObjectStore>> = LazyLock::new(|| Arc::new(Synced));
    ObjectStoreParams { object_store_wrapper: Some(WRAPPER.clone()), ..Default::default() }
}

fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let built = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("ragtune-index-io")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
    });
    built.as_ref().map_err(|error| Error::Storage {
        doing: "starting the storage runtime".into(),
        source: error.to_string().into(),
    })
}

/// Replaces Lance's local store by one that syncs every file and its directory before it reports success. Lance itself syncs
/// nothing, so that a power cut could leave an empty newest manifest. Manifests and tags take this way; data files do not,
/// and are synced by `replace` and `create` before anything refers to them.
#[derive(Debug)]
struct Synced;

impl WrappingObjectStore for Synced {
    fn wrap(&self, _prefix: &str, _original: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(LocalFileSystem::new().with_fsync(true))
    }

    fn wrap_paginated(
        &self,
        _prefix: &str,
        original: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        Some(original)
    }
}
