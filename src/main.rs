//! The binary: parse, run, exit code.

use clap::Parser;
use tokio::runtime::{Builder, Runtime};
use usher::cli::{self, args::Cli};

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
    // It ends with the process. A read of standard input would else be waited for, and tasks of drivers
    // would panic, aloud, over timers of a runtime that is shutting down.
    std::mem::forget(runtime);
    code
}

/// Half as many threads as cores, unless `TOKIO_WORKER_THREADS` says how many: the services do as much
/// for each event as usher, and every thread more wakes the others. A single one needs no scheduler for
/// several; docs/performance.md.
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
