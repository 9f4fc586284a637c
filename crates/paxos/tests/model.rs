//! Model checking: the real handlers, in scopes so small that every order of events is
//! tried. `docs/model-checking.md` tells what that covers and what it does not.

use std::{any::Any, fmt::Debug, hash::Hash, time::Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

#[path = "model/learning.rs"]
mod learning;
#[path = "model/machine.rs"]
mod machine;
#[path = "model/multi.rs"]
mod multi;
#[path = "model/shared.rs"]
mod shared;
#[path = "model/single_decree.rs"]
mod single_decree;

/// The property that each planted bug has to break.
const AGREEMENT: &str = "agreement";

/// What all scopes together must come to.
const UNIQUE_STATES_MIN: usize = 1_000_000;

const THREADS: usize = 2;

#[test]
fn every_state_of_small_scopes_is_safe() {
    let mut unique = 0;
    for (name, scope) in single_decree::scopes() {
        unique += explore(&format!("single decree, {name}"), scope);
    }
    for (name, scope) in multi::scopes() {
        unique += explore(&format!("multi, {name}"), scope);
    }
    for (name, scope) in learning::scopes() {
        unique += explore(&format!("learning, {name}"), scope);
    }
    println!("{unique} unique states");
    assert!(unique >= UNIQUE_STATES_MIN, "only {unique} unique states");
}

#[test]
fn planted_bugs_are_refuted() {
    for (name, scope) in single_decree::bugs() {
        refute(&format!("single decree, {name}"), scope, AGREEMENT);
    }
    for (name, scope, property) in multi::bugs() {
        refute(&format!("multi, {name}"), scope, property);
    }
    for (name, scope, property) in learning::bugs() {
        refute(&format!("learning, {name}"), scope, property);
    }
}

/// Goes through every state; gives their number.
fn explore<M>(name: &str, model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let begun = Instant::now();
    let checker = model.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let (unique, all) = (checker.unique_state_count(), checker.state_count());
    let (depth, seconds) = (checker.max_depth(), begun.elapsed().as_secs_f32());
    println!("{name}: {unique} unique states, {all} in all, {depth} deep, {seconds:.1} s");
    let mut discoveries = checker.discoveries();
    for property in checker.model().properties() {
        match (property.expectation, discoveries.remove(property.name)) {
            (Expectation::Sometimes, found) => {
                assert!(found.is_some(), "{name}: it never happens that {}", property.name);
            }
            (_, None) => {}
            (_, Some(path)) => {
                let steps = describe(path.into_actions());
                panic!("{name}: not always: {}\n{steps}", property.name);
            }
        }
    }
    unique
}

/// Demands that some order of events breaks the property.
fn refute<M>(name: &str, model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let begun = Instant::now();
    let finish = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().threads(THREADS).finish_when(finish).spawn_bfs().join();
    let (unique, seconds) = (checker.unique_state_count(), begun.elapsed().as_secs_f32());
    let path = checker.discoveries().remove(property);
    let path = path.unwrap_or_else(|| panic!("{name}: not found in {unique} states"));
    let actions = path.into_actions();
    let steps = actions.len();
    println!("{name}: refuted in {steps} steps, {unique} unique states, {seconds:.1} s");
    println!("{}", describe(actions));
}

fn describe<A: Debug>(actions: Vec<A>) -> String {
    let mut text = String::new();
    for action in actions {
        text += &format!("  {action:?}\n");
    }
    text
}

/// What a handler said when it panicked.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
