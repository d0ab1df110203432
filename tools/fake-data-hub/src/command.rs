//! Commands that the program takes from the keyboard.

use std::{str::FromStr, time::Duration};

use osdatahub_auth::{FakeAnswer, FakeDataHub};

pub(crate) const HELP: &str = "  \
  revoke    revokes every token issued so far
  down      every token request, and every API request with a good token, gets
            a 503; `down token` fails the token endpoint alone
  up        ends `down`
  refuse /search/places/
            takes the APIs with this prefix out of the project, until the
            program ends
  slow 2    delays the token endpoint by 2 s; `slow 0` ends it
  limit 50  refuses more than 50 requests a minute to an API or the token
            endpoint, with a 429; the last minute counts; `limit off` ends it
  help      lists the commands
  quit      ends the program, as Ctrl-C does";

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Revoke,
    Down,
    DownToken,
    Up,
    Refuse(String),
    Slow(Duration),
    Limit(Option<u32>),
    Help,
    Quit,
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<_> = line.split_whitespace().collect();
        match *words {
            ["revoke"] => Ok(Self::Revoke),
            ["down"] => Ok(Self::Down),
            ["down", "token"] => Ok(Self::DownToken),
            ["up"] => Ok(Self::Up),
            ["refuse", prefix] if prefix.starts_with('/') => Ok(Self::Refuse(prefix.to_owned())),
            ["refuse", ..] => Err("`refuse` needs the start of a path, such as `refuse /search/places/`.".to_owned()),
            ["slow", seconds] => {
                let delay = seconds.parse().ok().map(Duration::try_from_secs_f64);
                let Some(Ok(delay)) = delay else {
                    return Err("`slow` needs a number of seconds, such as `slow 2`.".to_owned());
                };
                Ok(Self::Slow(delay))
            }
            ["limit", "off"] => Ok(Self::Limit(None)),
            ["limit", requests] => match requests.parse() {
                Ok(requests) => Ok(Self::Limit(Some(requests))),
                Err(_) => Err("`limit` needs a number of requests a minute, such as `limit 50`, or `off`.".to_owned()),
            },
            ["slow" | "limit"] => Err(format!("`{line}` needs a number. The commands are:\n{HELP}")),
            ["help"] => Ok(Self::Help),
            ["quit"] => Ok(Self::Quit),
            _ => Err(format!("Unknown command. The commands are:\n{HELP}")),
        }
    }
}

impl Command {
    /// Carries the command out, and says what has changed.
    pub(crate) fn run(self, hub: &FakeDataHub) -> String {
        match self {
            Self::Revoke => {
                hub.revoke_all();
                "Every token is revoked.".to_owned()
            }
            Self::Down => {
                hub.fail(FakeAnswer::new(503, ""));
                hub.fail_api(FakeAnswer::new(503, ""));
                "Down: the token endpoint and the APIs answer 503.".to_owned()
            }
            Self::DownToken => {
                hub.recover();
                hub.fail(FakeAnswer::new(503, ""));
                "Down: the token endpoint answers 503, the APIs work.".to_owned()
            }
            Self::Refuse(prefix) => {
                hub.refuse_under(&prefix);
                format!("The project has no API under {}.", prefix.escape_debug())
            }
            Self::Up => {
                hub.recover();
                "Up.".to_owned()
            }
            Self::Slow(delay) => {
                hub.set_delay(delay);
                format!("The token endpoint answers after {} s.", delay.as_secs_f64())
            }
            Self::Limit(limit) => {
                hub.set_rate_limit(limit);
                limit.map_or("No limit.".to_owned(), |limit| {
                    format!("The limit is {limit} requests a minute.")
                })
            }
            Self::Help => HELP.to_owned(),
            Self::Quit => "The program ends.".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_read_with_any_white_space() {
        for (line, command) in [
            ("revoke", Command::Revoke),
            ("down", Command::Down),
            ("down token", Command::DownToken),
            ("  up\r", Command::Up),
            ("refuse /maps/", Command::Refuse("/maps/".to_owned())),
            ("slow 2", Command::Slow(Duration::from_secs(2))),
            ("slow\t0.5", Command::Slow(Duration::from_millis(500))),
            ("slow 0", Command::Slow(Duration::ZERO)),
            ("limit  50", Command::Limit(Some(50))),
            ("limit 0", Command::Limit(Some(0))),
            ("limit off", Command::Limit(None)),
            ("help", Command::Help),
            ("quit", Command::Quit),
        ] {
            assert_eq!(line.parse(), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn a_line_that_is_not_a_command_says_what_to_type() {
        for (line, advice) in [
            ("explode", "The commands are:"),
            ("revoke all", "The commands are:"),
            ("slow", "`slow` needs a number"),
            ("slow down", "such as `slow 2`"),
            ("slow -1", "such as `slow 2`"),
            ("slow NaN", "such as `slow 2`"),
            ("slow inf", "such as `slow 2`"),
            ("refuse", "such as `refuse /search/places/`"),
            ("refuse maps", "such as `refuse /search/places/`"),
            ("limit", "`limit` needs a number"),
            ("limit -1", "such as `limit 50`"),
            ("limit 5000000000", "such as `limit 50`"),
        ] {
            let problem = line.parse::<Command>().expect_err(line);
            assert!(problem.contains(advice), "{line}: {problem}");
        }
    }

    #[test]
    fn the_help_lists_every_command() {
        for command in ["revoke", "down", "up", "refuse", "slow", "limit", "help", "quit"] {
            assert!(
                HELP.lines().any(|line| line.trim_start().starts_with(command)),
                "{command}"
            );
        }
    }
}
