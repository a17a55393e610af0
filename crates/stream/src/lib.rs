//! One resumable byte stream.
