//! The words of the model: labels in the API's languages, and names of values.
//!
//! Names of values follow the API notes as far as those tell them; the rest is made up, as labels are.

use std::collections::BTreeMap;

use super::model::TableDef;

/// The languages, as the API writes them.
pub(crate) const LANGUAGES: [&str; 5] = ["ENGLISH", "NORWEGIAN", "SWEDISH", "DANISH", "FINNISH"];

/// Domains of values: each belongs to the columns of its name.
const DOMAINS: [(&str, &[(i64, &str)]); 6] = [
    ("transactionType", &[(1, "Sales"), (2, "Purchase"), (3, "Production")]),
    ("orderType", &[(1, "Normal"), (2, "Subscription"), (5, "Quote")]),
    ("productType1", &[(0, "None"), (1, "Stocked"), (2, "Service")]),
    ("orgUnit1Processing", &[(0, "Blocked"), (1, "InUse"), (2, "Stop"), (3, "Mandatory")]),
    (
        "orderPreferences",
        &[
            (2, "CreditNote"),
            (4, "BatchInvoice"),
            (8, "JustifyExchangeRates"),
            (16, "ExemptFromInvoiceFee"),
            (256, "GrossOrder"),
        ],
    ),
    ("filter", &[(1, "Insert"), (2, "Update"), (4, "Delete"), (8, "User")]),
];

/// Some Norwegian labels; others are made from the identifier.
const NORWEGIAN: [(&str, &str); 12] = [
    ("Order", "Ordre"),
    ("OrderLine", "Ordrelinje"),
    ("Associate", "Aktør"),
    ("Product", "Produkt"),
    ("orderNo", "Ordrenr."),
    ("orderDate", "Ordredato"),
    ("orderType", "Ordretype"),
    ("customerNo", "Kundenr."),
    ("productNo", "Produktnr."),
    ("name", "Navn"),
    ("description", "Beskrivelse"),
    ("quantity", "Antall"),
];

/// A domain's name, and its values with theirs.
pub(crate) type Domain = (String, Vec<(i64, String)>);

/// What can be learned of words, and changed while it runs.
#[derive(Debug)]
pub(crate) struct Words {
    domains: Vec<Domain>,
    /// Labels that were changed, by `Table` or `Table.column`, in all languages.
    renamed: BTreeMap<String, String>,
    /// Whether the model lists the members of its domains.
    pub(crate) tells_members: bool,
}

impl Default for Words {
    fn default() -> Self {
        let members = |members: &[(i64, &str)]| members.iter().map(|&(value, name)| (value, name.to_owned())).collect();
        let domains = DOMAINS.iter().map(|&(name, own)| (name.to_owned(), members(own))).collect();
        Self { domains, renamed: BTreeMap::new(), tells_members: false }
    }
}

impl Words {
    /// The label of a table or of a column of it.
    pub(crate) fn label(&self, table: &TableDef, column: Option<&str>, language: &str) -> String {
        let place = column.map_or_else(|| table.name.clone(), |column| format!("{}.{column}", table.name));
        if let Some(renamed) = self.renamed.get(&place) {
            return renamed.clone();
        }
        let identifier = column.unwrap_or(&table.name);
        let plain = in_words(identifier);
        match language {
            "ENGLISH" => plain,
            "NORWEGIAN" => {
                let known = NORWEGIAN.iter().find(|(own, _)| *own == identifier).map(|(_, label)| (*label).to_owned());
                known.unwrap_or_else(|| format!("{plain} (norsk)"))
            }
            other => format!("{plain} ({})", other.to_lowercase()),
        }
    }

    pub(crate) fn rename(&mut self, table: &str, column: Option<&str>, label: &str) {
        let place = column.map_or_else(|| table.to_owned(), |column| format!("{table}.{column}"));
        self.renamed.insert(place, label.to_owned());
    }

    /// All domains with their members, in the order of their numbers, which begin with 1.
    pub(crate) fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// The number and the members of the domain of a column.
    pub(crate) fn domain(&self, column: &str) -> Option<(usize, &[(i64, String)])> {
        let found = self.domains.iter().position(|(name, _)| name == column)?;
        Some((found + 1, &self.domains[found].1))
    }

    /// The names of a value: its own, or those of its bits.
    pub(crate) fn names(&self, column: &str, value: i64, is_flags: bool) -> Vec<String> {
        let members = self.domain(column).map_or(&[][..], |(_, members)| members);
        let is_meant = |member: &i64| if is_flags { value & member != 0 } else { value == *member };
        members.iter().filter(|(member, _)| is_meant(member)).map(|(_, name)| name.clone()).collect()
    }

    /// Gives a value a name.
    pub(crate) fn add_member(&mut self, column: &str, value: i64, name: &str) {
        match self.domains.iter_mut().find(|(own, _)| own == column) {
            Some((_, members)) => members.push((value, name.to_owned())),
            None => self.domains.push((column.to_owned(), vec![(value, name.to_owned())])),
        }
    }
}

/// `orderNo` → `Order no`
fn in_words(identifier: &str) -> String {
    let mut words = String::new();
    for character in identifier.chars() {
        match character {
            _ if words.is_empty() => words.extend(character.to_uppercase()),
            upper if upper.is_uppercase() => {
                words.push(' ');
                words.extend(upper.to_lowercase());
            }
            other => words.push(other),
        }
    }
    words
}
