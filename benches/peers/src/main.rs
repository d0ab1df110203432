//! The command: both tables, as Markdown, on standard output.
//!
//! `--real-time` adds what takes twelve minutes: each contestant lives through 600 s, all of them at once.

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
            eprintln!("no such option: {other}; there is only --real-time");
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
        return Err("unoptimised, the times would mean nothing: `cargo run --release`".into());
    }
    report::introduction()?;

    let runtime = Runtime::new()?;
    let mut contestants = Contestant::all(&runtime);
    let times = price::times(&mut contestants);
    price::table(&contestants, &times, &allocations(contestants.len())?);
    drop(contestants);

    let lives = runtime.block_on(life::all(real_time));
    life::table(&lives, real_time);
    Ok(())
}

/// From a process of its own: what counts allocations makes each dearer, and would add to the times.
fn allocations(rows: usize) -> Result<Vec<f64>, Failure> {
    let cargo = std::env::var_os("CARGO")
        .ok_or("the allocations are counted by another program, for which cargo is needed: `cargo run --release`")?;
    let mut command = Command::new(cargo);
    command
        .args(["run", "--quiet", "--release", "--bin", "allocations"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // Build scripts look at what cargo tells a program that it runs, and half of the dependencies would be built anew.
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
        Err(format!("the counts of {} contestants for {rows}: {why}", counts.len()).into())
    }
}
