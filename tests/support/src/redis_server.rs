//! A separate Redis server, or Redis Cluster, for each test.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, FromRedisValue, TlsCertificates, aio::MultiplexedConnection,
};

use crate::{source::eventually, tls::Authority};

/// Program of a server. `scripts/setup` installs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `redis-server` on the path, or what the environment variable `REDIS_SERVER` names.
    Redis,
    Redis6,
    Valkey,
}

impl Program {
    /// The programs on this machine. `scripts/test` says which are missing.
    pub fn all() -> impl Iterator<Item = Self> {
        let all = [Self::Redis, Self::Redis6, Self::Valkey];
        all.into_iter().filter(|program| program.is_installed())
    }

    /// Whether the program is on this machine. Says so on standard error if it is not.
    pub fn is_installed(self) -> bool {
        let installed = self == Self::Redis || self.path().exists();
        if !installed {
            eprintln!("SKIPPED: {self:?} is not installed; scripts/setup gets it from Python's registry");
        }
        installed
    }

    fn path(self) -> PathBuf {
        let servers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/servers");
        match self {
            Self::Redis => std::env::var_os("REDIS_SERVER").unwrap_or("redis-server".into()).into(),
            Self::Redis6 => servers.join("redis-server-6.2"),
            Self::Valkey => servers.join("valkey-server"),
        }
    }
}

/// Server process on a free loopback port, without persistence. Dropping it kills the process.
pub struct RedisServer {
    process: Child,
    port: u16,
    launch: Launch,
}

/// How to start the process, and where.
struct Launch {
    program: Program,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    tls: Option<Tls>,
    dir: PathBuf,
}

/// Certificates of a server that speaks TLS only, and wants a certificate of its clients too.
#[derive(Clone)]
struct Tls {
    root: String,
    certificate: String,
    key: String,
}

impl Tls {
    fn new() -> Self {
        let authority = Authority::new("Redis test authority");
        let (certificate, key) = authority.issue_pem("localhost");
        Self {
            root: authority.root_pem(),
            certificate,
            key,
        }
    }

    /// Certificates of a client. The client's certificate is the server's as well.
    fn of_client(&self) -> TlsCertificates {
        TlsCertificates {
            client_tls: Some(ClientTlsConfig {
                client_cert: self.certificate.clone().into(),
                client_key: self.key.clone().into(),
            }),
            root_cert: Some(self.root.clone().into()),
        }
    }
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these extra command-line arguments.
    pub async fn start_with(args: &[&str]) -> Self {
        Self::launch(Program::Redis, args, &[], None).await
    }

    pub async fn start_program(program: Program) -> Self {
        Self::launch(program, &[], &[], None).await
    }

    /// Starts a server that speaks TLS only, with a certificate for `localhost`, and wants a client certificate.
    pub async fn start_with_tls(args: &[&str]) -> Self {
        Self::launch(Program::Redis, args, &[], Some(Tls::new())).await
    }

    /// Starts Valkey with a wall clock that is this much slow. Debian's Redis does not start under libfaketime, because
    /// of its memory allocator.
    pub async fn start_with_slow_clock(slow_by: Duration, args: &[&str]) -> Self {
        let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketime.so.1"))
            .into_iter()
            .find(|path| Path::new(path).exists());
        let preload = library.expect("libfaketime should be installed: scripts/setup installs it");
        let offset = format!("-{}s", slow_by.as_secs());
        // The monotonic clock stays right, or the server's own timers would not.
        let environment = [
            ("LD_PRELOAD", &preload[..]),
            ("FAKETIME", &offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        Self::launch(Program::Valkey, args, &environment, None).await
    }

    async fn launch(program: Program, args: &[&str], environment: &[(&str, &str)], tls: Option<Tls>) -> Self {
        for _ in 0..10 {
            let port = free_port();
            let dir = std::env::temp_dir().join(format!("osdatahub-auth-redis-{port}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let launch = Launch {
                program,
                args: args.iter().map(|&arg| arg.to_owned()).collect(),
                environment: environment
                    .iter()
                    .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                tls: tls.clone(),
                dir,
            };
            let process = launch.start(port);
            let mut server = Self { process, port, launch };
            if server.is_ready().await {
                return server;
            }
        }
        panic!("{program:?} failed to start on ten free ports");
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
        panic!("the server did not open its port within 20 s");
    }

    pub fn url(&self) -> String {
        match self.launch.tls {
            Some(_) => format!("rediss://localhost:{}", self.port),
            None => format!("redis://127.0.0.1:{}/0", self.port),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Client for this URL, with the certificates that the server asks for.
    pub fn client_for(&self, url: &str) -> Client {
        match &self.launch.tls {
            Some(tls) => Client::build_with_tls(url, tls.of_client()).unwrap(),
            None => Client::open(url).unwrap(),
        }
    }

    /// The path of the server's Unix socket, if it was started with `--unixsocket redis.sock`.
    pub fn socket(&self) -> PathBuf {
        self.launch.dir.join("redis.sock")
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the server again after a [`kill`](Self::kill): on the same port, and empty.
    pub async fn restart(&mut self) {
        self.process = self.launch.start(self.port);
        assert!(self.is_ready().await, "the server did not start again");
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
        let client = self.client_for(&self.url());
        // The default limits are too short for a busy machine.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(20)))
            .set_response_timeout(Some(Duration::from_secs(20)));
        client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap()
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
        eventually("the entry exists", async || self.key("token").await).await
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.launch.dir);
    }
}

impl Launch {
    fn start(&self, port: u16) -> Child {
        let mut command = Command::new(self.program.path());
        let (clear_port, tls_port) = if self.tls.is_some() { (0, port) } else { (port, 0) };
        command.args(["--port", &clear_port.to_string(), "--bind", "127.0.0.1"]);
        if let Some(tls) = &self.tls {
            for (name, content) in [
                ("root.pem", &tls.root),
                ("cert.pem", &tls.certificate),
                ("key.pem", &tls.key),
            ] {
                std::fs::write(self.dir.join(name), content).unwrap();
            }
            command.args(["--tls-port", &tls_port.to_string(), "--tls-ca-cert-file", "root.pem"]);
            command.args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]);
            command.args(["--tls-cluster", "yes", "--tls-replication", "yes"]);
        }
        command
            .args(["--save", "", "--appendonly", "no"])
            .args(&self.args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("the server should be installed: scripts/setup installs it")
    }
}

/// Redis Cluster of three primaries, each with a third of the slots.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        Self::launch(None).await
    }

    /// Starts a cluster that speaks TLS only. Its nodes name each other `localhost`, as their certificates do.
    pub async fn start_with_tls() -> Self {
        Self::launch(Some(Tls::new())).await
    }

    async fn launch(tls: Option<Tls>) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            // The port of the cluster's bus is 10,000 above by default, which may be too high.
            let bus = free_port().to_string();
            let mut args = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
            if tls.is_some() {
                args.extend(["--cluster-announce-hostname", "localhost"]);
                args.extend(["--cluster-preferred-endpoint-type", "hostname"]);
            }
            nodes.push(RedisServer::launch(Program::Redis, &args, &[], tls.clone()).await);
        }
        let cluster = Self { nodes };
        for (node, slots) in cluster.nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
            let () = node.command(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
            let bus: Vec<(String, String)> = node.command("CONFIG GET cluster-port").await;
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", node.port(), bus[0].1);
            let () = cluster.nodes[0].command(&meet).await;
        }
        for node in &cluster.nodes {
            eventually("the cluster is complete", async || {
                let info: String = node.command("CLUSTER INFO").await;
                (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")).then_some(())
            })
            .await;
        }
        cluster
    }

    /// The node that has the slot, and another one.
    pub async fn owner_and_other(&self, slot: u16) -> (&RedisServer, &RedisServer) {
        let mut owner = None;
        for node in &self.nodes {
            let id: String = node.command("CLUSTER MYID").await;
            let slots: String = node.command("CLUSTER NODES").await;
            let mine = slots.lines().find(|line| line.starts_with(&id)).unwrap();
            let has_slot = mine.split(' ').skip(8).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
            });
            if has_slot {
                owner = Some(node);
            }
        }
        let owner = owner.expect("a node should have the slot");
        let other = self.nodes.iter().find(|node| node.port() != owner.port()).unwrap();
        (owner, other)
    }
}

/// Sends a signal, such as `-STOP`, to a process.
pub fn send_signal(process: &Child, signal: &str) {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
