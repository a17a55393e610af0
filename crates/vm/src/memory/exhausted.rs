//! What to say when the system gives no more address space: there are three limits that a node with
//! many processes may meet, and the system's error does not tell which.

use std::fs;
use std::io;

/// Says that `what` could not be had, and what to do about it. Reads what the system says of this
/// OS process, which takes a while.
pub(super) fn exhausted(what: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::OutOfMemory => {
            let maps = fs::read("/proc/self/maps").unwrap_or_default();
            let mappings = maps.iter().filter(|byte| **byte == b'\n').count();
            let most = fs::read_to_string("/proc/sys/vm/max_map_count");
            let most = most.ok().and_then(|most| most.trim().parse().ok());
            advice(mappings, most)
        }
        _ => String::new(),
    };
    format!("cannot set up {what}: {error}{advice}")
}

fn advice(mappings: usize, most: Option<usize>) -> String {
    // A few calls take several mappings at once.
    const CLOSE: usize = 16;
    match most {
        Some(most) if mappings + CLOSE >= most => format!(
            "; the node has {mappings} memory mappings and the system allows {most}: run fewer \
             processes, or raise the limit with `sysctl -w vm.max_map_count={}`",
            most.saturating_mul(4)
        ),
        _ => "; the limit of address space (`ulimit -v`) or of memory that may be promised \
              (vm.overcommit_memory) is reached"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_was_met_is_named() {
        let advice = advice(65_525, Some(65_530));
        assert!(
            advice.contains("sysctl -w vm.max_map_count=262120"),
            "{advice}"
        );
        let advice = super::advice(900, Some(65_530));
        assert!(advice.contains("ulimit -v"), "{advice}");
        let error = io::ErrorKind::PermissionDenied.into();
        assert!(!exhausted("a stack", &error).contains(';'));
    }
}
