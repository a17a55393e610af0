//! What a node keeps on disk: the directory's records, and images by their hash.

pub mod directory;
pub mod images;
