//! The binary: parse, run, exit code.

use clap::Parser;
use usher::{cli::Cli, commands};

// Every event is thousands of short-lived allocations; see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return commands::failed_to_start(&error),
    };
    let code = runtime.block_on(commands::dispatch(cli));
    // A read of standard input can't be called back, and would else be waited for.
    runtime.shutdown_background();
    code
}
