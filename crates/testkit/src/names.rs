//! The rule by which names of the source become names of tables and columns, written from the contract a second time.

/// Longer names are cut by the daemon in a way of its own, which the contract does not promise.
const LENGTH_MAX: usize = 63;

/// `OrderLine` → `order_line`: a word begins at each capital that follows a small letter or a digit.
///
/// # Panics
/// For a name that is too long to be compared.
pub(crate) fn snake_case(name: &str) -> String {
    let bytes = name.as_bytes();
    let begins = |at: usize| {
        bytes[at].is_ascii_uppercase() && (bytes[at - 1].is_ascii_lowercase() || bytes[at - 1].is_ascii_digit())
    };
    let mut words = vec![];
    let mut start = 0;
    for end in (1..bytes.len()).filter(|&at| begins(at)).chain([bytes.len()]) {
        words.push(name[start..end].to_ascii_lowercase());
        start = end;
    }
    let snake = words.join("_");
    assert!(snake.len() <= LENGTH_MAX, "{name} is too long to be compared");
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_users_were_told() {
        for (source, sql) in [
            ("", ""),
            ("Order", "order"),
            ("OrderLine", "order_line"),
            ("orderNo", "order_no"),
            ("changedTimestamp", "changed_timestamp"),
            ("amountDomestic", "amount_domestic"),
            ("orgUnit1Name", "org_unit1_name"),
            ("OrgUnit12", "org_unit12"),
            ("FreeInformation1", "free_information1"),
            ("ABTest", "abtest"),
            ("changeTimeInMs", "change_time_in_ms"),
        ] {
            assert_eq!(snake_case(source), sql);
        }
    }
}
