//! The program: its settings, and its signals.

use std::process::{Command, Output};

/// Runs the program with these variables alone, until it ends.
fn run(variables: &[(&str, &str)]) -> Output {
    program(variables).output().unwrap()
}

fn program(variables: &[(&str, &str)]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_service"));
    for name in [
        "OS_PROJECT_API_KEY_FILE",
        "OS_PROJECT_API_SECRET_FILE",
        "OS_TRANSACTIONS_PER_MINUTE",
        "RUST_LOG",
    ] {
        program.env_remove(name);
    }
    program.env("LISTEN", "127.0.0.1:0");
    program.envs(variables.iter().copied());
    program
}

#[test]
fn a_wrong_setting_ends_the_program_with_a_sentence_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let missing = "/does/not/exist";
    for (variables, sentence) in [
        (&[("LISTEN", "here")][..], "LISTEN is here, but it must be an address"),
        (&[("LISTEN", &*taken)], "cannot be opened"),
        (
            &[("OS_TRANSACTIONS_PER_MINUTE", "0")],
            "OS_TRANSACTIONS_PER_MINUTE is 0",
        ),
        (
            &[("OS_PROJECT_API_KEY_FILE", missing)],
            "OS_PROJECT_API_SECRET_FILE is not",
        ),
        (
            &[("OS_PROJECT_API_SECRET_FILE", missing)],
            "OS_PROJECT_API_KEY_FILE is not",
        ),
        (
            &[
                ("OS_PROJECT_API_KEY_FILE", missing),
                ("OS_PROJECT_API_SECRET_FILE", missing),
            ],
            "/does/not/exist, cannot be read",
        ),
    ] {
        let output = run(variables);
        let shown = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(shown.lines().last().unwrap().contains(sentence), "{shown}");
        assert_eq!(output.stdout, b"", "it listened");
    }
}

#[cfg(unix)]
#[test]
fn it_runs_without_credentials_until_a_sigterm_or_ctrl_c() {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
    };

    for signal in ["-TERM", "-INT"] {
        let mut service = program(&[])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = service.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.starts_with("Listening on http://127.0.0.1:"), "{line}");
        let id = service.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        assert_eq!(service.wait().unwrap().code(), Some(0), "{signal}");
    }
}
