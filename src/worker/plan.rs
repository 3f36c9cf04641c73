//! Which rows travel together.
//!
//! Rows that have failed before travel in ever smaller company, half as many after each failure, until the culprit
//! is alone; the rows that only stood beside it are settled on the way. Rows of several tenants share a request when
//! neither fills one, unless a tenant is known to be slow, or so few rows and tenants have changed that each may as well
//! have its own: then not even the first slow answer of one holds up another.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::Tenant;

/// What the plan needs to know of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) tenant: Tenant,
    pub(super) attempts: u32,
    /// Whether its table or tenant could not be read the last time, so that others had better not travel with it.
    pub(super) is_of_failed_lane: bool,
}

/// Tenants that may each have a request of their own, when there is room in the budget.
const APART_MAX: usize = 4;

/// Whether these rows are few enough, of few enough tenants, to let each tenant have its own request.
pub(super) fn may_be_apart(rows: &[Seat], rows_max: usize) -> bool {
    let tenants: BTreeSet<Tenant> = rows.iter().map(|row| row.tenant).collect();
    rows.len() < rows_max && (2..=APART_MAX).contains(&tenants.len())
}

/// How many rows that have failed `attempts` times may stand in one request.
pub(super) fn company_max(rows_max: usize, attempts: u32) -> usize {
    (rows_max >> attempts.min(usize::BITS - 1)).max(1)
}

/// How often a row fails before it stands alone.
pub(super) fn attempts_until_alone(rows_max: usize) -> u32 {
    rows_max.max(1).ilog2()
}

/// Puts rows, by their indexes, into requests.
pub(super) fn requests(rows: &[Seat], rows_max: usize, is_apart: impl Fn(Tenant) -> bool) -> Vec<Vec<usize>> {
    let mut by_tenant: BTreeMap<(u32, bool, Tenant), Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        by_tenant.entry((row.attempts, row.is_of_failed_lane, row.tenant)).or_default().push(index);
    }
    let mut requests = Vec::new();
    let mut shared: Vec<usize> = Vec::new();
    for ((attempts, is_of_failed_lane, tenant), indexes) in by_tenant {
        let size = company_max(rows_max, attempts);
        for chunk in indexes.chunks(size) {
            if attempts > 0 || is_of_failed_lane || chunk.len() * 2 >= size || is_apart(tenant) {
                requests.push(chunk.to_vec());
            } else if shared.len() + chunk.len() > size {
                requests.push(std::mem::replace(&mut shared, chunk.to_vec()));
            } else {
                shared.extend_from_slice(chunk);
            }
        }
    }
    if !shared.is_empty() {
        requests.push(shared);
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(specs: &[(i64, u32, usize)]) -> Vec<Seat> {
        specs
            .iter()
            .flat_map(|&(company, attempts, count)| {
                std::iter::repeat_n(
                    Seat { tenant: Tenant::Company(company), attempts, is_of_failed_lane: false },
                    count,
                )
            })
            .collect()
    }

    fn sizes(requests: &[Vec<usize>]) -> Vec<usize> {
        requests.iter().map(Vec::len).collect()
    }

    #[test]
    fn small_companies_share_a_request() {
        assert_eq!(sizes(&requests(&rows(&[(1, 0, 10), (2, 0, 20)]), 100, |_| false)), [30]);
    }

    #[test]
    fn a_company_that_fills_a_request_has_its_own() {
        assert_eq!(sizes(&requests(&rows(&[(1, 0, 60), (2, 0, 20)]), 100, |_| false)), [60, 20]);
    }

    #[test]
    fn a_company_that_could_not_be_read_travels_alone() {
        let mut rows = rows(&[(1, 0, 10), (2, 0, 20), (3, 0, 5)]);
        rows[0].is_of_failed_lane = true;
        assert_eq!(sizes(&requests(&rows, 100, |_| false)), [1, 34]);
    }

    #[test]
    fn a_slow_company_is_split_off() {
        let is_slow = |tenant| tenant == Tenant::Company(1);
        assert_eq!(sizes(&requests(&rows(&[(1, 0, 10), (2, 0, 20), (3, 0, 5)]), 100, is_slow)), [10, 25]);
    }

    #[test]
    fn few_rows_of_few_companies_may_each_have_their_own() {
        assert!(may_be_apart(&rows(&[(1, 0, 10), (2, 0, 20)]), 100));
        assert!(!may_be_apart(&rows(&[(1, 0, 10)]), 100));
        assert!(!may_be_apart(&rows(&[(1, 0, 80), (2, 0, 20)]), 100));
        assert!(!may_be_apart(&rows(&[(1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1), (5, 0, 1)]), 100));
    }

    #[test]
    fn every_failure_halves_the_company_until_the_culprit_is_alone() {
        assert_eq!(sizes(&requests(&rows(&[(1, 1, 100)]), 100, |_| false)), [50, 50]);
        assert_eq!(sizes(&requests(&rows(&[(1, 6, 3)]), 100, |_| false)), [1, 1, 1]);
        assert_eq!(company_max(500, attempts_until_alone(500)), 1);
        assert_eq!(company_max(500, 100), 1);
    }

    #[test]
    fn every_row_travels_exactly_once() {
        let rows = rows(&[(1, 0, 7), (2, 0, 3), (1, 2, 5), (3, 0, 12)]);
        let mut seen: Vec<usize> = requests(&rows, 10, |_| false).into_iter().flatten().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..rows.len()).collect::<Vec<_>>());
    }
}
