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

/// A machine that is busy with other tests may be this slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with a fresh profile, whose every request goes through a proxy. Dropping it leaves nothing behind.
pub(crate) struct Browser {
    page: Client,
    _driver: Driver,
}

impl Browser {
    pub(crate) async fn start(proxy: SocketAddr) -> Self {
        let driver = Driver::start();
        let profile = driver.profile.display();
        let options = json!({
            "binary": installed("chromium"),
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--window-size=1000,783", "--hide-scrollbars",
                format!("--user-data-dir={profile}"),
                format!("--proxy-server=http://{proxy}"),
                // Chromium would go round a proxy for loopback.
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

    /// Runs a script that calls its last argument with what it comes to.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        self.page.execute_async(script, vec![]).await.unwrap()
    }

    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        self.page.screenshot().await.unwrap()
    }

    /// What the browser has to say about the page since it was last asked: failed requests, what the page's policy
    /// forbade, uncaught errors.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.page.issue_cmd(BrowserLog).await.unwrap();
        let entries = log.as_array().unwrap().iter();
        entries
            .filter(|entry| entry["level"] == "SEVERE")
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Takes the network away from the page, or gives it back.
    pub(crate) async fn set_offline(&self, offline: bool) {
        self.page.issue_cmd(Network { offline }).await.unwrap();
    }

    /// Waits until something comes to pass, and fails with its name if it doesn't.
    pub(crate) async fn wait_until(&self, what: &str, mut come_to_pass: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !come_to_pass().await {
            if start.elapsed() > PATIENCE {
                let complaints = self.complaints().await;
                panic!("not within {PATIENCE:?}: {what}; the browser says {complaints:#?}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Chromedriver's own command for the browser's log.
#[derive(Debug)]
struct BrowserLog;

impl fantoccini::wd::WebDriverCompatibleCommand for BrowserLog {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

/// Chromedriver's own command for the network that the page sees.
#[derive(Debug)]
struct Network {
    offline: bool,
}

impl fantoccini::wd::WebDriverCompatibleCommand for Network {
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
        // It takes a free port of IPv4, and gives up if somebody has the same one of IPv6.
        let (process, port) = (0..5).find_map(|_| launch()).expect("chromedriver opens a port");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            process,
            address,
            profile,
        }
    }

    /// Makes chromedriver end its browser and itself.
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
        // Also after a panic: a browser that outlives its test would slow down all that follow.
        if self.shut_down().is_err() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Chromedriver and its port, unless it ends without one.
fn launch() -> Option<(Child, u16)> {
    let mut process = Command::new(installed("chromedriver"))
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
    // It must not wait for somebody to read what else it says.
    thread::spawn(move || lines.for_each(drop));
    Some((process, port))
}

/// Where a program is.
fn installed(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("this test needs a browser, and `{program}` is not installed: scripts/setup installs Debian's chromium and chromium-driver")
    })
}
