//! With `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET` set, this asks the Ordnance Survey (OS) for places called
//! Bath. With neither, it shows 25 s in the life of a service, against a fake Data Hub whose tokens live for 8 s.

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

/// All that a service needs: one manager for its project, one layer on its client, and requests as ever.
async fn ask_os() -> Result<(), Failure> {
    let tokens = TokenManager::new(ProjectCredentials::from_env()?)?;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(BearerAuth::new(tokens))
        .build();
    let answer = client.get(NAMES_API).send().await?;

    let status = answer.status();
    let body = answer.text().await?;
    let Some(names) = names_in(&body) else {
        let start: String = body.chars().take(300).collect();
        let what = format!("The OS Names API answered {status}, and no names: {start}");
        return Err(format!("{what}\nIs that API in your project?").into());
    };
    println!("The OS Names API knows, for \"Bath\": {}", names.join(", "));
    Ok(())
}

fn names_in(body: &str) -> Option<Vec<String>> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let entries = body["results"].as_array()?.iter();
    entries
        .map(|result| result["GAZETTEER_ENTRY"]["NAME1"].as_str().map(Into::into))
        .collect()
}

/// What went wrong, and what to do about it.
fn explain(error: &(dyn StdError + 'static)) -> String {
    // No token, no request: then there is one of this library's errors inside the client's.
    let Some(reason) = Error::find_in(error) else {
        return with_causes(error);
    };
    let what_to_do = match reason.kind() {
        ErrorKind::Configuration => "Put that right, or unset both variables for a demonstration",
        ErrorKind::CredentialsRejected => "Your project on https://osdatahub.os.uk shows both",
        ErrorKind::RateLimited => "Try again in a minute",
        ErrorKind::Unavailable | ErrorKind::Timeout => "Check network and proxy, and try again",
        _ => "Check what stands between this machine and https://api.os.uk",
    };
    format!("No access token: {}.\n{what_to_do}.", with_causes(reason))
}

fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let messages: Vec<_> = chain.map(ToString::to_string).collect();
    messages.join(": ")
}

/// The same against a fake Data Hub, through fair weather and foul.
async fn demonstrate() -> Result<(), Failure> {
    let hub = FakeDataHub::start().await?;
    hub.set_lifetime(Duration::from_secs(8));
    hub.set_delay(Duration::from_millis(200));

    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .build()?;
    // Renewed at half of its life, earlier than by default, to leave room for the outage below.
    let tokens = TokenManager::builder(endpoint).refresh_at(0.5..=0.5).build()?;
    let client = ClientBuilder::new(hub.client_builder().build()?)
        .with(BearerAuth::new(tokens.clone()).with_origin(hub.origin())?)
        .build();

    println!(
        "No credentials are set, so this is a fake Data Hub whose tokens live for 8 s. POSTs are token requests.\n"
    );
    let mut service = Service::new(&hub, tokens, client);
    let played = time::timeout(Duration::from_secs(60), play(&mut service)).await;
    service.print_table();
    played.map_err(|_| "Expected it all to take 25 s; gave up after 60 s.")?;
    service.check()
}

async fn play(service: &mut Service<'_>) {
    let hub = service.hub;
    let refreshed = |status: &TokenStatus| status.state == TokenState::Fresh;
    let refresh_is_due = |status: &TokenStatus| status.state == TokenState::Stale && status.next_attempt.is_some();

    service.begin("cold burst");
    service.burst(1_000).await;

    service.begin("steady traffic");
    let four_posts = |status: &TokenStatus| hub.token_posts() >= 4 && refreshed(status);
    service.traffic_until(four_posts).await;

    service.begin("token revoked");
    // A 401 for a token held for less than 2 s, a quarter of its life, would not be put down to the token.
    service.traffic_for(Duration::from_millis(2_500)).await;
    hub.revoke_all();
    service.traffic_until(refresh_is_due).await;

    service.begin("endpoint down");
    hub.fail(FakeAnswer::new(503, ""));
    // The token serves for 3.5 s more, and attempts are about a second apart: one of them comes after this and in time.
    service.traffic_for(Duration::from_millis(1_800)).await;
    hub.recover();
    service.traffic_until(refreshed).await;
    service.traffic_for(Duration::from_secs(2)).await;
    service.wait_for_answers().await;
}
