//! Every figure of the specification.
