//! What is kept for its next use: by key, within a bound, the least recently used going first.
//!
//! Like coats that guests left behind: each hangs under its owner's name, and when the rack is full
//! the one that has hung there longest goes.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A bounded store of things to use again.
pub(crate) struct Shelves<K, T> {
    /// With the time at which each was put, the earliest first.
    by_key: HashMap<K, VecDeque<(u64, T)>>,
    count: usize,
    now: u64,
    most: usize,
}

impl<K: Copy + Eq + Hash, T> Shelves<K, T> {
    /// Shelves for at most so many things.
    pub(crate) fn new(most: usize) -> Self {
        Shelves {
            by_key: HashMap::new(),
            count: 0,
            now: 0,
            most,
        }
    }

    /// Takes what was put under `key` last: it is the likeliest to be in the caches.
    pub(crate) fn take(&mut self, key: K) -> Option<T> {
        let (_, thing) = self.by_key.get_mut(&key)?.pop_back()?;
        self.count -= 1;
        Some(thing)
    }

    /// Puts a thing under `key`. What has to go for it is given back, to be dropped where no lock
    /// is held.
    pub(crate) fn put(&mut self, key: K, thing: T) -> Option<T> {
        self.now += 1;
        let shelf = self.by_key.entry(key).or_default();
        shelf.push_back((self.now, thing));
        self.count += 1;
        if self.count <= self.most {
            return None;
        }
        self.take_oldest()
    }

    /// Looks through all shelves: they are full seldom, and then there are not many.
    fn take_oldest(&mut self) -> Option<T> {
        let fronts = self.by_key.iter().filter_map(|(key, shelf)| {
            let (put, _) = shelf.front()?;
            Some((*put, *key))
        });
        let (_, key) = fronts.min_by_key(|(put, _)| *put)?;
        let thing = self.by_key.get_mut(&key)?.pop_front();
        self.by_key.retain(|_, shelf| !shelf.is_empty());
        let (_, thing) = thing?;
        self.count -= 1;
        Some(thing)
    }

    /// How many things there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Takes everything under `key`.
    pub(crate) fn clear(&mut self, key: K) -> impl Iterator<Item = T> + use<K, T> {
        let shelf = self.by_key.remove(&key).unwrap_or_default();
        self.count -= shelf.len();
        shelf.into_iter().map(|(_, thing)| thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_put_under_a_key_comes_back_first() {
        let mut shelves = Shelves::new(10);
        for thing in [1, 2] {
            assert_eq!(shelves.put('a', thing), None);
        }
        assert_eq!(shelves.put('b', 3), None);
        assert_eq!(shelves.take('a'), Some(2));
        assert_eq!(shelves.take('a'), Some(1));
        assert_eq!(shelves.take('a'), None);
        assert_eq!(shelves.take('b'), Some(3));
    }

    #[test]
    fn the_oldest_of_all_goes_when_there_are_too_many() {
        let mut shelves = Shelves::new(2);
        assert_eq!(shelves.put('a', 1), None);
        assert_eq!(shelves.put('b', 2), None);
        assert_eq!(shelves.put('b', 3), Some(1));
        assert_eq!(shelves.put('a', 4), Some(2));
        assert_eq!(shelves.take('b'), Some(3));
        assert_eq!(shelves.put('c', 5), None);
    }

    #[test]
    fn a_cleared_key_leaves_room() {
        let mut shelves = Shelves::new(2);
        shelves.put('a', 1);
        shelves.put('a', 2);
        assert_eq!(shelves.clear('a').collect::<Vec<_>>(), [1, 2]);
        assert_eq!(shelves.put('b', 3), None);
        assert_eq!(shelves.put('b', 4), None);
        assert_eq!(shelves.put('b', 5), Some(3));
    }
}
