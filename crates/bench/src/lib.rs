//! Load generator, failover benchmark, plots and report.
