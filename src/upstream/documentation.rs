//! What the descriptions of tables, columns and joins tell of the source's own model.
//!
//! The wording is known from 2022 (API notes, introspection) and was changed later: numbers and quoted names are looked
//! for wherever they stand, and what is not found is not known.

use crate::domain::{Join, JoinEnd, Origin, TableName};

/// `Table "Actor" (152).`, or `[PK] Column "ActNo" (4028) / Model.Column.ActorNo.`
pub(super) fn origin(description: &str) -> Origin {
    let mut found = Origin::default();
    let mut rest = description;
    while let Some((sql_name, behind)) = quoted(rest) {
        if let Some((number, _)) = number_in_brackets(behind) {
            return Origin { number: Some(number), sql_name: Some(sql_name.to_owned()) };
        }
        found.sql_name.get_or_insert_with(|| sql_name.to_owned());
        rest = behind;
    }
    Origin { number: told_number(description), ..found }
}

/// `column number 4028`, `table 152`
fn told_number(description: &str) -> Option<i64> {
    let mut words = description.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut before = "";
    words.find_map(|word| {
        let is_told = matches!(before.to_ascii_lowercase().as_str(), "number" | "no" | "column" | "table");
        before = word;
        word.parse().ok().filter(|_| is_told)
    })
}

/// `A one-to-one relation, "Country" (678), from "Associate" (table "Actor" (152), columns {Ctry, 4036}) to "Country"
/// (table "Ctry" (29), columns {CtryNo, 549}).`
///
/// Of the join of many rows with one, `from` is the table of the many; where one row is joined with many, the relation is
/// told the other way round.
pub(super) fn join(field: &str, description: &str) -> Option<Join> {
    let is_down = field.starts_with("joindown_");
    if !is_down && !field.starts_with("joinup_") {
        return None;
    }
    let name = quoted(description).map(|(name, _)| name.to_owned())?;
    let (_, ends) = description.split_once(" from \"")?;
    let (from, to) = ends.split_once(" to \"")?;
    let (from, to) = (end(from)?, end(to)?);
    if from.columns.len() != to.columns.len() {
        return None;
    }
    Some(if is_down { Join { name, from: to, to: from } } else { Join { name, from, to } })
}

/// `Associate" (table "Actor" (152), columns {Ctry, 4036})`
fn end(text: &str) -> Option<JoinEnd> {
    let (table, rest) = text.split_once('"')?;
    let (_, columns) = rest.split_once("columns")?;
    let columns = columns_in_braces(columns);
    let is_known = !columns.is_empty() && columns.iter().all(|column| *column != Origin::default());
    let table = TableName::new(table).ok()?;
    is_known.then_some(JoinEnd { table, columns })
}

/// `{OrdNo, 12}, {LnNo, 13}` as well as `{OrdNo, 12, LnNo, 13}`
fn columns_in_braces(text: &str) -> Vec<Origin> {
    let inside = text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    let words = inside.flat_map(|inside| inside.split([',', ';'])).map(|word| word.trim().trim_matches('"'));
    let mut columns: Vec<Origin> = vec![];
    for word in words.filter(|word| !word.is_empty()) {
        match (word.parse().ok(), columns.last_mut()) {
            (Some(number), Some(last)) if last.number.is_none() => last.number = Some(number),
            (Some(number), _) => columns.push(Origin { number: Some(number), sql_name: None }),
            (None, _) => columns.push(Origin { number: None, sql_name: Some(word.to_owned()) }),
        }
    }
    columns
}

/// The first text between quotation marks, and what stands behind it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.split_once('"')?.1.split_once('"').filter(|(name, _)| !name.is_empty())
}

/// ` (152)` at the beginning of a text, and what stands behind it.
fn number_in_brackets(text: &str) -> Option<(i64, &str)> {
    let (number, rest) = text.trim_start().strip_prefix('(')?.split_once(')')?;
    Some((number.trim().parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(sql_name: &str, number: i64) -> Origin {
        Origin { number: Some(number), sql_name: Some(sql_name.to_owned()) }
    }

    #[test]
    fn numbers_and_sql_names_are_found_wherever_they_stand() {
        assert_eq!(origin("Table \"Actor\" (152)."), known("Actor", 152));
        assert_eq!(origin("[PK] Column \"ActNo\" (4028) / Model.Column.ActorNo."), known("ActNo", 4028));
        assert_eq!(origin("The \"number\" of the actor, column \"ActNo\" (4028)"), known("ActNo", 4028));
        assert_eq!(origin("Column \"ActNo\"."), Origin { number: None, sql_name: Some("ActNo".into()) });
        assert_eq!(
            origin("ActNo, column number 4028, SQL name \"ActNo\". It is part of the primary key."),
            known("ActNo", 4028)
        );
        assert_eq!(origin("ActNo (column 4028, SQL name \"ActNo\", primary key 1)."), known("ActNo", 4028));
        assert_eq!(origin("One of the 12 actors"), Origin::default());
        assert_eq!(origin("\"\" (1) \"unclosed"), Origin::default());
    }

    #[test]
    fn a_relation_is_told_from_the_many_to_the_one() {
        let text = "A one-to-one relation, \"Country\" (678), from \"Associate\" (table \"Actor\" (152), columns {Ctry, 4036}) \
                    to \"Country\" (table \"Ctry\" (29), columns {CtryNo, 549}).";
        let found = join("joinup_Country", text).unwrap();
        assert_eq!(
            (found.name.as_str(), found.from.table.as_str(), found.to.table.as_str()),
            ("Country", "Associate", "Country")
        );
        assert_eq!((found.from.columns, found.to.columns), (vec![known("Ctry", 4036)], vec![known("CtryNo", 549)]));
        let down = join("joindown_Associate_via_Country", text).unwrap();
        assert_eq!((down.from.table.as_str(), down.to.table.as_str()), ("Country", "Associate"));
    }

    #[test]
    fn several_columns_are_read_in_both_forms() {
        let both = vec![known("OrdNo", 12), known("LnNo", 13)];
        assert_eq!(columns_in_braces(" {OrdNo, 12}, {LnNo, 13})"), both);
        assert_eq!(columns_in_braces(" {OrdNo, 12, LnNo, 13})"), both);
        assert_eq!(columns_in_braces(" {12; 13}").len(), 2);
        assert!(columns_in_braces("none").is_empty());
    }

    #[test]
    fn what_is_no_relation_is_none() {
        for text in [
            "",
            "A relation.",
            "A relation, \"X\", from \"A\" (columns {a, 1}) to \"B\" (columns {}).",
            "A relation, \"X\", from \"A\" (columns {a, 1}) to \"B\" (columns {b, 2, c, 3}).",
        ] {
            assert_eq!(join("joinup_X", text), None, "{text}");
        }
        assert_eq!(
            join("orderNo", "A relation, \"X\" (1), from \"A\" (columns {a, 1}) to \"B\" (columns {b, 2})."),
            None
        );
    }
}
