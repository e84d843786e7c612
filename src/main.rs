//! The binary: parse, run, exit code.

use clap::Parser;
use tokio::runtime::{Builder, Runtime};
use usher::cli::{self, Cli};

// Every event is thousands of short-lived allocations; see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return cli::failed_to_start(&error),
    };
    let code = runtime.block_on(cli::dispatch(cli));
    // The runtime ends with the process. Shutting it down would wait for a read of standard input, and
    // tasks of drivers would panic over timers of a runtime that is shutting down.
    std::mem::forget(runtime);
    code
}

/// Half as many threads as cores, unless `TOKIO_WORKER_THREADS` is set. The services do as much work for
/// each event as usher does, and each further thread wakes the others (docs/performance.md). With one
/// thread, the runtime without a work-stealing scheduler is cheaper.
fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match (std::env::var_os("TOKIO_WORKER_THREADS"), cores.div_ceil(2)) {
        (None, 1) => Builder::new_current_thread(),
        (None, threads) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
        (Some(_), _) => Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}
