//! Which claims share a request.
//!
//! Claims of many targets travel together as long as none fills half a request by itself; a target that failed, or that is
//! slow, is asked apart. Of a flood, what does not nearly fill a request waits for a moment, since more is on its way.

use crate::queue::Priority;

/// What the plan needs to know of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) rows: usize,
    pub(super) priority: Priority,
    pub(super) is_apart: bool,
}

/// Puts claims, by their indexes, into requests of at most `rows_max` rows. A claim is never cut.
pub(super) fn requests(seats: &[Seat], rows_max: usize) -> Vec<Vec<usize>> {
    let mut requests = vec![];
    for priority in [Priority::Live, Priority::Deferred] {
        let (mut shared, mut shared_rows) = (vec![], 0);
        for (index, seat) in seats.iter().enumerate().filter(|(_, seat)| seat.priority == priority) {
            if seat.is_apart || seat.rows * 2 >= rows_max {
                requests.push(vec![index]);
                continue;
            }
            if shared_rows + seat.rows > rows_max {
                requests.push(std::mem::take(&mut shared));
                shared_rows = 0;
            }
            shared.push(index);
            shared_rows += seat.rows;
        }
        if !shared.is_empty() {
            requests.push(shared);
        }
    }
    requests
}

/// The request that is worth holding back: the last one of live rows, if others go before it and a quarter of it or more
/// is empty.
pub(super) fn straggler(requests: &[Vec<usize>], seats: &[Seat], rows_max: usize) -> Option<usize> {
    let is_live = |request: &Vec<usize>| request.iter().all(|&index| seats[index].priority == Priority::Live);
    let last = requests.iter().rposition(is_live)?;
    let rows: usize = requests[last].iter().map(|&index| seats[index].rows).sum();
    let is_apart = requests[last].iter().any(|&index| seats[index].is_apart);
    (last > 0 && !is_apart && rows * 4 <= rows_max * 3).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(rows: usize) -> Seat {
        Seat { rows, priority: Priority::Live, is_apart: false }
    }

    #[test]
    fn small_claims_share_and_large_ones_do_not() {
        assert_eq!(requests(&[seat(10), seat(60), seat(20)], 100), [vec![1], vec![0, 2]]);
        assert_eq!(requests(&[seat(40), seat(40), seat(40)], 100), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn what_is_apart_shares_with_nobody() {
        let apart = Seat { is_apart: true, ..seat(1) };
        assert_eq!(requests(&[seat(1), apart, seat(1)], 100), [vec![1], vec![0, 2]]);
    }

    #[test]
    fn the_last_request_of_a_flood_is_held_back_unless_it_is_nearly_full() {
        let held = |seats: &[Seat]| straggler(&requests(seats, 100), seats, 100);
        assert_eq!(held(&[seat(40), seat(40), seat(40)]), Some(1));
        assert_eq!(held(&[seat(40), seat(40), seat(40), seat(35)]), Some(1));
        assert_eq!(held(&[seat(40), seat(40), seat(40), seat(40)]), None);
        assert_eq!(held(&[seat(40)]), None, "nothing goes before it");
        assert_eq!(held(&[seat(60), Seat { is_apart: true, ..seat(1) }]), None);
        assert_eq!(held(&[seat(60), seat(1), Seat { priority: Priority::Deferred, ..seat(9) }]), Some(1));
    }

    #[test]
    fn live_rows_and_deferred_ones_use_different_shares_of_the_budget() {
        let deferred = Seat { priority: Priority::Deferred, ..seat(1) };
        assert_eq!(requests(&[deferred, seat(1)], 100), [vec![1], vec![0]]);
    }
}
