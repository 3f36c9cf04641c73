use std::collections::HashSet;

use stateright::{Checker, Model};

use super::{Bounds, Clocks, EQUAL, NEVER_BACK, Protocol, Rules, World};

/// What is checked each time: what may happen, how far the source's clock is ahead of the database's in seconds, and
/// whether notifications tell when a row was changed.
const SMALL: [(Bounds, i64, bool); 6] = [
    (Bounds::LAGGING, 0, true),
    (Bounds::FROZEN, -3_600, true),
    (Bounds::FROZEN, 3_600, true),
    (Bounds::FROZEN, 0, false),
    (Bounds::AGAIN_FROZEN, 0, true),
    (Bounds::AGAIN_WALKED, 0, true),
];
/// What is checked when somebody asks for it: some ten million states each.
const LARGE: [(Bounds, i64, bool); 10] = [
    (Bounds::LARGE_WALKED, 0, true),
    (Bounds::LARGE_WALKED, 0, false),
    (Bounds::LARGE_WALKED, -3_600, true),
    (Bounds::LARGE_WALKED, 3_600, true),
    (Bounds::LARGE_KILLED, 0, true),
    (Bounds::LARGE_KILLED, 0, false),
    (Bounds::LARGE_KILLED, -3_600, true),
    (Bounds::LARGE_KILLED, 3_600, true),
    (Bounds::LARGE_LAGGING, 0, true),
    (Bounds::LARGE_LAGGING, -3_600, true),
];

/// Visits every state.
fn check(bounds: Bounds, ahead: i64, dated: bool) {
    let clocks = Clocks { rules: Rules::Product, ahead, dated };
    let checker = Protocol { bounds, clocks }.checker().threads(2).spawn_dfs().join();
    checker.assert_properties();
    println!("{bounds:?}, {clocks:?}: {} states", checker.unique_state_count());
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_goes_back_whatever_the_order() {
    for (bounds, ahead, dated) in SMALL {
        check(bounds, ahead, dated);
    }
}

#[test]
fn rules_that_are_broken_on_purpose_are_found_out() {
    for rules in [Rules::ClearsWhateverCame, Rules::CountsGenerations, Rules::TrustsWhatIsOvertaken] {
        let clocks = Clocks { rules, ahead: 0, dated: true };
        let checker = Protocol { bounds: Bounds::LAGGING, clocks }.checker().threads(2).spawn_bfs().join();
        let found = [EQUAL, NEVER_BACK].into_iter().find_map(|property| checker.discovery(property));
        let path = found.unwrap_or_else(|| panic!("{rules:?} is not noticed"));
        println!("{rules:?}: {:?}", path.into_actions());
    }
}

#[test]
#[ignore = "takes minutes"]
fn larger() {
    for (bounds, ahead, dated) in LARGE {
        check(bounds, ahead, dated);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1_000))]

    /// From worlds that are made one, the same can follow.
    #[test]
    fn nothing_that_can_follow_is_lost_where_worlds_are_made_one(
        choices in proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 100),
        ahead in proptest::sample::select(vec![0, -3_600, 3_600]),
        dated in proptest::prelude::any::<bool>(),
    ) {
        let clocks = Clocks { rules: Rules::Product, ahead, dated };
        let following = |world: &World| -> HashSet<World> {
            world.actions().into_iter().map(|action| world.reduced_after(action, clocks)).collect()
        };
        let mut world = World::new(Bounds { changes: 3, ..Bounds::LARGE_LAGGING });
        for choice in choices {
            let actions = world.actions();
            if actions.is_empty() {
                break;
            }
            let reduced = world.clone().reduced(clocks.rules);
            proptest::prop_assert_eq!(following(&world), following(&reduced), "{:?}", world);
            world = world.after(*choice.get(&actions), clocks);
        }
    }

    /// Histories that are longer than those that can all be visited, until nothing is left to do.
    #[test]
    fn long_histories_end_in_the_truth(
        choices in proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 1_000),
        ahead in proptest::sample::select(vec![0, -3_600, 3_600]),
        dated in proptest::prelude::any::<bool>(),
    ) {
        let clocks = Clocks { rules: Rules::Product, ahead, dated };
        let (mut world, mut history) = (World::new(Bounds::LONG), vec![]);
        for choice in choices {
            let actions = world.actions();
            if actions.is_empty() {
                break;
            }
            history.push(*choice.get(&actions));
            world = world.after(*choice.get(&actions), clocks);
            proptest::prop_assert_eq!(world.fault(), None, "{:?}", history);
        }
        proptest::prop_assert!(world.is_quiet(), "never settles: {:?}", history);
        proptest::prop_assert!(world.is_equal(), "{:?}: {:?}", history, world);
    }
}
