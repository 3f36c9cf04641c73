//! What is measured, and that the dashboard and the alerts measure what there is.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use nxt_testkit::Wait;
use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::app::TestApp;

/// Names of PromQL that are no metrics.
const WORDS: [&str; 11] =
    ["and", "bool", "by", "group_left", "group_right", "ignoring", "offset", "on", "or", "unless", "without"];
/// Made by Prometheus itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The metrics that a PromQL expression names. Selectors, strings, ranges and lists of labels are left out.
fn named(expression: &str) -> BTreeSet<String> {
    let (mut names, mut rest) = (BTreeSet::new(), expression);
    let mut is_list = false;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '{' => 1 + rest.find('}').expect("a selector ends"),
            '[' => 1 + rest.find(']').expect("a range ends"),
            '"' => 2 + rest[1..].find('"').expect("a text ends"),
            '(' if is_list => 1 + rest.find(')').expect("a list ends"),
            _ if first.is_ascii_alphabetic() || first == '_' => {
                let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
                let length = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
                let (name, behind) = rest.split_at(length);
                let is_word = WORDS.contains(&name);
                if !is_word && !behind.trim_start().starts_with('(') && !is_aggregation(name) {
                    names.insert(name.to_owned());
                }
                is_list = is_word && behind.trim_start().starts_with('(');
                rest = behind;
                continue;
            }
            _ if first.is_ascii_digit() => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        if !first.is_whitespace() {
            is_list = false;
        }
        rest = &rest[length..];
    }
    names
}

/// An operator whose labels stand between it and what it is about.
fn is_aggregation(name: &str) -> bool {
    ["sum", "min", "max", "avg", "count"].contains(&name)
}

/// Names of the samples that `/metrics` shows.
fn shown(metrics: &str) -> BTreeSet<String> {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.split(['{', ' ']).next()?.to_owned())).collect()
}

fn alerts() -> Vec<Yaml> {
    let rules = YamlLoader::load_from_str(&read("deploy/prometheus/rules.yml")).expect("the rules are YAML");
    let groups = rules[0]["groups"].as_vec().expect("there are groups");
    groups.iter().flat_map(|group| group["rules"].as_vec().expect("a group has rules").clone()).collect()
}

fn texts<'a>(json: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match json {
        Value::Object(members) => {
            for (own, value) in members {
                match value {
                    Value::String(text) if own == name => found.push(text),
                    value => texts(value, name, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, name, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_name_metrics_that_a_running_daemon_shows() {
    let app = TestApp::builder().set("NXT_TABLES", "Order").set("NXT_SWEEP_SECONDS", 1).start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    for purpose in ["load", "sweep"] {
        let line = format!("nxt_mirror_api_requests_total{{outcome=\"ok\",purpose=\"{purpose}\"}}");
        let look = async || if app.metrics().await.contains(&line) { Ok(()) } else { Err("not counted".to_owned()) };
        Wait::seconds(240).until(purpose, look).await.unwrap_or_else(|late| panic!("{late}"));
    }
    let metrics = app.metrics().await;
    for line in [
        "nxt_mirror_api_requests_total{outcome=\"ok\",purpose=\"live\"}",
        "nxt_mirror_webhook_requests_total{outcome=\"accepted\"} 1",
        "nxt_mirror_webhook_duration_seconds_count 1",
        "nxt_mirror_commit_notifications_sum 1",
        "nxt_mirror_settle_delay_seconds_count ",
        // A sweep may have been first to insert the row.
        "nxt_mirror_rows_settled_total{action=\"",
        "nxt_mirror_targets{state=\"degraded\"} 0",
        "nxt_mirror_lag_seconds 0",
        "nxt_mirror_api_budget_requests 600",
        "nxt_mirror_database_up 1",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(line), "{line} is not among\n{metrics}");
    }
    let shown = shown(&metrics);
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/nxt-mirror.json")).expect("the dashboard is JSON");
    let mut expressions = vec![];
    texts(&dashboard, "expr", &mut expressions);
    let alerts = alerts();
    expressions.extend(alerts.iter().map(|alert| alert["expr"].as_str().expect("an alert has an expression")));
    assert!(expressions.len() > 30, "{expressions:?}");
    for expression in expressions {
        let names = named(expression);
        assert!(!names.is_empty(), "{expression}");
        let unknown: Vec<_> =
            names.iter().filter(|name| !shown.contains(*name) && !OF_PROMETHEUS.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    }
    // And what is measured is shown somewhere.
    let all = read("deploy/grafana/nxt-mirror.json") + &read("deploy/prometheus/rules.yml");
    let family = |name: &str| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let families: BTreeSet<String> =
        shown.iter().filter(|name| name.starts_with("nxt_mirror_")).map(|name| family(name)).collect();
    let unused: Vec<_> = families.iter().filter(|name| !all.contains(name.as_str())).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn every_alert_has_a_remedy_in_the_runbook() {
    let runbook = read("docs/runbook.md");
    let headings: BTreeSet<String> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).map(|name| name.to_lowercase()).collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("an alert has a name");
        assert!(alert["annotations"]["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        let link = alert["annotations"]["runbook"].as_str().expect("an alert says what to do");
        assert_eq!(link, format!("docs/runbook.md#{}", name.to_lowercase()));
        assert!(headings.contains(&name.to_lowercase()), "{name} has no heading in the runbook");
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_alerts() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/rules.yml");
    match Command::new("promtool").args(["check", "rules"]).arg(rules).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped, promtool is not installed: {error}"),
    }
}

#[test]
fn names_are_found_in_every_form_of_expression() {
    for (expression, expected) in [
        ("up{job=\"nxt-mirror\"} == 0", vec!["up"]),
        ("max by (kind) (a{b=~\"c|d\"}) > 0", vec!["a"]),
        (
            "histogram_quantile(0.5, sum by (le) (rate(a_bucket{i=\"x\"}[5m]))) / on (x) group_left (y) b",
            vec!["a_bucket", "b"],
        ),
        ("60 * sum(rate(a[10m])) / sum without (z) (b offset 5m) > 1e3", vec!["a", "b"]),
        ("sum(a) by (b)", vec!["a"]),
    ] {
        assert_eq!(named(expression), expected.into_iter().map(str::to_owned).collect(), "{expression}");
    }
}
