//! The binary: parse, run, exit code.

use clap::Parser;
use tokio::runtime::Runtime;
use usher::{cli::Cli, commands};

// Every event is thousands of short-lived allocations; see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return commands::failed_to_start(&error),
    };
    let code = runtime.block_on(commands::dispatch(cli));
    // It ends with the process. A read of standard input would else be waited for, and tasks of drivers
    // would panic, aloud, over timers of a runtime that is shutting down.
    std::mem::forget(runtime);
    code
}
