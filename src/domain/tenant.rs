//! Whose row it is.

use std::fmt;

use serde::Serialize;

use super::table::TableLevel;

/// A company, or a customer for the few tables that belong to no company.
///
/// The numbers are Visma.net's, as in `companyNo` and `customerNo` of a webhook body. A tenant is known by its
/// company, and by its customer only when the company number is 0 (webhook documentation, 2025-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", content = "no", rename_all = "lowercase")]
pub enum Tenant {
    /// Visma.net company number.
    Company(i64),
    /// Visma.net customer number.
    Customer(i64),
}

impl Tenant {
    /// The tenant a webhook body names; `None` when both numbers are 0.
    pub fn from_numbers(company_no: i64, customer_no: i64) -> Option<Self> {
        match (company_no, customer_no) {
            (0, 0) => None,
            (0, customer) => Some(Self::Customer(customer)),
            (company, _) => Some(Self::Company(company)),
        }
    }

    /// Rebuilds what [`Tenant::kind`] and [`Tenant::number`] took apart; `None` for an unknown kind.
    pub fn from_parts(kind: &str, number: i64) -> Option<Self> {
        match kind {
            "company" => Some(Self::Company(number)),
            "customer" => Some(Self::Customer(number)),
            _ => None,
        }
    }

    /// The tenant of a company's or a customer's number, of which one is given at most.
    pub fn from_columns(company_no: Option<i64>, customer_no: Option<i64>) -> Option<Self> {
        company_no.map(Self::Company).or(customer_no.map(Self::Customer))
    }

    /// A company's and a customer's number, one of them.
    pub fn columns(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::Company(number) => (Some(number), None),
            Self::Customer(number) => (None, Some(number)),
        }
    }

    /// `company` or `customer`, as stored.
    pub fn kind(self) -> &'static str {
        self.level().name()
    }

    /// The number alone.
    pub fn number(self) -> i64 {
        match self {
            Self::Company(number) | Self::Customer(number) => number,
        }
    }

    /// The level of the tables this tenant can have.
    pub fn level(self) -> TableLevel {
        match self {
            Self::Company(_) => TableLevel::Company,
            Self::Customer(_) => TableLevel::Customer,
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_company_counts_and_the_customer_only_without_one() {
        assert_eq!(Tenant::from_numbers(2, 1), Some(Tenant::Company(2)));
        assert_eq!(Tenant::from_numbers(0, 1), Some(Tenant::Customer(1)));
        assert_eq!(Tenant::from_numbers(0, 0), None);
    }
}
