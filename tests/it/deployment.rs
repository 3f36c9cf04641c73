//! What is deployed beside the program: settings, manual pages, and the files of `deploy/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nxt_mirror::config::{Role, Settings, Source};
use nxt_testkit::Scratch;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::PROGRAM;

/// Read by Docker Compose alone.
const OF_COMPOSE: [&str; 6] =
    ["POSTGRES_PASSWORD", "NXT_PUBLISH", "NXT_OPS_PUBLISH", "NXT_DOMAIN", "NXT_BACKUP_DIR", "NXT_BACKUP_DAYS"];
/// Without these there is no daemon.
const NEEDED: [&str; 3] = ["NXT_CLIENT_ID", "NXT_CLIENT_SECRET", "NXT_WEBHOOK_SECRETS"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn known() -> BTreeSet<String> {
    Source::names().iter().map(|name| (*name).to_owned()).collect()
}

/// All settings, as the daemon understands them, with these beside those that are needed.
fn understood(pairs: &[(&str, &str)]) -> String {
    let needed = NEEDED.iter().map(|name| (*name, "x"));
    let pairs = needed.chain(pairs.iter().copied()).map(|(name, value)| (name, value.to_owned()));
    let settings = Settings::read(&Source::from_pairs(pairs), Role::All);
    format!("{:?}", settings.unwrap_or_else(|error| panic!("{error}")))
}

/// Names and defaults in the tables of `docs/settings.md`.
fn documented() -> BTreeMap<String, Option<String>> {
    let text = read("docs/settings.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let unquoted = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
        (unquoted(cells[1]).expect("a name in backticks"), unquoted(cells[2]))
    };
    rows.map(row).collect()
}

#[test]
fn every_setting_is_documented_with_its_true_default_and_no_other() {
    let documented = documented();
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), known());
    for (name, default) in &documented {
        // What is said to be the default changes nothing when it is given.
        if let Some(default) = default {
            assert_eq!(understood(&[(name, default)]), understood(&[]), "{name}={default}");
        }
    }
    let text = read("docs/settings.md");
    for secret in Source::secrets() {
        assert!(text.contains(&format!("`{secret}_FILE`")), "{secret}");
    }
}

#[test]
fn the_example_has_every_setting_with_its_default() {
    let text = read(".env.example");
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit());
    let pairs: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .filter(|(name, _)| is_name(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let names: BTreeSet<String> = pairs.keys().filter(|name| !name.ends_with("_FILE")).cloned().collect();
    let expected: BTreeSet<String> = known().into_iter().chain(OF_COMPOSE.map(str::to_owned)).collect();
    assert_eq!(names, expected);
    for (name, default) in documented() {
        assert_eq!(pairs[&name], default.unwrap_or_default(), "{name}");
    }
}

#[test]
fn compose_hands_every_setting_on_and_bounds_every_service() {
    let compose = &yaml("docker-compose.yml")[0];
    let services = compose["services"].as_hash().expect("services");
    let environment = compose["services"]["nxt-mirror"]["environment"].as_vec().expect("a list");
    let name = |entry: &Yaml| entry.as_str().expect("a text").split('=').next().expect("a name").to_owned();
    let handed: BTreeSet<String> = environment.iter().map(name).filter(|name| !name.ends_with("_FILE")).collect();
    // The embedded server is for machines without Compose.
    let expected: BTreeSet<String> = known().into_iter().filter(|name| name != "NXT_DATA_DIR").collect();
    assert_eq!(handed, expected);
    for (service, settings) in services {
        let inherited = &settings["<<"];
        for key in ["logging", "restart"] {
            let has = !settings[key].is_badvalue() || !inherited[key].is_badvalue();
            assert!(has, "{service:?} has no {key}");
        }
    }
    for (service, profile) in
        [("caddy", "tls"), ("backup", "backup"), ("simulator", "demo"), ("nxt-mirror-demo", "demo")]
    {
        assert_eq!(compose["services"][service]["profiles"][0].as_str(), Some(profile));
    }
    let secrets = &yaml("deploy/compose/secrets.yml")[0];
    for secret in Source::secrets() {
        let file = secrets["services"]["nxt-mirror"]["environment"][format!("{secret}_FILE").as_str()].as_str();
        let file = file.and_then(|path| path.strip_prefix("/run/secrets/")).unwrap_or_else(|| panic!("{secret}"));
        assert!(secrets["secrets"][file]["file"].as_str().is_some(), "{file}");
    }
}

#[test]
fn compose_understands_its_file_in_every_profile() {
    let program = match Command::new("docker-compose").arg("version").output() {
        Ok(output) if output.status.success() => "docker-compose",
        _ => return eprintln!("skipped, docker-compose is not installed"),
    };
    for files in [&["docker-compose.yml"][..], &["docker-compose.yml", "deploy/compose/secrets.yml"]] {
        for profile in [None, Some("demo"), Some("tls"), Some("backup")] {
            let mut command = Command::new(program);
            command.current_dir(root()).args(files.iter().flat_map(|file| ["-f", *file]));
            command.args(profile.iter().flat_map(|profile| ["--profile", *profile])).args(["config", "--quiet"]);
            let output = command.output().expect("it runs");
            assert!(output.status.success(), "{files:?} {profile:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn the_manifests_start_both_roles_with_probes_and_known_settings() {
    let mut roles = BTreeSet::new();
    for file in ["receiver", "worker"] {
        for document in yaml(&format!("deploy/kubernetes/{file}.yaml")) {
            if document["kind"].as_str() != Some("Deployment") {
                continue;
            }
            let pod = &document["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            roles.insert(container["args"][2].as_str().expect("a role").to_owned());
            assert_eq!(container["livenessProbe"]["httpGet"]["path"].as_str(), Some("/healthz"), "{file}");
            assert_eq!(container["readinessProbe"]["httpGet"]["path"].as_str(), Some("/readyz"), "{file}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true), "{file}");
            assert_eq!(document["spec"]["selector"]["matchLabels"], document["spec"]["template"]["metadata"]["labels"]);
        }
    }
    assert_eq!(roles, ["receiver", "worker"].map(str::to_owned).into());
    let mut given = BTreeSet::new();
    for (file, key) in [("settings", "data"), ("secret.example", "stringData")] {
        let document = &yaml(&format!("deploy/kubernetes/{file}.yaml"))[0];
        given.extend(
            document[key].as_hash().expect("settings").keys().map(|name| name.as_str().expect("a name").to_owned()),
        );
    }
    assert!(given.is_subset(&known()) && NEEDED.iter().all(|name| given.contains(*name)), "{given:?}");
    for file in yaml("deploy/kubernetes/kustomization.yaml")[0]["resources"].as_vec().expect("resources") {
        assert!(!yaml(&format!("deploy/kubernetes/{}", file.as_str().expect("a file"))).is_empty());
    }
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let unit = read("deploy/systemd/nxt-mirror.service");
    assert!(unit.contains("ExecStart=/usr/bin/nxt-mirror serve"));
    let folder = Scratch::new();
    fs::create_dir_all(&folder.0).unwrap();
    let file = folder.0.join("nxt-mirror.service");
    fs::write(&file, unit.replace("/usr/bin/nxt-mirror", PROGRAM)).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let about_it: Vec<_> = told.lines().filter(|line| line.contains("nxt-mirror.service")).collect();
            assert!(about_it.is_empty(), "{told}");
        }
        Err(error) => eprintln!("skipped, systemd-analyze is not installed: {error}"),
    }
}

/// The lock file is of all packages, so without one of them nothing is built.
#[test]
fn the_image_is_built_of_every_package() {
    let file = read("Dockerfile");
    let packages = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().file_name());
    for package in packages.map(|name| name.into_string().unwrap()) {
        let line = format!("COPY crates/{package}/Cargo.toml crates/{package}/");
        assert!(file.lines().any(|other| other == line), "missing: {line}");
    }
}

#[test]
fn a_release_is_built_for_both_kinds_of_machines() {
    let workflow = &yaml(".github/workflows/release.yml")[0];
    let architectures = |job: &str| -> Vec<String> {
        let matrix = workflow["jobs"][job]["strategy"]["matrix"]["include"].as_vec().expect("a matrix");
        matrix.iter().map(|entry| entry["arch"].as_str().expect("an architecture").to_owned()).collect()
    };
    assert_eq!(architectures("binaries"), ["x86_64", "aarch64"]);
    assert_eq!(architectures("images"), ["amd64", "arm64"]);
    // What the Debian package takes is in the sources, or made by the workflow.
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).expect("the manifest is TOML");
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("assets");
    for asset in assets.iter().map(|asset| asset[0].as_str().expect("a path")) {
        let is_there = root().join(asset).exists() || asset == "docs/*.md" || asset.starts_with("target/");
        assert!(is_there, "{asset}");
    }
}

fn written(folder: &Path, arguments: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(PROGRAM).args(arguments).arg(folder).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    let text =
        |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap());
    files.map(text).collect()
}

#[test]
fn manual_pages_and_completions_know_every_command() {
    let help = Command::new(PROGRAM).arg("--help").output().expect("the program runs");
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = listed
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.contains(&"serve") && !commands.contains(&"man"), "{commands:?}");

    let folder = Scratch::new();
    let pages = written(&folder.0, &["man"]);
    for command in &commands {
        let page =
            pages.get(&format!("nxt-mirror-{command}.1")).unwrap_or_else(|| panic!("{command}: {:?}", pages.keys()));
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(pages["nxt-mirror.1"].contains("PostgreSQL"));
    for (shell, file) in [("bash", "nxt-mirror.bash"), ("zsh", "_nxt-mirror"), ("fish", "nxt-mirror.fish")] {
        let folder = Scratch::new();
        let files = written(&folder.0, &["completions", shell]);
        let script = &files[file];
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
}
