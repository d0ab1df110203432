//! Service: an API of your own in front of the Ordnance Survey (OS), to be copied.
//!
//! With `OS_PROJECT_API_KEY_FILE` and `OS_PROJECT_API_SECRET_FILE` set, it asks OS. The project must include the OS
//! Names API and the OS Maps API. With neither, it asks a fake Data Hub, which is the part to leave out of your copy.
//!
//! `OS_TRANSACTIONS_PER_MINUTE` is what this process may spend of OS's limit, for each API. It defaults to 50, the limit
//! in development mode. A live project may use 600, divided by the number of processes. `LISTEN` is the address, and
//! defaults to `127.0.0.1:3000`. `RUST_LOG` takes filters such as `info,osdatahub_auth=debug`.
//!
//! Put a proxy in front that terminates TLS, passes `Host` on unchanged, and keeps `/metrics` and `/readyz` inside. It must close
//! its idle connections to the service within 5 s, because the service then closes them itself.

use std::{
    env,
    error::Error as StdError,
    io::{IsTerminal, stderr},
    process::ExitCode,
    time::Duration,
};

use map_server::{fake_tiles, listener};
use osdatahub_auth::FakeDataHub;
use service::{Os, Service, Settings, metrics, signals};
use tokio::{net::TcpListener, time};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

type Failure = Box<dyn StdError>;

#[tokio::main]
async fn main() -> ExitCode {
    let filters = env::var("RUST_LOG").ok().and_then(|filters| filters.parse().ok());
    tracing_subscriber::registry()
        .with(filters.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO)))
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(stderr)
                .with_ansi(stderr().is_terminal()),
        )
        .init();
    let Err(error) = run().await else {
        return ExitCode::SUCCESS;
    };
    let chain = std::iter::successors(Some(error.as_ref()), |&error| error.source());
    let causes: Vec<_> = chain.map(ToString::to_string).collect();
    eprintln!("{}.", causes.join(": "));
    ExitCode::FAILURE
}

async fn run() -> Result<(), Failure> {
    let settings = Settings::from_env()?;
    // Before the first metric is recorded. Histograms keep every value until the next upkeep.
    let metrics = metrics::install()?;
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });

    let hub; // Lives as long as the service.
    let os = if let Some(files) = settings.credentials {
        Os::new(files)?
    } else {
        hub = FakeDataHub::start().await?;
        fake_tiles::serve(&hub);
        tracing::warn!("no files with credentials are set, so all data comes from a fake Data Hub");
        Os::fake(&hub, hub.credentials())?
    };
    // Wrong credentials should end a deployment here, and not show in its traffic.
    os.check().await?;
    // Renews the token without traffic too, so that the service stays ready.
    let _warm = os.tokens.keep_warm();

    let listener = TcpListener::bind(settings.listen).await;
    let listener =
        listener.map_err(|reason| format!("LISTEN is {}, which cannot be opened: {reason}", settings.listen))?;
    let shutdown = signals::shutdown()?;
    println!("Listening on http://{}", listener.local_addr()?);
    let router = Service::new(&os, settings.per_minute).router(metrics);
    listener::serve_until(listener, router, shutdown).await;
    tracing::info!("shut down");
    Ok(())
}
