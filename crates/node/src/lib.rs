//! One running replica: threads, ticks, shutdown, metrics, settings.
