//! The alerts in the guide, as Prometheus's `promtool` understands them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

const GUIDE: &str = include_str!("../../src/guide/metrics.md");
const CASES: &str = include_str!("cases.yml");

/// The `rules.yml` in the guide.
fn rules() -> &'static str {
    let (_, block) = GUIDE.split_once("```yaml\n").expect("the guide has a block of rules");
    block.split_once("```").expect("the block ends").0
}

/// The first words after this text, wherever it stands.
fn words_after<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let rest = text.split(start).skip(1);
    rest.filter_map(|rest| rest.split_whitespace().next()).collect()
}

/// Folder with the rules and their cases, which is deleted on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("osdatahub-auth-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("rules.yml"), rules()).unwrap();
        std::fs::write(folder.join("cases.yml"), CASES).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn promtool(folder: &Path, arguments: [&str; 3]) -> String {
    let output = Command::new("promtool").args(arguments).current_dir(folder).output();
    let output = output.expect("promtool is missing: scripts/setup installs it");
    let shown = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{shown}");
    shown
}

#[test]
fn the_rules_are_valid() {
    let folder = Folder::new("rules");
    let shown = promtool(&folder.0, ["check", "rules", "rules.yml"]);
    assert!(shown.contains("5 rules found"), "{shown}");
}

#[test]
fn each_alert_fires_on_bad_data_and_is_silent_on_good_data() {
    let folder = Folder::new("cases");
    promtool(&folder.0, ["test", "rules", "cases.yml"]);
    // The cases leave no alert out.
    let (good, bad) = CASES.split_once("# Bad data.").unwrap();
    let alerts = words_after(rules(), "- alert: ");
    assert_eq!(alerts.len(), 5);
    for alert in alerts {
        for cases in [good, bad] {
            assert!(words_after(cases, "alertname: ").contains(&alert), "{alert}");
        }
    }
    assert_eq!(good.matches("exp_alerts").count(), 0, "no alert fires on good data");
    assert_eq!(bad.matches("alertname").count(), bad.matches("exp_alerts").count());
}

#[test]
fn the_alerts_use_only_metrics_that_the_guide_lists() {
    let is_in_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = rules().split(|c| !is_in_name(c));
    let names: BTreeSet<_> = names.filter(|name| name.starts_with("os_token_")).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in names {
        // A histogram is exposed under its name with a suffix.
        let (name, kind) = match name.strip_suffix("_count") {
            Some(histogram) => (histogram, "histogram"),
            None => (name, ""),
        };
        let row = format!("\n| `{name}` | {kind}");
        assert!(GUIDE.contains(&row), "the guide does not list {name}");
    }
}
