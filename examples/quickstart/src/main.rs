//! Quickstart: a client with `BearerAuth`, against the Ordnance Survey (OS) or a fake Data Hub.
//!
//! With `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET` set, it asks the OS Names API for places called Bath. With
//! neither, it runs a service for 25 s against a fake Data Hub whose tokens have a lifetime of 8 s.

mod service;

use std::{env, error::Error as StdError, process::ExitCode, time::Duration};

use osdatahub_auth::{
    BearerAuth, Error, ErrorKind, FakeAnswer, FakeDataHub, ProjectCredentials, TokenEndpoint, TokenManager, TokenState,
    TokenStatus,
};
use reqwest_middleware::ClientBuilder;
use service::Service;
use tokio::time;

type Failure = Box<dyn StdError>;

const NAMES_API: &str = "https://api.os.uk/search/names/v1/find?query=Bath&maxresults=5";

#[tokio::main]
async fn main() -> ExitCode {
    let variables = ["OS_PROJECT_API_KEY", "OS_PROJECT_API_SECRET"];
    let outcome = if variables.iter().any(|name| env::var_os(name).is_some()) {
        ask_os().await
    } else {
        demonstrate().await
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{}", explain(error.as_ref()));
    ExitCode::FAILURE
}

/// Everything that a service needs: one manager per project, one layer on its client, and ordinary requests.
async fn ask_os() -> Result<(), Failure> {
    let tokens = TokenManager::new(ProjectCredentials::from_env()?)?;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(BearerAuth::new(tokens))
        .build();
    let response = client.get(NAMES_API).send().await?;

    let status = response.status();
    let body = response.text().await?;
    let Some(names) = parse_names(&body) else {
        let start: String = body.chars().take(300).collect();
        let problem = format!("The OS Names API returned {status} without names: {start}");
        return Err(format!("{problem}\nDoes your project include that API?").into());
    };
    println!("The OS Names API returned for \"Bath\": {}", names.join(", "));
    Ok(())
}

fn parse_names(body: &str) -> Option<Vec<String>> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let entries = body["results"].as_array()?.iter();
    entries
        .map(|result| result["GAZETTEER_ENTRY"]["NAME1"].as_str().map(Into::into))
        .collect()
}

/// Error message with its causes and a suggestion.
fn explain(error: &(dyn StdError + 'static)) -> String {
    // Without a token, no request is sent. The library's error is then a cause of the client's error.
    let Some(reason) = Error::find_in(error) else {
        return with_causes(error);
    };
    let suggestion = match reason.kind() {
        ErrorKind::Configuration => "Correct the setting, or unset both variables for a demonstration",
        ErrorKind::CredentialsRejected => "Check the key and secret of your project on https://osdatahub.os.uk",
        ErrorKind::RateLimited => "Try again in a minute",
        ErrorKind::Unavailable | ErrorKind::Timeout => "Check the network and the proxy, and try again",
        _ => "Check for a proxy or gateway between this machine and https://api.os.uk",
    };
    format!("No access token: {}.\n{suggestion}.", with_causes(reason))
}

fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let messages: Vec<_> = chain.map(ToString::to_string).collect();
    messages.join(": ")
}

/// The same against a fake Data Hub, with a revoked token and an outage of the token endpoint.
async fn demonstrate() -> Result<(), Failure> {
    let hub = FakeDataHub::start().await?;
    hub.set_lifetime(Duration::from_secs(8));
    hub.set_delay(Duration::from_millis(200));

    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .build()?;
    // Tokens are refreshed at half of their lifetime, earlier than by default, to leave time for the outage below.
    let tokens = TokenManager::builder(endpoint).refresh_at(0.5..=0.5).build()?;
    let client = ClientBuilder::new(hub.client_builder().build()?)
        .with(BearerAuth::new(tokens.clone()).with_origin(hub.origin())?)
        .build();

    println!("No credentials are set, so this uses a fake Data Hub with tokens of 8 s. POSTs are token requests.\n");
    let mut service = Service::new(&hub, tokens, client);
    let finished = time::timeout(Duration::from_secs(60), run_scenario(&mut service)).await;
    service.print_table();
    finished.map_err(|_| "The demonstration takes 25 s, but had not ended after 60 s.")?;
    service.check()
}

async fn run_scenario(service: &mut Service<'_>) {
    let hub = service.hub;
    let is_fresh = |status: &TokenStatus| status.state == TokenState::Fresh;
    let refresh_is_due = |status: &TokenStatus| status.state == TokenState::Stale && status.next_attempt.is_some();

    service.begin_phase("cold burst");
    service.burst(1_000).await;

    service.begin_phase("steady traffic");
    let four_posts = |status: &TokenStatus| hub.token_posts() >= 4 && is_fresh(status);
    service.traffic_until(four_posts).await;

    service.begin_phase("token revoked");
    // The library does not replace a token because of a 401 within the first 2 s, a quarter of its lifetime.
    service.traffic_for(Duration::from_millis(2_500)).await;
    hub.revoke_all();
    service.traffic_until(refresh_is_due).await;

    service.begin_phase("endpoint down");
    hub.fail(FakeAnswer::new(503, ""));
    // The token is usable for 3.5 s more and attempts are about 1 s apart, so one succeeds in time after the
    // recovery.
    service.traffic_for(Duration::from_millis(1_800)).await;
    service.begin_phase("endpoint back");
    hub.recover();
    service.traffic_until(is_fresh).await;
    service.traffic_for(Duration::from_secs(2)).await;
    service.wait_for_responses().await;
}
