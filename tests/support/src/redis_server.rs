//! A separate Redis server for each test.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, FromRedisValue, aio::MultiplexedConnection};

/// `redis-server` process on a free loopback port, without persistence. Dropping it kills the process.
pub struct RedisServer {
    process: Child,
    port: u16,
    args: Vec<String>,
    dir: PathBuf,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these extra command-line arguments.
    pub async fn start_with(args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        for _ in 0..10 {
            let port = free_port();
            let dir = std::env::temp_dir().join(format!("osdatahub-auth-redis-{port}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let process = launch(port, &args, &dir);
            let mut server = Self {
                process,
                port,
                args: args.clone(),
                dir,
            };
            if server.is_ready().await {
                return server;
            }
        }
        panic!("redis-server failed to start on ten free ports");
    }

    /// Waits for the port to open. Returns `false` if the process exits first, as it does when another process has
    /// taken the port in the meantime.
    async fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await {
                drop(stream);
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server did not open its port within 20 s");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the server again after a [`kill`](Self::kill): on the same port, and empty.
    pub async fn restart(&mut self) {
        self.process = launch(self.port, &self.args, &self.dir);
        assert!(self.is_ready().await, "redis-server did not start again");
    }

    /// Suspends the process with SIGSTOP until [`resume`](Self::resume). Its connections stay open.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        send_signal(&self.process, signal);
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Runs a command, given as words with spaces between them.
    pub async fn command<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// The key that ends in `:{suffix}`, if there is one. Panics if there are several.
    pub async fn key(&self, suffix: &str) -> Option<String> {
        let keys: Vec<String> = self.command(&format!("KEYS *:{suffix}")).await;
        assert!(keys.len() <= 1, "{keys:?}");
        keys.into_iter().next()
    }

    /// The key of the token's entry. Waits for it, because the entry is written just after the fetch has returned.
    pub async fn entry_key(&self) -> String {
        crate::source::eventually("the entry exists", async || self.key("token").await).await
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Sends a signal, such as `-STOP`, to a process.
pub fn send_signal(process: &Child, signal: &str) {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

fn launch(port: u16, args: &[String], dir: &PathBuf) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .args(args)
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server should be on the PATH: scripts/setup installs it")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
