//! Names: which are well formed, and how a source name becomes a SQL name.

/// Length of an identifier of the source; its longest published ones are near 50.
const NAME_LENGTH_MAX: usize = 128;
/// Bytes of a PostgreSQL identifier (`NAMEDATALEN` less one).
const SQL_NAME_BYTES_MAX: usize = 63;

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

/// The SQL name of a source column: [`snake_case`], kept clear of the bookkeeping columns' leading underscore.
pub fn column_name(name: &str) -> String {
    let snake = snake_case(name);
    if snake.starts_with('_') { shorten(format!("source{snake}")) } else { snake }
}

/// Cuts a name that PostgreSQL would cut, but so that two long names stay two.
fn shorten(name: String) -> String {
    if name.len() <= SQL_NAME_BYTES_MAX {
        return name;
    }
    // FNV-1a: stable between builds, which the standard hasher does not promise.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}_{hash:016x}", &name[..SQL_NAME_BYTES_MAX - 17])
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
    fn names_with_anything_but_letters_digits_and_underscores_are_malformed() {
        for name in ["", "1a", "a b", "a\"b", "a;b", "æ", "a-b", &"x".repeat(129)] {
            assert!(!is_well_formed(name), "{name:?}");
        }
        assert!(is_well_formed("OrgUnit12"));
    }
}
