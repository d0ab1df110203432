//! Processes that are stopped in mid-refresh, as a container or a debugger does it. Each process is this test binary.

use std::env;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use osdatahub_auth::{FakeDataHub, ProjectCredentials, TokenEndpoint, TokenManager};
use test_support::{millis, secs, send_signal};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::sleep;

const CALLERS: usize = 50;

/// Asks for tokens with fifty callers until its standard input closes, then prints a report.
#[test]
#[ignore = "the other tests start it as a separate process"]
fn service() {
    let variable = |name: &str| env::var(name).expect("the other tests should set this variable");
    let credentials = ProjectCredentials::new("CanaryKey", "CanarySecret").unwrap();
    let url = variable("PAUSE_TOKEN_URL").parse().unwrap();
    let endpoint = TokenEndpoint::builder(credentials).token_url(url).build().unwrap();
    let tokens = TokenManager::builder(endpoint).build().unwrap();
    let mut runtime = match variable("PAUSE_RUNTIME").as_str() {
        "current_thread" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build().unwrap();

    let stopped = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stopped = stopped.clone();
        move || {
            let _ = std::io::stdin().read(&mut [0]);
            stopped.store(true, Ordering::Relaxed);
        }
    });
    let served = Arc::new(AtomicUsize::new(0));
    let first_error = runtime.block_on(async {
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (tokens, stopped, served) = (tokens.clone(), stopped.clone(), served.clone());
            callers.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    if let Err(error) = tokens.token().await {
                        return Some(format!("{error:#}"));
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                    sleep(millis(200)).await;
                }
                None
            });
        }
        callers.join_all().await.into_iter().flatten().next()
    });
    println!("\nPAUSE {} {first_error:?}", served.load(Ordering::Relaxed));
}

struct Process(Child);

impl Process {
    fn start(hub: &FakeDataHub, runtime: &str) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["pauses::service", "--exact", "--ignored", "--nocapture"])
            .env("PAUSE_TOKEN_URL", hub.token_url().as_str())
            .env("PAUSE_RUNTIME", runtime)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Ends the process, and returns its report: the number of tokens that callers got, and the first error.
    fn stop(mut self) -> String {
        drop(self.0.stdin.take());
        let mut output = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        let report = output.lines().find_map(|line| line.strip_prefix("PAUSE "));
        report.expect("the process should print a report").to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn wait_for_posts(hub: &FakeDataHub, posts: usize) {
    while hub.token_posts() < posts {
        sleep(millis(5)).await;
    }
}

/// Stops a process while it renews a token that is still usable, and returns its report.
async fn report_of_a_service_that_is_stopped(pause: Duration, lifetime: Duration, runtime: &'static str) -> String {
    let hub = FakeDataHub::start().await.unwrap();
    hub.set_credentials("CanaryKey", "CanarySecret");
    hub.set_lifetime(lifetime);
    let process = Process::start(&hub, runtime);
    wait_for_posts(&hub, 1).await;
    sleep(millis(500)).await;
    // Time for the signal, while the renewal is under way.
    hub.set_delay(secs(1));
    let renewed = Instant::now();
    wait_for_posts(&hub, 2).await;
    send_signal(&process.0, "-STOP");
    assert!(
        renewed.elapsed() < lifetime,
        "the token should be usable when the process is stopped"
    );
    sleep(pause).await;
    hub.set_delay(Duration::ZERO);
    send_signal(&process.0, "-CONT");
    sleep(secs(3)).await;
    process.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_in_mid_refresh_fails_no_caller_when_it_wakes() {
    let mut services = JoinSet::new();
    for pause in [secs(1), millis(5_500), secs(15)] {
        for lifetime in [secs(4), secs(10)] {
            for runtime in ["current_thread", "multi_thread"] {
                services.spawn(async move {
                    let report = report_of_a_service_that_is_stopped(pause, lifetime, runtime).await;
                    let (served, error) = report.split_once(' ').unwrap();
                    let what = format!("stopped for {pause:?}, lifetime {lifetime:?}, {runtime}: {report}");
                    assert_eq!(error, "None", "{what}");
                    // Every caller, in each of the seconds before the stop and after it.
                    assert!(served.parse::<usize>().unwrap() > 3 * CALLERS, "{what}");
                });
            }
        }
    }
    services.join_all().await;
}
