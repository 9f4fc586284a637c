//! An order that explains what clients were told, if there is one.
//!
//! This is the algorithm of Wing and Gong in Lowe's form: it walks over the calls and
//! returns, tries every order that real time allows, and remembers which sets of
//! operations with which state led nowhere.

use std::collections::BTreeSet;

/// An operation on an object that is checked alone.
pub trait Step {
    /// The object.
    type State: Clone + Ord + Default;
    /// Says which of several steps to try first. It decides nothing about what is
    /// found, only how soon.
    type Hint: Ord;

    /// When it was called.
    fn called_us(&self) -> u64;

    /// When it returned. None: nobody knows whether it ever had effect, so it may
    /// have it at any time after its call, or never.
    fn returned_us(&self) -> Option<u64>;

    /// The object after it; none when it cannot be here.
    fn carry_out(&self, before: &Self::State) -> Option<Self::State>;

    /// See [`Step::Hint`].
    fn hint(&self) -> Self::Hint;
}

/// Why no order was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unexplained {
    /// There is none: at most so many steps could be explained.
    NoOrder {
        /// How many.
        deepest: usize,
    },
    /// The search was given up.
    TooManySteps,
}

/// Looks for an order in which all steps that returned can be carried out.
///
/// # Errors
/// When there is none, or when it takes more than `tries_max` tries to know.
pub fn search<S: Step>(steps: &[S], tries_max: u64) -> Result<(), Unexplained> {
    let hints: Vec<_> = steps.iter().map(Step::hint).collect();
    let mut left = steps.iter().filter(|step| step.returned_us().is_some()).count();
    let mut walk = Walk::new(steps);
    let mut done = vec![0_u64; steps.len().div_ceil(64)];
    let mut seen: BTreeSet<(Vec<u64>, S::State)> = BTreeSet::new();
    let mut state = S::State::default();
    let mut choices = vec![walk.choice(state.clone(), &hints)];
    let (mut tries, mut deepest) = (0_u64, 0);
    while left > 0 {
        tries += 1;
        if tries > tries_max {
            return Err(Unexplained::TooManySteps);
        }
        let choice = choices.last_mut().expect("the first stays until the end");
        let Some(step) = choice.candidates.get(choice.tried).copied() else {
            // None of them can be next: take the last step back.
            choices.pop();
            let Some(choice) = choices.last_mut() else {
                return Err(Unexplained::NoOrder { deepest });
            };
            let step = choice.taken.take().expect("it led here");
            state = choice.before.clone();
            done[step / 64] &= !(1 << (step % 64));
            left += usize::from(steps[step].returned_us().is_some());
            walk.give_back(step);
            continue;
        };
        choice.tried += 1;
        let Some(next) = steps[step].carry_out(&state) else { continue };
        done[step / 64] |= 1 << (step % 64);
        if seen.insert((done.clone(), next.clone())) {
            choice.taken = Some(step);
            state = next;
            left -= usize::from(steps[step].returned_us().is_some());
            walk.take(step);
            deepest = deepest.max(choices.len());
            choices.push(walk.choice(state.clone(), &hints));
        } else {
            done[step / 64] &= !(1 << (step % 64));
        }
    }
    Ok(())
}

/// A call or a return in the order of time, linked to its neighbours.
#[derive(Clone, Copy, Debug)]
struct Entry {
    step: usize,
    is_call: bool,
    before: usize,
    after: usize,
}

/// The entries that are still to be linearized, as a linked list around a head.
struct Walk {
    entries: Vec<Entry>,
    /// Of each step: its call and its return.
    places: Vec<(usize, usize)>,
}

impl Walk {
    fn new<S: Step>(steps: &[S]) -> Walk {
        let mut times = Vec::with_capacity(steps.len() * 2);
        for (number, step) in steps.iter().enumerate() {
            // At the same moment calls come before returns: then the two overlap.
            let returned_us = step.returned_us().unwrap_or(u64::MAX);
            times.push((step.called_us(), false, number));
            times.push((returned_us.max(step.called_us()), true, number));
        }
        times.sort_unstable();
        let count = times.len();
        let mut walk = Walk { entries: Vec::new(), places: vec![(0, 0); steps.len()] };
        // Entry 0 is the head; the list is a circle.
        walk.entries.push(Entry { step: usize::MAX, is_call: false, before: count, after: 1 });
        for (place, (_, is_return, number)) in (1..).zip(times) {
            let after = if place == count { 0 } else { place + 1 };
            let (is_call, before) = (!is_return, place - 1);
            walk.entries.push(Entry { step: number, is_call, before, after });
            let places = &mut walk.places[number];
            if is_call { places.0 = place } else { places.1 = place }
        }
        if count == 0 {
            walk.entries[0].after = 0;
        }
        walk
    }

    fn first(&self) -> usize {
        self.entries[0].after
    }

    /// The steps that may be next: those called before anything else returned.
    fn choice<T, H: Ord>(&self, before: T, hints: &[H]) -> Choice<T> {
        let mut candidates = Vec::new();
        let mut place = self.first();
        while place != 0 && self.entries[place].is_call {
            candidates.push(self.entries[place].step);
            place = self.entries[place].after;
        }
        candidates.sort_by(|one, other| hints[*one].cmp(&hints[*other]));
        Choice { candidates, tried: 0, before, taken: None }
    }

    fn unlink(&mut self, place: usize) {
        let Entry { before, after, .. } = self.entries[place];
        self.entries[before].after = after;
        self.entries[after].before = before;
    }

    fn relink(&mut self, place: usize) {
        let Entry { before, after, .. } = self.entries[place];
        self.entries[before].after = place;
        self.entries[after].before = place;
    }

    fn take(&mut self, step: usize) {
        let (call, return_) = self.places[step];
        self.unlink(call);
        self.unlink(return_);
    }

    fn give_back(&mut self, step: usize) {
        let (call, return_) = self.places[step];
        self.relink(return_);
        self.relink(call);
    }
}

/// A place in the search: which steps could be next, and which are still to be tried.
struct Choice<T> {
    candidates: Vec<usize>,
    tried: usize,
    /// The state before, and the step that was taken from here.
    before: T,
    taken: Option<usize>,
}
