//! `docs/architecture.md` says who may import whom, and which SQL statements are checked when they are compiled. The code
//! keeps to it. So do the documents to the names of tests and modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What every module may use.
const COMMON: [&str; 2] = ["telemetry", "failpoint"];
/// Modules that put the others together.
const TOP: [&str; 5] = ["app", "cli", "commands", "demo", "main"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The modules of the map, and what each may import.
fn map() -> BTreeMap<String, BTreeSet<String>> {
    let document = fs::read_to_string(root().join("docs/architecture.md")).expect("the document is there");
    let table = document.split("## The map").nth(1).expect("it has a map");
    let rows = table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut map = BTreeMap::new();
    for row in rows.skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [modules, _, imports] = cells.as_slice() else { panic!("not three columns: {row}") };
        for module in quoted(modules) {
            map.insert(module, quoted(imports).into_iter().collect());
        }
    }
    map
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module of the crate that a file belongs to.
fn module(file: &Path) -> String {
    let path = file.strip_prefix(root().join("src")).expect("a file of src");
    let first = path.components().next().expect("a name").as_os_str().to_str().expect("a plain name");
    first.trim_end_matches(".rs").to_owned()
}

/// Modules of the crate that a text names, alone or in braces.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut is_start) = (1, true);
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => is_start = true,
                _ if depth == 1 && is_start && !character.is_whitespace() => {
                    found.insert(name(&list[at..]));
                    is_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn modules_import_what_the_map_allows_and_nothing_else() {
    let map = map();
    let mut found = vec![];
    files(&root().join("src"), &mut found);
    let mut wrong = BTreeSet::new();
    for file in found {
        let own = module(&file);
        if own == "lib" || TOP.contains(&own.as_str()) {
            continue;
        }
        let allowed = map.get(&own).unwrap_or_else(|| panic!("{own} is not in the map"));
        let code: String = fs::read_to_string(&file)
            .expect("the file can be read")
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let strangers = imports(&code).into_iter().filter(|import| {
            *import != own
                && map.contains_key(import)
                && !allowed.contains(import)
                && !COMMON.contains(&import.as_str())
        });
        wrong.extend(strangers.map(|import| format!("{own} imports {import}")));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The literals that are given to sqlx unchecked.
fn unchecked_statements(code: &str) -> Vec<&str> {
    let calls = code.split("sqlx::query").skip(1).filter(|rest| !rest.split('(').next().unwrap_or("").ends_with('!'));
    let arguments = calls.filter_map(|rest| Some(rest.split_once('(')?.1.trim_start()));
    arguments.filter_map(|rest| rest.strip_prefix("r#").unwrap_or(rest).strip_prefix('"')?.split('"').next()).collect()
}

#[test]
fn statements_on_the_daemons_own_tables_are_checked_by_the_compiler() {
    let mut found = vec![];
    files(&root().join("src"), &mut found);
    let mut unchecked = vec![];
    for file in found {
        let code = fs::read_to_string(&file).expect("the file can be read");
        let own = unchecked_statements(&code).into_iter().filter(|statement| statement.contains("nxt_mirror."));
        unchecked.extend(own.map(|statement| format!("{}: {statement}", file.display())));
    }
    assert!(unchecked.is_empty(), "{unchecked:#?}");
}

#[test]
fn unchecked_statements_are_seen_in_every_form() {
    let text =
        "sqlx::query_scalar::<_, i32>(\n  \"a\").bind(1); sqlx::query!(\"b\"); sqlx::query(r#\"c\"#); sqlx::query(D);
                sqlx::query_as!(E, \"f\")";
    assert_eq!(unchecked_statements(text), ["a", "c"]);
}

#[test]
fn imports_are_seen_in_every_form() {
    let text = "use crate::queue;\nuse crate::{\n    domain::{Row, Time},\n    mirror,\n};\nlet x = crate::walk::y();";
    let expected = ["domain", "mirror", "queue", "walk"].map(str::to_owned);
    assert_eq!(imports(text), BTreeSet::from(expected));
}

#[test]
fn tests_and_modules_that_documents_name_are_there() {
    let mut sources = vec![];
    for folder in ["src", "tests", "crates"] {
        files(&root().join(folder), &mut sources);
    }
    let code: String = sources.iter().map(|file| fs::read_to_string(file).expect("a readable file")).collect();
    let defined: BTreeSet<&str> =
        code.split_whitespace().map(|word| word.split(['(', '<', ';']).next().unwrap_or(word)).collect();
    let is_path = |name: &str| {
        name.contains("::") && name.chars().all(|letter| letter.is_ascii_lowercase() || "_:".contains(letter))
    };
    let mut named = 0;
    for document in fs::read_dir(root().join("docs")).expect("the folder can be read") {
        let path = document.expect("an entry").path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for name in quoted(&text).iter().filter(|name| is_path(name)) {
            let last = name.rsplit("::").next().expect("a last part");
            assert!(defined.contains(last), "{}: `{name}` is nowhere", path.display());
            named += 1;
        }
    }
    assert!(named > 100, "only {named} names were found");
}
