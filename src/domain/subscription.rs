//! Webhook subscriptions: which changes the source sends notifications of.

use super::{TableName, Tenant};

/// Bits of a subscription's filter and what each keeps back (webhook documentation, filtering).
const WITHHELD: [(i64, &str); 4] =
    [(1, "INSERT"), (2, "UPDATE"), (4, "DELETE"), (8, "changes by the application's own user")];

/// Which table a subscription is of, as its row tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscribedTable {
    /// By its number.
    Number(i64),
    /// By its identifier.
    Name(String),
}

/// A table that the source can be asked to send notifications of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedTable {
    /// Its identifier.
    pub name: TableName,
    /// Its number, where the API tells it.
    pub number: Option<i64>,
}

/// One row of `WebhookSubscription`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Of which company; 0 for tables that belong to none.
    pub company_no: i64,
    /// Of which table.
    pub table: SubscribedTable,
    /// Bits of the events that are kept back; 0 for none.
    pub withheld: i64,
    /// Whether a JSONPath selects what is sent.
    pub has_path: bool,
}

/// Whether the source sends notifications of a tenant's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// All of them.
    All,
    /// Some, and what is kept back.
    Filtered(String),
    /// None: there is no subscription.
    None,
}

/// What these subscriptions come to. What one keeps back another may send.
pub fn delivery(subscriptions: &[Subscription], tenant: Tenant, table: &NumberedTable) -> Delivery {
    let own: Vec<_> = subscriptions.iter().filter(|subscription| subscription.is_of(tenant, table)).collect();
    let withheld = own.iter().filter(|subscription| !subscription.has_path).map(|subscription| subscription.withheld);
    match withheld.reduce(|one, other| one & other) {
        Some(0) => Delivery::All,
        Some(bits) => Delivery::Filtered(format!("{} kept back by its filter", names(bits))),
        None if own.is_empty() => Delivery::None,
        None => Delivery::Filtered("all but what its JSONPath selects is kept back".into()),
    }
}

impl Subscription {
    fn is_of(&self, tenant: Tenant, table: &NumberedTable) -> bool {
        let is_table = match &self.table {
            SubscribedTable::Number(number) => table.number == Some(*number),
            SubscribedTable::Name(name) => name.eq_ignore_ascii_case(table.name.as_str()),
        };
        let company_no = match tenant {
            Tenant::Company(number) => number,
            Tenant::Customer(_) => 0,
        };
        is_table && self.company_no == company_no
    }
}

fn names(bits: i64) -> String {
    let known = WITHHELD.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned());
    let others = bits & !WITHHELD.iter().fold(0, |all, (bit, _)| all | bit);
    let others = (others != 0).then(|| format!("what the bits {others} stand for"));
    known.chain(others).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(withheld: i64, has_path: bool) -> Subscription {
        Subscription { company_no: 7, table: SubscribedTable::Number(127), withheld, has_path }
    }

    fn told(subscriptions: &[Subscription]) -> Delivery {
        let order = NumberedTable { name: TableName::new("Order").unwrap(), number: Some(127) };
        delivery(subscriptions, Tenant::Company(7), &order)
    }

    #[test]
    fn one_subscription_without_a_filter_is_enough() {
        assert_eq!(told(&[subscription(0, false)]), Delivery::All);
        assert_eq!(told(&[subscription(5, false), subscription(0, true), subscription(0, false)]), Delivery::All);
    }

    #[test]
    fn what_one_keeps_back_another_may_send() {
        assert_eq!(told(&[subscription(3, false), subscription(4, false)]), Delivery::All);
        let Delivery::Filtered(what) = told(&[subscription(7, false), subscription(4 + 16, false)]) else {
            panic!("not filtered")
        };
        assert_eq!(what, "DELETE kept back by its filter");
    }

    #[test]
    fn every_filter_is_told() {
        for (withheld, has_path, words) in
            [(1, false, "INSERT"), (8, false, "own user"), (32, false, "bits 32"), (0, true, "JSONPath")]
        {
            let told = told(&[subscription(withheld, has_path)]);
            assert!(matches!(&told, Delivery::Filtered(what) if what.contains(words)), "{told:?}");
        }
    }

    #[test]
    fn other_companies_and_tables_do_not_count() {
        let other_company = Subscription { company_no: 8, ..subscription(0, false) };
        let other_table = Subscription { table: SubscribedTable::Number(128), ..subscription(0, false) };
        assert_eq!(told(&[other_company, other_table]), Delivery::None);
        let by_name = Subscription { table: SubscribedTable::Name("order".into()), ..subscription(0, false) };
        assert_eq!(told(&[by_name]), Delivery::All);
    }
}
