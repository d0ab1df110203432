//! Fake Data Hub as a program, for web pages, other languages and docker-compose.
//!
//! It is the library's `FakeDataHub` on a fixed port. `--help` lists the options, and README.md has examples.

mod command;

use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use command::Command;
use osdatahub_auth::{FakeDataHub, ProjectCredentials};
use tokio::sync::mpsc::{self, UnboundedReceiver};

/// A fake OS Data Hub: a token endpoint, and APIs that require its tokens.
///
/// It prints its key, its secret and its URLs, and then a line for each request:
/// method, path and status. It never prints a query, a header or a body, because
/// they may contain a token, an API key or an address.
#[derive(Parser)]
#[command(version, verbatim_doc_comment, after_help = after_help())]
struct Options {
    /// Port to listen on; 0 chooses a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Address to listen on; 0.0.0.0 is every address, for a container.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Lifetime of the tokens in seconds, up to a day.
    #[arg(long, default_value_t = 299, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    life: u64,
    /// Project API Key, random by default. Never a real one: it is printed.
    #[arg(long, env = "FAKE_DATA_HUB_KEY", hide_env_values = true, default_value_t = alphanumerics(32), hide_default_value = true)]
    key: String,
    /// Project API Secret, random by default. Never a real one: it is printed.
    #[arg(long, env = "FAKE_DATA_HUB_SECRET", hide_env_values = true, default_value_t = alphanumerics(16), hide_default_value = true)]
    secret: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}.");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), String> {
    let end = end_signal().map_err(|error| format!("Signals cannot be watched: {error}"))?;
    let mut end = std::pin::pin!(end);
    let hub = start(options).await?;
    hub.set_lifetime(Duration::from_secs(options.life));
    log_requests(&hub);
    introduce(&hub, options);

    let mut lines = input_lines();
    loop {
        // At the end of the input, as in a container without a terminal, only the signals remain.
        tokio::select! {
            Some(line) = lines.recv() => match line.parse() {
                Ok(Command::Quit) => return Ok(()),
                Ok(command) => say(&command.run(&hub)),
                Err(problem) => say(&problem),
            },
            () = &mut end => return Ok(()),
        }
    }
}

async fn start(options: &Options) -> Result<FakeDataHub, String> {
    let Options {
        address,
        port,
        key,
        secret,
        ..
    } = options;
    ProjectCredentials::new(key, secret).map_err(|error| format!("The key or the secret cannot be used: {error}"))?;
    let hub = FakeDataHub::start_on((*address, *port)).await;
    let hub = hub.map_err(|error| format!("Port {port} of {address} cannot be opened: {error}"))?;
    hub.set_credentials(key, secret);
    Ok(hub)
}

fn log_requests(hub: &FakeDataHub) {
    let started = Instant::now();
    hub.on_response(move |request, status| {
        let seconds = started.elapsed().as_secs_f64();
        // Escaped, because a client chooses the path, and a terminal obeys some characters.
        let path = request.path.escape_debug();
        say(&format!(
            "{seconds:8.1} s  {:7} {path}  {}",
            request.method.as_str(),
            status.as_u16()
        ));
    });
}

fn introduce(hub: &FakeDataHub, Options { life, key, secret, .. }: &Options) {
    say(&format!(
        "A fake OS Data Hub. Its tokens have a lifetime of {life} s.\n\n\
         OS_PROJECT_API_KEY={key}\n\
         OS_PROJECT_API_SECRET={secret}\n\n\
         Token endpoint:  {}\n\
         An API:          {}\n\
         The others have their usual paths.\n\n\
         Type a command, such as `help`. Each request is logged below.",
        hub.token_url(),
        hub.url("/search/names/v1/find?query=Bath"),
    ));
}

/// Prints to standard output. Unlike with `println!`, a reader that has gone away does no harm.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Lines of standard input, without empty ones. A thread reads them, because tokio's own would keep the program from
/// ending until the next line.
fn input_lines() -> UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if !line.is_empty() && sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Ends at Ctrl-C, or at the SIGTERM of `docker stop`. Both are watched from the call on.
#[cfg(unix)]
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(windows)]
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    let mut ctrl_c = tokio::signal::windows::ctrl_c()?;
    Ok(async move { drop(ctrl_c.recv().await) })
}

fn alphanumerics(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(length).collect()
}

fn after_help() -> String {
    format!("Commands, one a line on standard input:\n{}", command::HELP)
}
