//! Map server: a web server that keeps the key and secret, and hands out short-lived tokens to a page with a map.
//!
//! With `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET` set, the map comes from the Ordnance Survey (OS). The
//! project must include the OS Maps API. With neither, a fake Data Hub serves tiles with their coordinates on them.
//!
//! `PORT` is the port on 127.0.0.1, and defaults to 3000. `OVERLAY_TILES`, such as
//! `https://tiles.example/{z}/{x}/{y}.png`, adds your own tiles over the map. They are requested without the token.
//!
//! To serve other machines, put a proxy in front that terminates TLS and passes `Host` on unchanged.
//!
//! If no token is available, the log on the terminal says why.

use std::{env, error::Error as StdError, process::ExitCode};

use map_server::{MapServer, fake_tiles, listener};
use osdatahub_auth::{BearerAuth, FakeDataHub, ProjectCredentials, TokenManager};
use reqwest_middleware::ClientBuilder;

type Failure = Box<dyn StdError>;

#[tokio::main]
async fn main() -> ExitCode {
    // The page only learns that no token is available. The reason, such as a wrong secret, is logged here.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Err(error) = run().await else {
        return ExitCode::SUCCESS;
    };
    let chain = std::iter::successors(Some(error.as_ref()), |&error| error.source());
    let causes: Vec<_> = chain.map(ToString::to_string).collect();
    eprintln!("{}.", causes.join(": "));
    ExitCode::FAILURE
}

async fn run() -> Result<(), Failure> {
    let variables = ["OS_PROJECT_API_KEY", "OS_PROJECT_API_SECRET"];
    if variables.iter().any(|name| env::var_os(name).is_some()) {
        let tokens = TokenManager::new(ProjectCredentials::from_env()?)?;
        let os = ClientBuilder::new(reqwest::Client::new())
            .with(BearerAuth::new(tokens.clone()))
            .build();
        return serve(
            MapServer::new(tokens, os, &"https://api.os.uk".parse()?),
            "the OS Maps API",
        )
        .await;
    }
    let hub = FakeDataHub::start().await?;
    fake_tiles::serve(&hub);
    serve(
        MapServer::of_fake(&hub)?,
        "a fake Data Hub, because no credentials are set",
    )
    .await
}

async fn serve(server: MapServer, tiles: &str) -> Result<(), Failure> {
    let listener = listener::open(env::var_os("PORT").as_deref()).await?;
    println!(
        "Open http://{} for the map. Its tiles come from {tiles}.",
        listener.local_addr()?
    );
    let overlay = env::var("OVERLAY_TILES").unwrap_or_default();
    listener::serve(listener, server.with_overlay(&overlay).router()).await;
    Ok(())
}
