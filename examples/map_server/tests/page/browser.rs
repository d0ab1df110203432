//! A real browser: headless Chromium, driven through chromedriver.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, wd::Capabilities};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Generous, because other tests may keep the machine busy.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Browser with a fresh profile that sends every request through a proxy. Dropping it ends its processes and deletes
/// the profile.
pub(crate) struct Browser {
    page: Client,
    _driver: Driver,
}

impl Browser {
    pub(crate) async fn start(proxy: SocketAddr) -> Self {
        let driver = Driver::start();
        let profile = driver.profile.display();
        // A small window, because drawing without a graphics card takes most of these tests' time.
        let options = json!({
            "binary": find_program("chromium"),
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--window-size=640,500", "--hide-scrollbars",
                format!("--user-data-dir={profile}"),
                format!("--proxy-server=http://{proxy}"),
                // By default Chromium bypasses the proxy for loopback.
                "--proxy-bypass-list=<-loopback>",
            ],
        });
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), options);
        capabilities.insert("goog:loggingPrefs".into(), json!({"browser": "ALL"}));
        let page = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://{}", driver.address))
            .await
            .unwrap_or_else(|error| panic!("chromedriver cannot start Chromium: {error}"));
        Self { page, _driver: driver }
    }

    pub(crate) async fn open(&self, url: &str) {
        self.page.goto(url).await.unwrap();
    }

    pub(crate) async fn run(&self, script: &str) -> Value {
        self.page.execute(script, vec![]).await.unwrap()
    }

    /// Runs a script that passes its result to its last argument, a callback.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        self.page.execute_async(script, vec![]).await.unwrap()
    }

    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        self.page.screenshot().await.unwrap()
    }

    /// Errors in the browser's log since the last call: failed requests, violations of the page's Content Security
    /// Policy, uncaught exceptions.
    pub(crate) async fn errors(&self) -> Vec<String> {
        let log = self.page.issue_cmd(ReadLog).await.unwrap();
        let entries = log.as_array().unwrap().iter();
        entries
            .filter(|entry| entry["level"] == "SEVERE")
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Disconnects the page from the network, or reconnects it.
    pub(crate) async fn set_offline(&self, offline: bool) {
        self.page.issue_cmd(SetNetwork { offline }).await.unwrap();
    }

    /// Polls until the condition holds. Panics with its name after a minute.
    pub(crate) async fn wait_until(&self, name: &str, mut condition: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !condition().await {
            if start.elapsed() > TIMEOUT {
                let errors = self.errors().await;
                panic!("timed out after {TIMEOUT:?} waiting for: {name}; errors in the browser's log: {errors:#?}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Chromedriver's command to read the browser's log.
#[derive(Debug)]
struct ReadLog;

impl fantoccini::wd::WebDriverCompatibleCommand for ReadLog {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

/// Chromedriver's command to set the page's network conditions.
#[derive(Debug)]
struct SetNetwork {
    offline: bool,
}

impl fantoccini::wd::WebDriverCompatibleCommand for SetNetwork {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/chromium/network_conditions",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let conditions = json!({"offline": self.offline, "latency": 0, "throughput": 1_000_000_000});
        let body = json!({"network_conditions": conditions});
        (http::Method::POST, Some(body.to_string()))
    }
}

struct Driver {
    process: Child,
    address: SocketAddr,
    profile: PathBuf,
}

impl Driver {
    fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("browser-{}-{number}", process::id()));
        // Chromedriver picks a free IPv4 port, and exits if the IPv6 port with the same number is taken.
        let (process, port) = (0..5)
            .find_map(|_| launch())
            .expect("chromedriver should open a port within five attempts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            process,
            address,
            profile,
        }
    }

    /// Makes chromedriver close its browser and exit.
    fn shut_down(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET /shutdown HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        )?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // This also runs after a panic: a leftover browser would slow down all later tests.
        if self.shut_down().is_err() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Starts chromedriver. Returns its process and port, or `None` if it exits without opening a port.
fn launch() -> Option<(Child, u16)> {
    let mut process = Command::new(find_program("chromedriver"))
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("chromedriver does not start: {error}"));
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.rsplit_once("successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    let Some(port) = port else {
        let _ = process.wait();
        return None;
    };
    // Drain the rest of its output: chromedriver would block on a full pipe.
    thread::spawn(move || lines.for_each(drop));
    Some((process, port))
}

/// The path of an installed program.
fn find_program(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path_of_program = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|program| program.is_file());
    path_of_program
        .unwrap_or_else(|| panic!("`{program}` is not installed: scripts/setup installs chromium and chromium-driver"))
}
