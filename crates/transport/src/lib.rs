//! Envelopes between peers over TCP.
