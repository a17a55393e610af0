//! What a node keeps on disk: the directory's records, images by their hash, and what processes that
//! have left had in their files.

pub mod directory;
pub mod images;
pub mod kept;
