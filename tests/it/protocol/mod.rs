//! The protocol of one row, model-checked: every order of changes, deliveries, folds, claims, fetches that lag, walks,
//! crashes and workers that stand still, within small bounds. What a row's evidence means is decided by the product's own
//! rules; what surrounds them (fold, claim, settle) is told again in `world.rs`.
//!
//! A copy that lags is checked with notifications that tell when the row was changed, with a source whose clock is not
//! ahead, and without a row that is made again: where times cannot tell which was first, the source's answer decides, and
//! one from an old copy misleads until the next walk.
//!
//! `cargo test --release --test it protocol::larger -- --ignored --nocapture` checks larger bounds: minutes, and some
//! hundred MB of memory.

mod bounds;
mod clocks;
mod world;

use std::collections::HashSet;

use stateright::{Checker, Model, Property};

use bounds::Bounds;
use clocks::Clocks;
use world::{Action, Rules, World};

const EQUAL: &str = "quiet means equal";
const NEVER_BACK: &str = "a reader never sees an older row, and a living one is never removed";
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

/// What is checked, within which bounds.
#[derive(Debug, Clone)]
struct Protocol {
    bounds: Bounds,
    clocks: Clocks,
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        // What follows a fault tells nothing.
        world.fault().is_none().then(|| world.reduced_after(action, self.clocks))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(EQUAL, |_, world: &World| !world.is_quiet() || world.is_equal()),
            Property::always(NEVER_BACK, |_, world: &World| world.fault().is_none()),
            Property::always("something is left to do until it is quiet", |_, world: &World| {
                world.is_quiet() || world.fault().is_some() || !world.actions().is_empty()
            }),
        ];
        // Not true by emptiness.
        if self.bounds.freezes() {
            let held = |_: &Self, world: &World| world.is_held_twice();
            properties.push(Property::sometimes("two workers hold the row", held));
        }
        if self.bounds.makes_rows_again() {
            let shown = |_: &Self, world: &World| world.has_shown_a_second_life();
            properties.push(Property::sometimes("a row that was made again is shown", shown));
        }
        properties
    }
}

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
