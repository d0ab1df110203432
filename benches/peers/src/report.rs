//! Heading of the report: date, machine, and the versions under test.

use std::{fs, thread, time::SystemTime};

use crate::peers::{Failure, Peer};

const LOCK: &str = include_str!("../Cargo.lock");

/// Name of a contestant, with the version from the lock file if it is a crate.
#[must_use]
pub fn name<P: Peer>() -> String {
    version(P::NAME).map_or_else(|| P::NAME.to_owned(), |version| format!("`{}` {version}", P::NAME))
}

fn version(name: &str) -> Option<&'static str> {
    let (_, package) = LOCK.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    package.split('"').next()
}

/// Prints the heading: date, number of cores and processor.
///
/// # Errors
/// If the number of cores is not available.
pub fn print_heading() -> Result<(), Failure> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let cores = thread::available_parallelism()?;
    println!("# Results\n\n{date}; {cores} cores, {}.\n", processor());
    Ok(())
}

fn processor() -> String {
    let model = |info: String| {
        let line = info.lines().find(|line| line.starts_with("model name"))?.to_owned();
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(model)
        .unwrap_or_else(|| "an unknown processor".to_owned())
}
