//! In which order the state of a process crosses.

/// How a process is moved. The strategies differ in what crosses before the freeze and what after
/// the commit; the steps around the decision are the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// Freeze, send everything, thaw.
    #[default]
    StopAndCopy,
}
