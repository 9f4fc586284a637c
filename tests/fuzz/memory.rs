//! How much memory a decoder takes.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

thread_local! {
    /// The largest share of its limit that any call took, in percent.
    static MOST_PERCENT: Cell<u64> = const { Cell::new(0) };
}

/// Calls `decode`, which may have at most `bytes_max` more allocated at any time than
/// when it was called. A buffer that grows counts twice while it is copied.
pub(crate) fn within<T>(bytes_max: usize, decode: impl FnOnce() -> T) -> T {
    let mut result = None;
    // The counter must come to its end also when the decoder panics.
    let taken = allocation_counter::measure(|| {
        result = Some(catch_unwind(AssertUnwindSafe(decode)));
    });
    let result = result.expect("it was called").unwrap_or_else(|panic| resume_unwind(panic));
    assert!(taken.bytes_max <= bytes_max as u64, "memory: {} of {bytes_max}", taken.bytes_max);
    let percent = taken.bytes_max * 100 / bytes_max as u64;
    MOST_PERCENT.set(MOST_PERCENT.get().max(percent));
    result
}

/// The largest share of its limit that any call on this thread took, in percent.
pub(crate) fn most_percent() -> u64 {
    MOST_PERCENT.get()
}

#[test]
fn a_buffer_that_was_announced_and_never_came_is_seen() {
    let announced = 1 << 20;
    assert_eq!(within(announced, || vec![0_u8; announced].len()), announced);
    let greedy = catch_unwind(|| within(announced - 1, || vec![0_u8; announced].len()));
    assert!(greedy.is_err());
    // The count starts anew after a panic inside.
    assert!(catch_unwind(|| within(10, || panic!("as planned"))).is_err());
    within(1, || ());
}
