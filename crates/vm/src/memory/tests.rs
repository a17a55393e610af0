//! Slots under a random model: whatever was done in one, the next one begins as it should.

use super::pages::Pages;
use super::pool::Pool;
use super::slot::Slot;
use super::space::Room;
use super::{Budget, Landing, LandingError, PageReader, Stacks, Tracker, Window};
use fastrand::Rng;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use wasmtime::StackCreator;
use wire::pages::{Batch, PartWriter};
use wire::snapshot::{Memory, PAGE_BYTES, PageKind};

const UNIT: usize = 65536;
const ROOM: Room = Room {
    capacity: 64 * UNIT,
    guard: UNIT,
};

/// On this system, and on one that cannot tell which pages were written.
fn pools() -> [Arc<Pool>; 2] {
    [Pool::new(), Pool::without_pagemap()]
}

#[expect(clippy::mut_from_ref, reason = "as the engine does it")]
fn bytes(slot: &Slot) -> &mut [u8] {
    // SAFETY: these are the slot's bytes, and each test has one such slice at a time.
    unsafe { std::slice::from_raw_parts_mut(slot.base(), slot.size()) }
}

/// Random pages, some of them zero.
fn random_pages(rng: &mut Rng, count: usize) -> Vec<u8> {
    let pages = (0..count).map(|_| [rng.u8(..3); PAGE_BYTES]);
    pages.collect::<Vec<_>>().concat()
}

fn expected(begin: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = begin.to_vec();
    bytes.resize(size, 0);
    bytes
}

/// Whether the byte behind a slot's last one can be touched, as the system says.
fn open_behind(slot: &Slot) -> bool {
    let address = slot.base() as usize + slot.size();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).unwrap());
        (start..end).contains(&address) && !rest.starts_with("---")
    })
}

/// One life of a slot: it begins as it should, grows, is written, and is told right.
fn live(rng: &mut Rng, slot: &Slot, image: &Pages, begin: &[u8]) {
    let began = expected(begin, slot.size());
    assert!(bytes(slot) == began, "it does not begin as it should");
    assert!(!open_behind(slot));
    if rng.bool() {
        let more = slot.size() + UNIT * rng.usize(0..8);
        slot.grow(more.min(ROOM.capacity)).unwrap();
        let now = expected(begin, slot.size());
        assert!(bytes(slot) == now, "what it grew by is not zero");
    }
    let memory = bytes(slot);
    match rng.u8(..4) {
        0 => {}
        1 => memory.fill(rng.u8(1..)),
        2 => {
            for _ in 0..rng.usize(..200) {
                let at = rng.usize(..memory.len());
                memory[at] = rng.u8(..);
            }
        }
        _ => {
            let at = rng.usize(..memory.len());
            let end = (at + rng.usize(..20 * PAGE_BYTES)).min(memory.len());
            rng.fill(&mut memory[at..end]);
        }
    }
    let told = image.capture(slot, memory);
    assert_eq!(told, Memory::from_bytes(memory, image.bytes()));
}

#[test]
fn no_slot_shows_what_another_left_in_it() {
    let seed = std::env::var("LIMOSA_SEED").map_or(1, |seed| seed.parse().unwrap());
    for (number, pool) in pools().into_iter().enumerate() {
        let mut rng = Rng::with_seed(seed);
        println!("pool {number}, seed {seed}");
        let mut images: Vec<(Vec<u8>, Arc<Pages>)> = Vec::new();
        for _ in 0..400 {
            if images.len() < 3 || rng.u8(..50) == 0 {
                let begin = match rng.u8(..4) {
                    0 => Vec::new(),
                    _ => {
                        let pages = rng.usize(1..60);
                        random_pages(&mut rng, pages)
                    }
                };
                let size = (begin.len().div_ceil(UNIT) + rng.usize(1..6)) * UNIT;
                let pages = Pages::of_image(&pool, &begin, size).unwrap();
                images.push((begin, pages));
                if images.len() > 4 {
                    let gone = rng.usize(..images.len());
                    images.swap_remove(gone);
                }
            }
            // Several at once, so that there are several free ones.
            let lives = rng.usize(1..4);
            let chosen: Vec<_> = (0..lives).map(|_| rng.usize(..images.len())).collect();
            let slots: Vec<_> = chosen
                .iter()
                .map(|index| Slot::of_pages(&images[*index].1, ROOM).unwrap())
                .collect();
            for (index, slot) in chosen.iter().zip(&slots) {
                let (begin, pages) = &images[*index];
                live(&mut rng, slot, pages, begin);
            }
        }
        let (free, resident) = pool.free();
        assert!(free > 0, "nothing was used again");
        println!("{free} free slots keep {resident} bytes");
    }
}

#[test]
fn a_derived_image_begins_as_its_snapshot_and_is_told_by_the_first_one() {
    for pool in pools() {
        let mut rng = Rng::with_seed(5);
        for _ in 0..40 {
            let begin = random_pages(&mut rng, 20);
            let image = Pages::of_image(&pool, &begin, 4 * UNIT).unwrap();
            let mut state = expected(&begin, 4 * UNIT);
            for _ in 0..rng.usize(..10) {
                let page = rng.usize(..4 * UNIT / PAGE_BYTES) * PAGE_BYTES;
                state[page..page + PAGE_BYTES].fill(rng.u8(..4));
            }
            let snapshot = Memory::from_bytes(&state, image.bytes());
            let derived = Pages::of_snapshot(&image, &snapshot).unwrap();
            for _ in 0..3 {
                let slot = Slot::of_pages(&derived, ROOM).unwrap();
                assert!(image.capture(&slot, bytes(&slot)) == snapshot);
                assert!(bytes(&slot) == state);
                let memory = bytes(&slot);
                for _ in 0..rng.usize(..20) {
                    let at = rng.usize(..memory.len());
                    memory[at] = rng.u8(..);
                }
                let told = image.capture(&slot, memory);
                assert!(told == Memory::from_bytes(memory, image.bytes()));
            }
        }
    }
}

#[test]
fn free_slots_go_with_their_image() {
    let pool = Pool::new();
    let image = Pages::of_image(&pool, &[1], UNIT).unwrap();
    let slots = [(); 3].map(|()| Slot::of_pages(&image, ROOM).unwrap());
    let [first, others @ ..] = slots;
    drop(others);
    assert_eq!(pool.free().0, 2);
    drop(image);
    // The one in use still begins as it did, and is the last to know the image.
    assert_eq!(bytes(&first)[0], 1);
    assert_eq!(pool.free().0, 2);
    drop(first);
    assert_eq!(pool.free(), (0, 0));
}

#[test]
fn free_slots_stay_within_what_they_may_keep() {
    let pool = Pool::new();
    let slots: Vec<_> = (0..1100)
        .map(|_| {
            let slot = Slot::of_zeros(&pool, 4 * UNIT, ROOM).unwrap();
            bytes(&slot)[..200 << 10].fill(1);
            slot
        })
        .collect();
    drop(slots);
    let (free, resident) = pool.free();
    assert_eq!(free, 1024);
    assert!(resident <= 64 << 20, "{resident} bytes");
    for _ in 0..1024 {
        let slot = Slot::of_zeros(&pool, 4 * UNIT, ROOM).unwrap();
        assert!(bytes(&slot).iter().all(|byte| *byte == 0));
        std::mem::forget(slot);
    }
    assert_eq!(pool.free(), (0, 0));
}

#[test]
fn growth_is_charged_and_given_back() {
    let pool = Pool::new();
    let budget = Arc::new(Budget::new(3 * UNIT as u64));
    let slot = Slot::of_zeros(&pool, UNIT, ROOM).unwrap();
    assert!(slot.charge_to(&budget));
    slot.grow(3 * UNIT).unwrap();
    assert!(slot.grow(4 * UNIT).is_err());
    assert_eq!(budget.used(), 3 * UNIT as u64);
    assert!(slot.grow(ROOM.capacity + UNIT).is_err());
    drop(slot);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_used_stack_is_zero_beyond_what_stays_resident() {
    let stacks = Stacks::default();
    let size = 1 << 20;
    let addresses: Vec<_> = (0..3)
        .map(|_| {
            let stack = stacks.new_stack(size, false).unwrap();
            let range = stack.range();
            assert_eq!(stack.top() as usize, range.end);
            assert_eq!(stack.guard_range().end as usize, range.start);
            let length = range.len();
            // SAFETY: the stack is this test's own, and nothing runs on it.
            let memory = unsafe {
                let base = stack.top().sub(length);
                std::slice::from_raw_parts_mut(base, length)
            };
            let deep = length - (64 << 10);
            assert!(memory[..deep].iter().all(|byte| *byte == 0));
            memory.fill(7);
            range.start
        })
        .collect();
    assert!(addresses.iter().all(|address| *address == addresses[0]));
}

/// The mapping that an address lies in, by its first address.
fn mapping_of(address: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let starts = maps.lines().map(|line| {
        let (start, _) = line.split_once('-').unwrap();
        usize::from_str_radix(start, 16).unwrap()
    });
    starts.take_while(|start| *start <= address).last().unwrap()
}

/// Whether the system has guards that are no mappings of their own.
fn has_guards() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 13)
}

#[test]
fn nobody_reaches_below_a_stack_and_stacks_share_a_mapping() {
    let stacks = Stacks::default();
    let made = [(); 8].map(|()| stacks.new_stack(1 << 20, false).unwrap());
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut mappings = std::collections::HashSet::new();
    for stack in &made {
        let range = stack.range();
        let readable = |address: usize| memory.read_at(&mut [0], address as u64).is_ok();
        assert!(readable(range.start) && readable(range.end - 1));
        assert!(!readable(range.start - 1));
        assert!(!readable(stack.guard_range().start as usize));
        mappings.insert(mapping_of(range.start));
    }
    if has_guards() {
        assert_eq!(mappings.len(), 1);
    } else {
        println!("the system has no MADV_GUARD_INSTALL: each stack takes mappings of its own");
        assert_eq!(mappings.len(), made.len());
    }
}

#[test]
fn of_many_free_stacks_only_some_stay_resident() {
    let stacks = Stacks::default();
    let made: Vec<_> = (0..300)
        .map(|_| stacks.new_stack(256 << 10, false).unwrap())
        .collect();
    let tops: Vec<_> = made.iter().map(|stack| stack.top()).collect();
    for top in &tops {
        // SAFETY: the stack is this test's own, and nothing runs on it.
        unsafe { top.sub(1).write(1) };
    }
    drop(made);
    // SAFETY: as above; free stacks stay mapped.
    let kept = tops.iter().filter(|top| unsafe { top.sub(1).read() } == 1);
    assert_eq!(kept.count(), 256);
}

/// All that is to be sent, landed.
fn carry(mut reader: PageReader, landing: &mut Landing) {
    while let Some(mut part) = reader.next_part().unwrap() {
        while !part.is_empty() {
            landing.land(&Batch::take(&mut part).unwrap()).unwrap();
        }
    }
}

fn landing_for(image: &Arc<Pages>) -> Landing {
    let most = ROOM.capacity as u64;
    Landing::new([(image, ROOM, most)].into_iter(), most).unwrap()
}

#[test]
fn what_is_read_through_a_window_lands_as_it_was_in_however_many_rounds() {
    let seed = std::env::var("LIMOSA_SEED").map_or(1, |seed| seed.parse().unwrap());
    for (number, pool) in pools().into_iter().enumerate() {
        let mut rng = Rng::with_seed(seed);
        println!("pool {number}, seed {seed}");
        for _ in 0..60 {
            let begin = random_pages(&mut rng, 40);
            let image = Pages::of_image(&pool, &begin, 4 * UNIT).unwrap();
            // Used ones too, which keep pages of their own.
            let slot = Arc::new(Slot::of_pages(&image, ROOM).unwrap());
            let mut landing = landing_for(&image);
            let window = Window::on(&slot, &image);
            for round in 0..3 {
                let before = bytes(&slot).to_vec();
                if rng.bool() {
                    slot.grow(slot.size() + UNIT * rng.usize(0..3)).unwrap();
                }
                let memory = bytes(&slot);
                for _ in 0..rng.usize(..30) {
                    let page = rng.usize(..memory.len() / PAGE_BYTES) * PAGE_BYTES;
                    match rng.u8(..4) {
                        0 => memory[page..page + PAGE_BYTES].fill(0),
                        // As it was at first, perhaps.
                        1 => memory[page..page + PAGE_BYTES].fill(rng.u8(..3)),
                        _ => memory[page + rng.usize(..PAGE_BYTES)] = rng.u8(..),
                    }
                }
                let windows = vec![window.clone()];
                let reader = match round {
                    0 => PageReader::of_differing(windows),
                    _ => {
                        let pages = memory.chunks_exact(PAGE_BYTES).enumerate();
                        let changed = pages.filter(|(index, page)| {
                            let start = index * PAGE_BYTES;
                            before.get(start..start + PAGE_BYTES) != Some(*page)
                        });
                        let page = PAGE_BYTES as u64;
                        let parts = changed.map(|(index, _)| index as u64 * page);
                        let parts = parts.map(|start| start..start + page);
                        PageReader::of_parts(windows, vec![parts.collect()])
                    }
                };
                carry(reader, &mut landing);
            }
            let landed = landing.into_slots().next().unwrap();
            // Nothing is said of what it grew by and did not write.
            landed.grow(slot.size()).unwrap();
            assert!(bytes(&landed) == bytes(&slot));
        }
    }
}

#[test]
fn pages_that_can_be_nowhere_do_not_land() {
    let pool = Pool::new();
    let image = Pages::of_image(&pool, &[1], UNIT).unwrap();
    let land = |landing: &mut Landing, memory, first| {
        let mut writer = PartWriter::new();
        writer.pages(1).fill(9);
        writer.append((memory, first), 1, None, |_, _| PageKind::Given);
        landing.land(&Batch::take(&mut writer.part()).unwrap())
    };
    let pages = (3 * UNIT / PAGE_BYTES) as u64;
    let most = 3 * UNIT as u64;
    let new = |limit| Landing::new([(&image, ROOM, most)].into_iter(), limit);
    let mut landing = new(u64::MAX).unwrap();
    land(&mut landing, 0, pages - 1).unwrap();
    let refused = |result| matches!(result, Err(LandingError::Beyond { at, .. }) if at > most);
    assert!(refused(land(&mut landing, 0, pages)));
    assert!(refused(land(&mut landing, 0, (1 << 36) - 64)));
    let result = land(&mut landing, 1, 0);
    assert!(matches!(
        result,
        Err(LandingError::Memory {
            memory: 1,
            memories: 1
        })
    ));
    assert_eq!(landing.sizes().collect::<Vec<_>>(), [most]);
    // Nor more than there may be in all.
    let mut landing = new(2 * UNIT as u64).unwrap();
    land(&mut landing, 0, pages / 3).unwrap();
    let result = land(&mut landing, 0, pages - 1);
    assert!(matches!(result, Err(LandingError::Room(_))));
    assert!(matches!(new(UNIT as u64 - 1), Err(LandingError::Room(_))));
}

/// A tracker; without one on a system that has none, which is an error where all must be tried.
fn tracker(windows: Vec<Window>) -> Option<Tracker> {
    match Tracker::new(windows) {
        Ok(tracker) => Some(tracker),
        Err(reason) => {
            println!("skipped: {reason}");
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"));
            None
        }
    }
}

/// Takes what was written, and sends that.
fn round(tracker: &mut Tracker, window: &Window, landing: &mut Landing) {
    let parts = tracker.take().unwrap();
    carry(PageReader::of_parts(vec![window.clone()], parts), landing);
}

#[test]
fn every_page_that_is_written_between_two_looks_is_told() {
    let seed = std::env::var("LIMOSA_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let pool = Pool::new();
    let file = tempfile();
    for _ in 0..40 {
        let begin = random_pages(&mut rng, 40);
        let image = Pages::of_image(&pool, &begin, 4 * UNIT).unwrap();
        let slot = Arc::new(Slot::of_pages(&image, ROOM).unwrap());
        let window = Window::on(&slot, &image);
        for _ in 0..rng.usize(..60) {
            let at = rng.usize(..slot.size());
            bytes(&slot)[at] = rng.u8(..);
        }
        let mut landing = landing_for(&image);
        let Some(mut tracker) = tracker(vec![window.clone()]) else {
            return;
        };
        carry(PageReader::of_differing(vec![window.clone()]), &mut landing);
        for _ in 0..4 {
            if rng.u8(..3) == 0 {
                let size = (slot.size() + UNIT * rng.usize(0..4)).min(ROOM.capacity);
                slot.grow(size).unwrap();
            }
            let memory = bytes(&slot);
            let mut written = Vec::new();
            for _ in 0..rng.usize(..30) {
                let at = rng.usize(..memory.len());
                let end = (at + rng.usize(1..9000)).min(memory.len());
                match rng.u8(..4) {
                    0 => memory[at..end].fill(rng.u8(..3)),
                    // By the kernel, as for a host call.
                    1 => {
                        let end = end.min(at + 100);
                        file.read_exact_at(&mut memory[at..end], 0).unwrap();
                    }
                    // Only read.
                    2 => {
                        std::hint::black_box(memory[at]);
                        continue;
                    }
                    _ => memory[at] = memory[at].wrapping_add(1),
                }
                written.push(at);
            }
            let parts = tracker.take().unwrap();
            for at in written {
                let at = at as u64;
                let told = parts[0].iter().any(|part| part.contains(&at));
                assert!(told, "{at} was written, but told are {parts:?}");
            }
            carry(
                PageReader::of_parts(vec![window.clone()], parts),
                &mut landing,
            );
            assert!(tracker.take().unwrap()[0].is_empty());
        }
        drop(tracker);
        let landed = landing.into_slots().next().unwrap();
        landed.grow(slot.size()).unwrap();
        assert!(bytes(&landed) == bytes(&slot));
    }
}

fn tempfile() -> std::fs::File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::memfd_create("test", flags).unwrap());
    file.write_all_at(&[0xaa; 100], 0).unwrap();
    file
}

#[test]
fn what_is_written_by_another_thread_all_the_while_lands_whole() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let pool = Pool::new();
    let size = ROOM.capacity;
    let image = Pages::of_image(&pool, &[7; 100], size).unwrap();
    for seed in 0..20 {
        let slot = Arc::new(Slot::of_pages(&image, ROOM).unwrap());
        let window = Window::on(&slot, &image);
        let (stop, steps) = (AtomicBool::new(false), AtomicU64::new(0));
        // SAFETY: nobody else refers into the slot while the words are written, and they are aligned.
        let words = unsafe {
            let count = size / size_of::<AtomicU64>();
            std::slice::from_raw_parts(slot.base().cast::<AtomicU64>(), count)
        };
        let landed = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::with_seed(seed);
                while !stop.load(Ordering::Relaxed) {
                    words[rng.usize(..words.len())].fetch_add(1, Ordering::Relaxed);
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            });
            let wait = |more: u64| {
                let until = steps.load(Ordering::Relaxed) + more;
                while steps.load(Ordering::Relaxed) < until {
                    std::thread::yield_now();
                }
            };
            wait(1000);
            let tracker = tracker(vec![window.clone()]);
            let mut landing = landing_for(&image);
            carry(PageReader::of_differing(vec![window.clone()]), &mut landing);
            let Some(mut tracker) = tracker else {
                stop.store(true, Ordering::Relaxed);
                return None;
            };
            for _ in 0..5 {
                wait(100);
                round(&mut tracker, &window, &mut landing);
            }
            stop.store(true, Ordering::Relaxed);
            Some((tracker, landing))
        });
        let Some((mut tracker, mut landing)) = landed else {
            return;
        };
        round(&mut tracker, &window, &mut landing);
        let landed = landing.into_slots().next().unwrap();
        assert!(bytes(&landed) == bytes(&slot), "seed {seed}");
    }
}

#[test]
fn only_memory_that_is_there_is_tracked() {
    let pool = Pool::new();
    let image = Pages::of_image(&pool, &[1], UNIT).unwrap();
    assert!(Tracker::new(Vec::new()).is_err());
    let copy = Window::of_copy(vec![0; UNIT], &image);
    let refused = Tracker::new(vec![copy.clone()]).unwrap_err();
    assert!(!refused.to_string().is_empty());
    let slots = [(); 2].map(|()| Arc::new(Slot::of_pages(&image, ROOM).unwrap()));
    let [one, other] = slots.each_ref().map(|slot| Window::on(slot, &image));
    if let Some(tracker) = tracker(vec![one.clone()]) {
        assert!(tracker.tracks(std::slice::from_ref(&one)));
        for others in [
            vec![other.clone()],
            vec![copy],
            vec![one, other],
            Vec::new(),
        ] {
            assert!(!tracker.tracks(&others));
        }
    }
}
