//! Which name is which bit's, as far as several answers together tell it for certain.
//!
//! An answer has the bits of a value and the names of those that have one. A bit without a name looks like any other, so
//! one answer alone often leaves it open whose a name is.

use std::collections::{BTreeMap, BTreeSet};

/// What a row told of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The bits of the value, the lowest first.
    pub(super) bits: Vec<i64>,
    /// Their names, in the order of their bits. Some may have none.
    pub(super) names: Vec<String>,
}

impl Told {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// Whether it can be true: each name is one bit's.
    fn is_possible(&self) -> bool {
        self.names.len() <= self.bits.len() && self.names.iter().collect::<BTreeSet<_>>().len() == self.names.len()
    }
}

/// The names of bits that the answers tell in addition to those that are known. What is known and told otherwise by now
/// does not count.
pub(super) fn of_bits(told: &[Told], known: &[(i64, String)]) -> Vec<(i64, String)> {
    let told: Vec<&Told> = told.iter().filter(|told| told.is_possible()).collect();
    let agrees = |bit: &i64, name: &str| told.iter().all(|told| told.bits.contains(bit) == told.has(name));
    let is_told = |bit: &i64| told.iter().any(|told| told.bits.contains(bit));
    let known = known.iter().filter(|(bit, name)| is_told(bit) && agrees(bit, name));
    let mut named: BTreeMap<i64, &str> = known.map(|(bit, name)| (*bit, name.as_str())).collect();
    let before = named.clone();
    while let Some(more) = certain(&told, &named).or_else(|| by_order(&told, &named)) {
        named.extend(more);
    }
    named.retain(|bit, _| !before.contains_key(bit));
    named.into_iter().map(|(bit, name)| (bit, name.to_owned())).collect()
}

/// The bits that a name without one may be of: those of all answers that have it, and of none that lacks it.
fn candidates(told: &[&Told], named: &BTreeMap<i64, &str>, name: &str) -> Vec<i64> {
    let is_free = |bit: &&i64| !named.contains_key(bit);
    let agrees = |bit: &&i64| told.iter().all(|told| told.bits.contains(bit) == told.has(name));
    let bits: BTreeSet<&i64> = told.iter().flat_map(|told| &told.bits).collect();
    bits.into_iter().filter(is_free).filter(agrees).copied().collect()
}

/// Names that can be of one bit alone.
fn certain<'a>(told: &[&'a Told], named: &BTreeMap<i64, &str>) -> Option<Vec<(i64, &'a str)>> {
    let names: BTreeSet<&str> = told.iter().flat_map(|told| open_names(told, named)).collect();
    let mut found = names.into_iter().filter_map(|name| match candidates(told, named, name).as_slice() {
        [bit] => Some((*bit, name)),
        _ => None,
    });
    found.next().map(|one| vec![one])
}

/// The names of an answer of which every bit must have one, by their order.
fn by_order<'a>(told: &[&'a Told], named: &BTreeMap<i64, &str>) -> Option<Vec<(i64, &'a str)>> {
    told.iter().find_map(|one| {
        let names: Vec<&str> = open_names(one, named).collect();
        let candidates: Vec<Vec<i64>> = names.iter().map(|name| candidates(told, named, name)).collect();
        let may_have_one = |bit: &&i64| candidates.iter().any(|bits| bits.contains(bit));
        let bits: Vec<i64> = one.bits.iter().filter(may_have_one).copied().collect();
        let is_possible = || bits.iter().zip(&candidates).all(|(bit, candidates)| candidates.contains(bit));
        (!names.is_empty() && bits.len() == names.len() && is_possible()).then(|| bits.into_iter().zip(names).collect())
    })
}

fn open_names<'a>(told: &'a Told, named: &BTreeMap<i64, &str>) -> impl Iterator<Item = &'a str> {
    let is_open = |name: &&str| !named.values().any(|known| known == name);
    told.names.iter().map(String::as_str).filter(is_open)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(bits: &[i64], names: &[&str]) -> Told {
        Told { bits: bits.to_vec(), names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn named(pairs: &[(i64, &str)]) -> Vec<(i64, String)> {
        pairs.iter().map(|(bit, name)| (*bit, (*name).to_owned())).collect()
    }

    #[test]
    fn bits_are_told_apart_by_what_is_known_of_them() {
        assert_eq!(of_bits(&[told(&[8], &["Rates"])], &[]), named(&[(8, "Rates")]));
        assert_eq!(of_bits(&[told(&[2, 8], &["Note", "Rates"])], &[]), named(&[(2, "Note"), (8, "Rates")]));
        let known = named(&[(2, "Note")]);
        assert_eq!(of_bits(&[told(&[2, 8], &["Rates", "Note"])], &known), named(&[(8, "Rates")]));
        assert!(of_bits(&[told(&[2], &["Note"])], &known).is_empty());
        assert!(of_bits(&[told(&[2, 8, 64], &["Note", "Rates"])], &known).is_empty(), "which of them has no name?");
    }

    #[test]
    fn several_answers_tell_bits_apart_of_which_some_have_no_name() {
        let both = [told(&[2, 64], &["Note"]), told(&[2, 128], &["Note"])];
        assert_eq!(of_bits(&both, &[]), named(&[(2, "Note")]));
        let alone = [told(&[2, 8, 64], &["Note", "Rates"]), told(&[64], &[])];
        assert_eq!(of_bits(&alone, &[]), named(&[(2, "Note"), (8, "Rates")]));
        let absent = [told(&[2, 8], &["Rates"]), told(&[2, 64], &[])];
        assert_eq!(of_bits(&absent, &[]), named(&[(8, "Rates")]));
        let open = [told(&[2, 8], &["Note"])];
        assert!(of_bits(&open, &[]).is_empty());
    }

    #[test]
    fn what_cannot_be_true_tells_nothing_and_what_is_called_otherwise_by_now_is_learned_anew() {
        assert!(of_bits(&[told(&[2], &["Note", "Rates"]), told(&[2, 8], &["Note", "Note"])], &[]).is_empty());
        assert_eq!(of_bits(&[told(&[2], &["Remark"])], &named(&[(2, "Note")])), named(&[(2, "Remark")]));
    }

    proptest! {
        /// Whatever names there are, and whichever rows are asked for, nothing is learned that is not so.
        #[test]
        fn nothing_wrong_is_ever_learned(
            has_name in proptest::collection::vec(any::<bool>(), 8),
            values in proptest::collection::vec(1_i64..256, 1..8),
            known in 0_i64..256,
        ) {
            let name = |bit: i64| {
                let place = bit.trailing_zeros() as usize;
                has_name[place].then(|| format!("Name{place}"))
            };
            let bits = |value: i64| (0..8).map(|bit| 1_i64 << bit).filter(|bit| value & bit != 0).collect::<Vec<_>>();
            let told: Vec<Told> = values
                .iter()
                .map(|&value| Told { bits: bits(value), names: bits(value).into_iter().filter_map(name).collect() })
                .collect();
            let known: Vec<_> = bits(known).into_iter().filter_map(|bit| Some((bit, name(bit)?))).collect();
            for (bit, learned) in of_bits(&told, &known) {
                prop_assert_eq!(Some(learned), name(bit));
            }
        }
    }
}
