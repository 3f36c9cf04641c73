//! Names: which are well formed, and how a source name becomes a SQL name.
//!
//! A column is called as [`snake_case`] says, with three exceptions. A name that begins with an underscore gets
//! `source` before it. One that PostgreSQL keeps for itself gets an underscore behind it. And of several columns that
//! would have one name, the first one keeps it, and each other gets a suffix made from its own name alone. The first
//! one is the one that is mirrored already, else the first in alphabetical order; so that names stay as they are,
//! whatever comes later.

use std::collections::HashSet;

/// Length of an identifier of the source; its longest published ones are near 50.
const NAME_LENGTH_MAX: usize = 128;
/// Bytes of a PostgreSQL identifier (`NAMEDATALEN` less one).
const SQL_NAME_BYTES_MAX: usize = 63;
/// Columns that every table of PostgreSQL has without showing them.
const SYSTEM_COLUMNS: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];
/// Bytes of the suffix that keeps columns apart.
const SUFFIX_BYTES: usize = 9;

/// Whether a text can be a table or column identifier at all: an ASCII letter or underscore, then letters, digits and
/// underscores. Says nothing of whether the source knows it.
pub fn is_well_formed(name: &str) -> bool {
    name.len() <= NAME_LENGTH_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `OrderLine` → `order_line`, `orgUnit1Name` → `org_unit1_name`: an underscore before each capital that follows a
/// lower-case letter or digit.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 8);
    let mut previous = None;
    for character in name.chars() {
        let boundary = previous.is_some_and(|p: char| p.is_ascii_lowercase() || p.is_ascii_digit());
        if character.is_ascii_uppercase() && boundary {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
        previous = Some(character);
    }
    shorten(snake)
}

/// The SQL name of a source column, if no other column of its table has it: [`snake_case`], kept clear of the
/// bookkeeping columns' leading underscore and of PostgreSQL's own columns.
pub fn column_name(name: &str) -> String {
    let snake = snake_case(name);
    if snake.starts_with('_') {
        shorten(format!("source{snake}"))
    } else if SYSTEM_COLUMNS.contains(&snake.as_str()) {
        format!("{snake}_")
    } else {
        snake
    }
}

/// The SQL names of all columns of one table, in their order. `known` tells the names of those that are mirrored
/// already.
pub fn column_names<'a>(columns: &[&str], known: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
    let mut names: Vec<Option<String>> = columns.iter().map(|column| known(column).map(str::to_owned)).collect();
    let mut taken: HashSet<String> = names.iter().flatten().cloned().collect();
    let mut order: Vec<usize> = (0..columns.len()).filter(|&index| names[index].is_none()).collect();
    order.sort_by_key(|&index| columns[index]);
    for index in order {
        let mut name = column_name(columns[index]);
        if taken.contains(&name) {
            let suffix = fingerprint(columns[index]) as u32;
            name.truncate(SQL_NAME_BYTES_MAX - SUFFIX_BYTES);
            name = format!("{name}_{suffix:08x}");
        }
        // The same name twice, or one that ends as another one's suffix.
        while taken.contains(&name) {
            name = shorten(format!("{name}_"));
        }
        taken.insert(name.clone());
        names[index] = Some(name);
    }
    names.into_iter().flatten().collect()
}

/// The name of the function that returns a table's rows of a moment.
pub fn as_of_name(sql_name: &str) -> String {
    with_ending(sql_name, "_as_of")
}

/// Whether two names are one, by any of the forms in which people write names of the source.
pub fn is_same_name(one: &str, other: &str) -> bool {
    folded(one) == folded(other)
}

/// A name with something behind it, cut so that PostgreSQL does not.
pub fn with_ending(name: &str, ending: &str) -> String {
    shorten(format!("{name}{ending}"))
}

/// The name, or one with underscores behind it if it is taken; from here on it is.
pub fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let mut name = name.to_owned();
    while taken.contains(&name) {
        name = with_ending(&name, "_");
    }
    taken.insert(name.clone());
    name
}

/// Cuts a name that PostgreSQL would cut, but so that two long names stay two.
fn shorten(name: String) -> String {
    if name.len() <= SQL_NAME_BYTES_MAX {
        return name;
    }
    format!("{}_{:016x}", &name[..SQL_NAME_BYTES_MAX - 17], fingerprint(&name))
}

/// A number that tells a text from nearly all others. FNV-1a: stable between builds, which the standard hasher does not
/// promise.
pub(super) fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One text for a name in any of the forms in which people write names of the source: `OrderLine`, `orderLine`,
/// `order_line`.
pub fn folded(name: &str) -> String {
    name.chars().filter(|&character| character != '_').map(|character| character.to_ascii_lowercase()).collect()
}

/// `OrderLine` → `orderLine`, the way GraphQL fields are named after tables.
pub fn camel_case(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// `orderLine` → `OrderLine`.
pub fn pascal_case(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_s_examples() {
        for (source, sql) in [
            ("OrderLine", "order_line"),
            ("orgUnit1Name", "org_unit1_name"),
            ("generalLedgerAccount", "general_ledger_account"),
            ("Order", "order"),
            ("OrgUnit12", "org_unit12"),
            ("changeTimeInMs", "change_time_in_ms"),
            ("ABTest", "abtest"),
        ] {
            assert_eq!(snake_case(source), sql);
        }
    }

    #[test]
    fn long_names_fit_and_stay_apart() {
        let long = |end: &str| snake_case(&format!("{}{end}", "veryLongColumnName".repeat(6)));
        assert!(long("A").len() <= SQL_NAME_BYTES_MAX);
        assert_ne!(long("A"), long("B"));
    }

    #[test]
    fn a_source_column_cannot_take_a_bookkeeping_name() {
        assert_eq!(column_name("_fetchedAt"), "source_fetched_at");
    }

    #[test]
    fn a_source_column_cannot_take_a_name_of_postgresql_s_own() {
        for name in SYSTEM_COLUMNS {
            assert_eq!(column_name(name), format!("{name}_"));
            assert_eq!(column_name(&name.to_uppercase()), format!("{name}_"));
        }
        assert_eq!(column_name("oid"), "oid");
    }

    fn names(columns: &[&str]) -> Vec<String> {
        column_names(columns, |_| None)
    }

    #[test]
    fn columns_that_fold_to_one_name_are_kept_apart_whatever_their_order() {
        assert_eq!(names(&["no", "aB", "a_b", "A_B"]), ["no", "a_b_b545620a", "a_b_04f4ad51", "a_b"]);
        let forwards = names(&["aB", "a_b", "A_B"]);
        let backwards = names(&["A_B", "a_b", "aB"]);
        assert_eq!(forwards, backwards.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(names(&["xmin", "xmin_"])[0], "xmin_");
    }

    #[test]
    fn a_column_that_comes_later_takes_no_name_from_a_known_one() {
        let known = |column: &str| (column == "aB").then_some("a_b");
        let names = column_names(&["A_B", "aB"], known);
        assert_eq!(names[1], "a_b");
        assert!(names[0].starts_with("a_b_"), "{names:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_columns_have_names_that_fit_and_differ(
            columns in proptest::collection::vec("[aAbB_]{1,4}|[aA_]{60,70}|xmin_?|ctid", 0..20),
            known in proptest::option::of("[ab_]{1,4}"),
        ) {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let first = columns.first().copied();
            let is_first = |column: &str| Some(column) == first && columns.iter().filter(|own| **own == column).count() == 1;
            let names = column_names(&columns, |column| known.as_deref().filter(|_| is_first(column)));
            let distinct: HashSet<&String> = names.iter().collect();
            proptest::prop_assert_eq!(names.len(), columns.len());
            proptest::prop_assert_eq!(distinct.len(), names.len());
            proptest::prop_assert!(names.iter().all(|name| name.len() <= SQL_NAME_BYTES_MAX));
            proptest::prop_assert!(names.iter().all(|name| !SYSTEM_COLUMNS.contains(&name.as_str())));
        }
    }

    #[test]
    fn names_with_anything_but_letters_digits_and_underscores_are_malformed() {
        for name in ["", "1a", "a b", "a\"b", "a;b", "æ", "a-b", &"x".repeat(129)] {
            assert!(!is_well_formed(name), "{name:?}");
        }
        assert!(is_well_formed("OrgUnit12"));
    }
}
