//! Decides for one machine.
