//! The program, as a separate process: its commands, its log and its end.

use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const KEY: &str = "canary-key";
const SECRET: &str = "canary-secret";

/// Far more than any answer takes, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

struct Program {
    process: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    token_url: String,
    api_url: String,
    client: Client,
}

impl Program {
    async fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_fake-data-hub"))
            .args(["--port", "0", "--life", "30", "--key", KEY])
            .env("FAKE_DATA_HUB_SECRET", SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let client = Client::builder().no_proxy().build().unwrap();
        let (token_url, api_url) = Default::default();
        let mut program = Self {
            process,
            input,
            output,
            token_url,
            api_url,
            client,
        };
        program.line_with("tokens have a lifetime of 30 s").await;
        program.line_with(&format!("OS_PROJECT_API_KEY={KEY}")).await;
        program.line_with(&format!("OS_PROJECT_API_SECRET={SECRET}")).await;
        program.token_url = program.last_word_of_line_with("/oauth2/token/v1").await;
        program.api_url = program.last_word_of_line_with("/search/names/v1/find").await;
        program.line_with("Type a command").await;
        program
    }

    async fn line(&mut self) -> String {
        let line = timeout(TIMEOUT, self.output.next_line()).await;
        line.expect("a line in time").unwrap().expect("the program still runs")
    }

    async fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line().await;
            if line.contains(text) {
                return line;
            }
        }
    }

    async fn last_word_of_line_with(&mut self, text: &str) -> String {
        let line = self.line_with(text).await;
        line.split_whitespace().last().unwrap().to_owned()
    }

    /// Types a command, and returns the line of its reply.
    async fn type_command(&mut self, command: &str, reply: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        self.line_with(reply).await;
    }

    /// Sends a token request, and returns its status with the token.
    async fn post(&self) -> (StatusCode, String) {
        let request = self.client.post(&self.token_url).basic_auth(KEY, Some(SECRET));
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        let response = request.body("grant_type=client_credentials").send().await.unwrap();
        let status = response.status();
        let body: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
        (status, body["access_token"].as_str().unwrap_or_default().to_owned())
    }

    async fn get(&self, token: &str) -> StatusCode {
        self.client
            .get(&self.api_url)
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .status()
    }

    async fn ends(&mut self) -> bool {
        timeout(TIMEOUT, self.process.wait())
            .await
            .expect("the end in time")
            .unwrap()
            .success()
    }
}

#[tokio::test]
async fn the_token_endpoint_and_the_apis_react_to_each_command() {
    let mut program = Program::start().await;
    let (status, token) = program.post().await;
    assert_eq!((status, program.get(&token).await), (StatusCode::OK, StatusCode::OK));

    program.type_command("revoke", "revoked").await;
    assert_eq!(program.get(&token).await, StatusCode::UNAUTHORIZED);
    let (status, token) = program.post().await;
    assert_eq!((status, program.get(&token).await), (StatusCode::OK, StatusCode::OK));

    program.type_command("down", "503").await;
    assert_eq!(program.post().await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(program.get(&token).await, StatusCode::SERVICE_UNAVAILABLE);
    program.type_command("up", "Up").await;
    assert_eq!(
        (program.post().await.0, program.get(&token).await),
        (StatusCode::OK, StatusCode::OK)
    );

    program.type_command("down", "503").await;
    program.type_command("down token", "the APIs work").await;
    assert_eq!(
        (program.post().await.0, program.get(&token).await),
        (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK)
    );
    program.type_command("up", "Up").await;

    program.type_command("slow 1", "after 1 s").await;
    let start = std::time::Instant::now();
    assert_eq!(program.post().await.0, StatusCode::OK);
    assert!(start.elapsed() >= Duration::from_secs(1));
    program.type_command("slow 0", "after 0 s").await;

    program.type_command("limit 0", "0 requests").await;
    assert_eq!(program.post().await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(program.get(&token).await, StatusCode::TOO_MANY_REQUESTS);
    program.type_command("limit off", "No limit").await;
    assert_eq!(
        (program.post().await.0, program.get(&token).await),
        (StatusCode::OK, StatusCode::OK)
    );

    program.type_command("refuse /search/", "no API under /search/").await;
    assert_eq!(program.get(&token).await, StatusCode::UNAUTHORIZED);

    program.type_command("explode", "Unknown command").await;
    program.type_command("help", "ends the program").await;
    program.input.as_mut().unwrap().write_all(b"quit\n").await.unwrap();
    assert!(program.ends().await);
}

#[tokio::test]
async fn a_request_is_logged_without_query_token_or_secret() {
    let mut program = Program::start().await;
    let (_, token) = program.post().await;
    program.get(&token).await;
    let post = program.line().await;
    let get = program.line().await;
    assert!(post.ends_with("POST    /oauth2/token/v1  200"), "{post}");
    assert!(get.ends_with("GET     /search/names/v1/find  200"), "{get}");
}

#[tokio::test]
async fn the_end_of_the_input_does_not_end_the_program() {
    let mut program = Program::start().await;
    program.input = None;
    // Twice, because the first request may be faster than the end of the input.
    for _ in 0..2 {
        assert_eq!(program.post().await.0, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(program.process.try_wait().unwrap().is_none());
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_and_sigterm_end_the_program_cleanly() {
    for signal in ["INT", "TERM"] {
        let mut program = Program::start().await;
        let id = program.process.id().unwrap().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-s", signal, &id])
                .status()
                .unwrap()
                .success()
        );
        assert!(program.ends().await, "{signal}");
    }
}
