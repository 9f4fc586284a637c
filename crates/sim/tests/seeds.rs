//! Seeds, as the gate runs them.
#![allow(missing_docs)]

use synod_sim::{Plan, run};

#[test]
fn the_first_seed() {
    let report = run(&Plan::drawn(0));
    println!("{report:#?}");
    assert_eq!(report.violation, None);
}
