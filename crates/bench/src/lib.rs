//! Every figure of the specification.

pub mod demo;
