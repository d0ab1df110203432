//! Command that prints both tables as Markdown on standard output.
//!
//! `--real-time` adds the measurements that take twelve minutes: 600 s of traffic for every contestant, all at once.

use std::process::{Command, ExitCode};

use peers::{
    life,
    peers::Failure,
    price::{self, Contestant},
    report,
};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let real_time = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--real-time") => true,
        Some(other) => {
            eprintln!("unknown option {other}; the only option is --real-time");
            return ExitCode::FAILURE;
        }
    };
    match run(real_time) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(real_time: bool) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        return Err("an unoptimised build has no meaningful times; use `cargo run --release`".into());
    }
    report::print_heading()?;

    let runtime = Runtime::new()?;
    let mut contestants = Contestant::all(&runtime);
    let prices = price::measure_all(&mut contestants);
    price::table(&contestants, &prices, &allocations(contestants.len())?);
    drop(contestants);

    let rows = runtime.block_on(life::all(real_time));
    life::table(&rows, real_time);
    Ok(())
}

/// Allocations per call, counted in a separate process.
///
/// Counting makes every allocation slower, which would distort the times measured here.
fn allocations(rows: usize) -> Result<Vec<f64>, Failure> {
    let cargo = std::env::var_os("CARGO")
        .ok_or("the program that counts allocations is started with cargo; use `cargo run --release`")?;
    let mut command = Command::new(cargo);
    command
        .args(["run", "--quiet", "--release", "--bin", "allocations"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo sets these variables for programs that it runs. Some build scripts depend on them, so half of the
    // dependencies would be rebuilt.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    let output = command.output()?;
    let counts: Vec<f64> = String::from_utf8(output.stdout)?
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    if counts.len() == rows {
        Ok(counts)
    } else {
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("allocations of {} contestants, expected {rows}: {why}", counts.len()).into())
    }
}
