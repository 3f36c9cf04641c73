//! What strangers' bytes reach first, as functions of bytes alone: for the fuzz targets in `fuzz/`, and for a test that
//! feeds them the same corpus, cut and spliced, on every run.

use std::{collections::HashSet, sync::Arc};

use actix_web::web::Bytes;

use crate::{
    domain::{Column, ColumnType, TableSpec, naming},
    mirror, upstream, webhook,
};

/// A webhook's body: understood or refused, and what is understood has a name that can be a table's and a key.
pub fn body(input: &[u8]) {
    if let Ok(payload) = webhook::understand(input) {
        assert!(naming::is_well_formed(payload.event.row.table.as_str()));
        assert!(!payload.event.row.key.canonical().is_empty());
    }
}

/// A signature header: never right without the key.
pub fn signature(input: &[u8]) {
    let secrets = webhook::SigningSecrets::new(&["a key that the input does not know".into()]);
    assert!(!secrets.is_signed(Bytes::from_static(b"a body"), Some(input)));
}

/// An answer of the API: rows as asked for, or an error.
pub fn answer(input: &[u8]) {
    let column = Column::new;
    let table = Arc::new(TableSpec {
        columns: vec![
            column("orderNo", ColumnType::Integer),
            column("lineNo", ColumnType::Integer),
            column("name", ColumnType::Text),
            column("amount", ColumnType::Numeric),
            column("changedTimestamp", ColumnType::TimestampTz),
        ],
        key: vec![0, 1],
        ..TableSpec::plain("OrderLine", &[])
    });
    for row in upstream::read_answer(input, &table).into_iter().flatten() {
        assert_eq!(row.values.len(), table.columns.len());
        assert_eq!(row.key.values().len(), 2);
    }
}

/// A token answer: a token, or a reason that repeats nothing of it but what OAuth calls an error.
pub fn token(input: &[u8]) {
    if let Err(reason) = upstream::read_token(input) {
        assert!(!reason.is_empty() && reason.chars().count() <= 500, "{reason}");
    }
}

/// A description: a table whose columns have names of their own and a key, or nothing.
pub fn description(input: &[u8]) {
    let Some(table) = upstream::read_description(input) else { return };
    let names: HashSet<&str> = table.columns.iter().map(|column| column.sql_name.as_str()).collect();
    assert_eq!(names.len(), table.columns.len(), "two columns of one name");
    assert!(table.columns.iter().all(|column| naming::is_well_formed(&column.name) && column.sql_name.len() <= 63));
    assert!(!table.key.is_empty() && table.key.iter().all(|&index| index < table.columns.len()));
}

/// A name on its way into SQL: one quoted identifier, whatever it holds.
pub fn identifier(input: &[u8]) {
    let name = String::from_utf8_lossy(input).replace('\0', "");
    let quoted = mirror::quote(&name);
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("quotes at both ends");
    assert!(!inner.replace("\"\"", "").contains('"'), "{quoted} ends early");
    assert_eq!(inner.replace("\"\"", "\""), name);
    if naming::is_well_formed(&name) {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        time::{Duration, Instant},
    };

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// Mutations that each target is given on every run.
    const EXECUTIONS_MIN: u64 = 5_000;

    /// Cuts, splices and flips.
    fn mutate(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut one = seeds[random.random_range(0..seeds.len())].clone();
        let other = &seeds[random.random_range(0..seeds.len())];
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..=one.len());
            match random.random_range(0..5) {
                0 => one.truncate(at),
                1 => one.extend_from_slice(&other[random.random_range(0..=other.len())..]),
                2 => one.insert(at, random.random()),
                3 => one.insert(at, b"\"\\{}[]:,.0-9eE\n"[random.random_range(0..15)]),
                _ if at < one.len() => one[at] ^= 1 << random.random_range(0..8),
                _ => {}
            }
        }
        one
    }

    /// `NXT_FUZZ_SECONDS=600 cargo test --release --lib fuzzing -- --nocapture` goes on for so long with each target, from
    /// `NXT_FUZZ_SEED` on.
    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|text| text.parse().expect("a number"))
    }

    #[test]
    fn strangers_bytes_break_nothing() {
        let mut random = StdRng::seed_from_u64(number("NXT_FUZZ_SEED").unwrap_or(7));
        let time = Duration::from_secs(number("NXT_FUZZ_SECONDS").unwrap_or(0));
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 6] = [
            ("body", body),
            ("signature", signature),
            ("answer", answer),
            ("token", token),
            ("description", description),
            ("identifier", identifier),
        ];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let seeds: Vec<Vec<u8>> = files.map(|path| fs::read(path).unwrap()).collect();
            assert!(!seeds.is_empty(), "{name} has no corpus");
            seeds.iter().for_each(|seed| target(seed));
            let (begin, mut executions) = (Instant::now(), 0_u64);
            while executions < EXECUTIONS_MIN || begin.elapsed() < time {
                let input = mutate(&mut random, &seeds);
                executions += 1;
                if std::panic::catch_unwind(|| target(&input)).is_err() {
                    panic!("{name} fails for {:?}", String::from_utf8_lossy(&input));
                }
            }
            say!("{name}: {executions} executions");
        }
    }
}
