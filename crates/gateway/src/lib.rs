//! Decides for one connection.
