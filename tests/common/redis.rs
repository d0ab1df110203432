//! A Redis server of a test's own.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, FromRedisValue, aio::MultiplexedConnection};

/// A `redis-server` on a free port of loopback, without anything on disk. It ends when this is dropped.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
    settings: Vec<String>,
    folder: PathBuf,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these settings on its command line.
    pub(crate) async fn start_with(settings: &[&str]) -> Self {
        let settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
        for _ in 0..10 {
            let port = free_port();
            let folder = std::env::temp_dir().join(format!("osdatahub-auth-redis-{port}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let process = launch(port, &settings, &folder);
            let mut server = Self {
                process,
                port,
                settings: settings.clone(),
                folder,
            };
            if server.is_ready().await {
                return server;
            }
        }
        panic!("no redis-server would start on a free port");
    }

    /// False if it ended instead, as it does when somebody else has taken the port meanwhile.
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

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// After a [`kill`](Self::kill): on the same port, and empty.
    pub(crate) async fn restart(&mut self) {
        self.process = launch(self.port, &self.settings, &self.folder);
        assert!(self.is_ready().await, "redis-server did not start again");
    }

    /// Stands still, with all its connections open, until [`resume`](Self::resume).
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// A command, its words apart by spaces.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// The names of all keys with this ending, of which a test has one at most.
    pub(crate) async fn key(&self, ending: &str) -> Option<String> {
        let keys: Vec<String> = self.ask(&format!("KEYS *:{ending}")).await;
        assert!(keys.len() <= 1, "{keys:?}");
        keys.into_iter().next()
    }

    /// The one entry's key. It comes a moment after the token that is in it.
    pub(crate) async fn entry(&self) -> String {
        crate::common::eventually("the entry is there", async || self.key("token").await).await
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn launch(port: u16, settings: &[String], folder: &PathBuf) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .args(settings)
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server, which scripts/setup installs, has to be on the PATH")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
