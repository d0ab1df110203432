//! Check: what your project may do, and what OS's answers look like.
//!
//! With `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET` set, it asks the Ordnance Survey (OS) for a token and sends each
//! API one request. With neither, it does the same against a fake Data Hub.

mod answer;
mod api;
mod fault;
mod record;
mod route;
mod shape;
mod standing;
mod table;
mod target;

use std::{error::Error, fs, path::PathBuf, process::ExitCode, time::Duration};

use answer::Answer;
use api::APIS;
use clap::Parser;
use osdatahub_auth::TokenManager;
use standing::Standing;
use table::Row;
use target::Target;
use tokio::time::sleep;

/// OS refuses bursts of more than about 10 requests a second. All requests together are far below 50 a minute.
const PAUSE: Duration = Duration::from_millis(250);

/// OS's tokens live for 299 s. Much less means that a cache on the way serves old ones.
const MIN_LIFE: Duration = Duration::from_secs(240);

const NEEDS_ATTENTION: u8 = 1;
const HAS_NO_TOKEN: u8 = 2;

/// Checks the route to OS, your key and secret, and which APIs your project has.
///
/// Set `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET`. With neither, it shows
/// the same against a fake Data Hub. A row with `!` needs attention, and `–` means
/// that a header is absent.
#[derive(Parser)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Exit codes:
  0  OS answered as in a working set-up; a project need not have every API
  1  a row needs attention, or no API is in the project
  2  no token from OS, as in a run without credentials"
)]
struct Options {
    /// Writes the shapes of the answers as JSON, to attach to an issue.
    ///
    /// Every value is replaced by its type. Without a token there is no record.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(code) => code.into(),
        Err(error) => {
            let reason = osdatahub_auth::Error::find_in(error.as_ref());
            let message = reason.map_or(error.to_string(), |reason| format!("{reason:#}"));
            eprintln!("{message}.");
            HAS_NO_TOKEN.into()
        }
    }
}

async fn run(options: &Options) -> Result<u8, Box<dyn Error>> {
    let target = Target::choose().await?;
    if target.fake.is_some() {
        println!("No credentials are set, so this asks a fake Data Hub, with Places outside the");
        println!("project and OS Net at its limit. Set OS_PROJECT_API_KEY and");
        println!("OS_PROJECT_API_SECRET to ask OS.\n");
    }
    let mut rows = route::rows(&target.plain, &target.origin).await;
    let (has_token, token_rows) = ask_for_token(&target.tokens).await;
    rows.extend(token_rows);
    println!("{}", table::of_rows(&rows));
    if !has_token {
        return Ok(HAS_NO_TOKEN);
    }
    let answers = ask_apis(&target).await?;
    print!("{}", table::of_answers(&answers));
    for (api, answer) in &answers {
        if let Some(why) = answer.as_ref().and_then(|answer| answer.unauthorized) {
            println!("\n{}", table::wrapped(&format!("{api}: {why}."), 80).join("\n"));
        }
    }
    if let Some(file) = &options.record {
        let record = record::of(target.name, &answers);
        if let Err(error) = fs::write(file, format!("{record:#}\n")) {
            eprintln!("\nThe record cannot be written: {error}.");
            return Ok(NEEDS_ATTENTION);
        }
        println!("\nThe shapes of the answers are in {}.", file.display());
    }
    let standings: Vec<_> = answers.iter().map(|(_, answer)| standing_of(answer.as_ref())).collect();
    let code = exit_code(rows.iter().all(|row| row.is_good), &standings);
    Ok(if target.fake.is_some() { HAS_NO_TOKEN } else { code })
}

async fn ask_for_token(tokens: &TokenManager) -> (bool, Vec<Row>) {
    match tokens.token().await {
        Ok(token) => {
            let life = token.remaining();
            let is_good = life >= MIN_LIFE;
            let advice = if is_good {
                ""
            } else {
                ", and OS's 299 s are usual: look for a cache on the way"
            };
            let life = format!("{:.0} s{advice}", life.as_secs_f64());
            (
                true,
                vec![
                    Row::new("key accepted", true, "yes"),
                    Row::new("life of the token", is_good, life),
                ],
            )
        }
        Err(error) => (
            false,
            vec![Row::new("key accepted", false, format!("no token: {error:#}"))],
        ),
    }
}

/// One request after another.
async fn ask_apis(target: &Target) -> Result<Vec<(&'static str, Option<Answer>)>, Box<dyn Error>> {
    let mut answers = Vec::new();
    for api in &APIS {
        let url = target.origin.join(api.path)?;
        answers.push((api.name, Answer::to(&target.client, url).await));
        sleep(PAUSE).await;
    }
    Ok(answers)
}

fn standing_of(answer: Option<&Answer>) -> Standing {
    answer.map_or(Standing::NoAnswer, |answer| answer.standing)
}

fn exit_code(route_is_good: bool, standings: &[Standing]) -> u8 {
    let is_good = route_is_good
        && standings.contains(&Standing::InProject)
        && !standings.iter().any(|standing| standing.needs_attention());
    if is_good { 0 } else { NEEDS_ATTENTION }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_a_row_needs_attention() {
        use Standing::{InProject, Limited, NotInProject};
        for (route_is_good, standings, code) in [
            (true, [InProject, InProject], 0),
            (true, [InProject, NotInProject], 0),
            (true, [NotInProject, NotInProject], 1),
            (true, [InProject, Limited], 1),
            (false, [InProject, InProject], 1),
        ] {
            assert_eq!(exit_code(route_is_good, &standings), code, "{standings:?}");
        }
    }

    #[tokio::test]
    async fn against_the_fake_each_api_has_its_row_and_no_token_is_recorded() {
        let target = Target::fake().await.unwrap();
        let answers = ask_apis(&target).await.unwrap();
        for (api, answer) in &answers {
            let expected = match *api {
                "Places" => Standing::NotInProject,
                "OS Net" => Standing::Limited,
                _ => Standing::InProject,
            };
            assert_eq!(standing_of(answer.as_ref()), expected, "{api}");
        }
        let record = record::of(target.name, &answers).to_string();
        let token = target.tokens.token().await.unwrap();
        // The sample of the Places API is not sent, and that of the Names API has a coordinate.
        for canary in [token.expose_secret(), "375000", "osgb4000000074564391"] {
            assert!(!record.contains(canary), "{canary}: {record}");
        }
        assert!(
            record.contains("InvalidAPICallAsNoApiProductMatchFound") && record.contains("GEOMETRY_X"),
            "{record}"
        );
        let received = target.fake.as_ref().unwrap().received();
        assert_eq!(received.len(), APIS.len() + 1);
    }
}
