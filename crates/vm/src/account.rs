//! What a process has consumed: a few counters, shared by who counts and who reads.
//!
//! Time is counted per poll: what its thread has used at the end, less what it had at the
//! beginning. Standard streams and sockets are counted where the kernel meets its ports, in
//! [`Metered`]; files and clocks, which are the kernel's own, by the kernel.

use crate::memory::{Budget, Slot};
use crate::ports::{
    ConnectError, Destination, Io, Network, Ports, Progress, Readiness, Stdio, Usage,
};
use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use wire::StreamId;
use wire::snapshot::{Listener, Stream};

/// What a process has consumed. CPU time and freezes count since it was born, on all machines
/// together; the rest since it came to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// CPU time, in nanoseconds, up to the last time it waited or froze.
    pub cpu_ns: u64,
    /// The part of it that the operating system took, in nanoseconds.
    pub kernel_ns: u64,
    /// Times it waited for something.
    pub voluntary_switches: u64,
    /// Times that the operating system took the processor away from it.
    pub involuntary_switches: u64,
    /// Page faults without reading from a disk.
    pub minor_faults: u64,
    /// Page faults with.
    pub major_faults: u64,
    /// Times it was frozen.
    pub freezes: u64,
    /// Times it was folded here.
    pub folds: u64,
    /// Bytes of linear memory that it has now.
    pub memory_bytes: u64,
    /// Bytes that its private files and their names take now.
    pub file_bytes: u64,
    /// Standard input, output and error.
    pub stdio: Traffic,
    /// Its private files.
    pub files: Traffic,
    /// Its connections.
    pub sockets: Traffic,
    /// Readings of clocks.
    pub clock_reads: u64,
}

/// What went through a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Reads that gave something, or the end.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes that took something.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// A poll that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The thread, as the system numbers it.
    pub thread: i32,
    /// CPU time of the thread when the poll began, in nanoseconds.
    pub began_at_ns: u64,
}

/// A handle on the accounts of a process that may be read from any thread while it runs.
#[derive(Clone, Debug)]
pub struct Meter {
    counts: Arc<Counts>,
    pub(crate) budget: Arc<Budget>,
    /// Where its memories lie.
    slots: Arc<Mutex<Vec<Weak<Slot>>>>,
}

#[derive(Debug, Default)]
struct Counts {
    cpu_ns: AtomicU64,
    kernel_ns: AtomicU64,
    voluntary_switches: AtomicU64,
    involuntary_switches: AtomicU64,
    minor_faults: AtomicU64,
    major_faults: AtomicU64,
    freezes: AtomicU64,
    folds: AtomicU64,
    clock_reads: AtomicU64,
    file_bytes: AtomicU64,
    devices: [DeviceCounts; 3],
    /// CPU time of the thread when it began to run the process.
    began_at_ns: AtomicU64,
    /// The thread that runs the process, 0 if none does.
    thread: AtomicI32,
}

#[derive(Debug, Default)]
struct DeviceCounts {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
}

/// What bytes go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Stdio,
    Files,
    Sockets,
}

fn add(count: &AtomicU64, more: u64) {
    // Nobody draws a conclusion from one counter about another.
    count.fetch_add(more, Ordering::Relaxed);
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

impl DeviceCounts {
    fn traffic(&self) -> Traffic {
        Traffic {
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            writes: get(&self.writes),
            written_bytes: get(&self.written_bytes),
        }
    }
}

impl Meter {
    pub(crate) fn new(cpu_ns: u64, freezes: u64, budget: Arc<Budget>) -> Meter {
        let counts = Counts {
            cpu_ns: cpu_ns.into(),
            freezes: freezes.into(),
            ..Counts::default()
        };
        Meter {
            counts: Arc::new(counts),
            budget,
            slots: Arc::default(),
        }
    }

    /// A memory of it lies there from now on.
    pub(crate) fn attach(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |known: &Weak<Slot>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(slot));
        if !slots.iter().any(known) {
            slots.retain(|slot| slot.strong_count() > 0);
            slots.push(Arc::downgrade(slot));
        }
    }

    /// Calls `visit` with the address range of each of its memories, which stays mapped meanwhile.
    pub fn each_memory(&self, mut visit: impl FnMut(Range<usize>)) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slots: Vec<Arc<Slot>> = slots.iter().filter_map(Weak::upgrade).collect();
        for slot in slots {
            let start = slot.base() as usize;
            visit(start..start + slot.size());
        }
    }

    /// The accounts as of now.
    pub fn read(&self) -> Accounts {
        let counts = &self.counts;
        let [stdio, files, sockets] = counts.devices.each_ref().map(DeviceCounts::traffic);
        let cpu_ns = get(&counts.cpu_ns);
        Accounts {
            cpu_ns,
            // It is told late, and by other means.
            kernel_ns: get(&counts.kernel_ns).min(cpu_ns),
            voluntary_switches: get(&counts.voluntary_switches),
            involuntary_switches: get(&counts.involuntary_switches),
            minor_faults: get(&counts.minor_faults),
            major_faults: get(&counts.major_faults),
            freezes: get(&counts.freezes),
            folds: get(&counts.folds),
            memory_bytes: self.budget.used(),
            file_bytes: get(&counts.file_bytes),
            stdio,
            files,
            sockets,
            clock_reads: get(&counts.clock_reads),
        }
    }

    /// Where it runs at this moment, if it does and that thread can be asked: what it has used
    /// since then is not in [`Meter::read`] yet.
    pub fn running(&self) -> Option<Running> {
        let thread = self.counts.thread.load(Ordering::Acquire);
        let began_at_ns = get(&self.counts.began_at_ns);
        (thread != 0).then_some(Running {
            thread,
            began_at_ns,
        })
    }

    pub(crate) fn begin_poll(&self, before: &Usage) {
        let counts = &self.counts;
        counts.began_at_ns.store(before.cpu_ns, Ordering::Relaxed);
        counts.thread.store(before.thread, Ordering::Release);
    }

    pub(crate) fn end_poll(&self, before: &Usage, after: &Usage, waits: bool) {
        let counts = &self.counts;
        counts.thread.store(0, Ordering::Release);
        add(&counts.cpu_ns, after.cpu_ns.saturating_sub(before.cpu_ns));
        add(&counts.voluntary_switches, waits.into());
        // Mostly equal: these are told now and then.
        for (count, before, after) in [
            (&counts.kernel_ns, before.kernel_ns, after.kernel_ns),
            (
                &counts.involuntary_switches,
                before.involuntary_switches,
                after.involuntary_switches,
            ),
            (
                &counts.minor_faults,
                before.minor_faults,
                after.minor_faults,
            ),
            (
                &counts.major_faults,
                before.major_faults,
                after.major_faults,
            ),
        ] {
            if after > before {
                add(count, after - before);
            }
        }
    }

    /// CPU time up to now, in the middle of a poll.
    pub(crate) fn cpu_now(&self, thread_cpu_ns: u64) -> u64 {
        let poll = thread_cpu_ns.saturating_sub(get(&self.counts.began_at_ns));
        get(&self.counts.cpu_ns).saturating_add(poll)
    }

    pub(crate) fn count_fold(&self) {
        add(&self.counts.folds, 1);
    }

    pub(crate) fn count_freeze(&self) {
        add(&self.counts.freezes, 1);
    }

    pub(crate) fn count_clock_read(&self) {
        add(&self.counts.clock_reads, 1);
    }

    pub(crate) fn set_file_bytes(&self, bytes: u64) {
        self.counts.file_bytes.store(bytes, Ordering::Relaxed);
    }

    fn device(&self, device: Device) -> &DeviceCounts {
        let [stdio, files, sockets] = &self.counts.devices;
        match device {
            Device::Stdio => stdio,
            Device::Files => files,
            Device::Sockets => sockets,
        }
    }

    pub(crate) fn count_read(&self, device: Device, bytes: usize) {
        let counts = self.device(device);
        add(&counts.reads, 1);
        add(&counts.read_bytes, bytes as u64);
    }

    pub(crate) fn count_written(&self, device: Device, bytes: usize) {
        let counts = self.device(device);
        add(&counts.writes, 1);
        add(&counts.written_bytes, bytes as u64);
    }

    /// The same ports, with what goes through standard streams and sockets counted here.
    pub(crate) fn metered(&self, ports: Ports) -> Ports {
        Ports {
            stdio: Arc::new(Metered(ports.stdio, self.clone())),
            network: Arc::new(Metered(ports.network, self.clone())),
            ..ports
        }
    }
}

/// A port, and the meter that counts what goes through it.
struct Metered<P: ?Sized>(Arc<P>, Meter);

impl Stdio for Metered<dyn Stdio> {
    fn read(&self, buffer: &mut [u8]) -> Io {
        let io = self.0.read(buffer);
        if let Io::Done(bytes) = io {
            self.1.count_read(Device::Stdio, bytes);
        }
        io
    }

    fn readable(&self) -> bool {
        self.0.readable()
    }

    fn write(&self, descriptor: u32, bytes: &[u8]) -> Io {
        let io = self.0.write(descriptor, bytes);
        if let Io::Done(bytes) = io {
            self.1.count_written(Device::Stdio, bytes);
        }
        io
    }

    fn terminal(&self, descriptor: u32) -> bool {
        self.0.terminal(descriptor)
    }

    fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }
}

impl Network for Metered<dyn Network> {
    fn accept(&self, listener: u16) -> Option<StreamId> {
        self.0.accept(listener)
    }

    fn connect(&self, to: &Destination) -> Result<StreamId, ConnectError> {
        self.0.connect(to)
    }

    fn progress(&self, stream: StreamId) -> Progress {
        self.0.progress(stream)
    }

    fn read(&self, stream: StreamId, buffer: &mut [u8], peek: bool) -> Io {
        let io = self.0.read(stream, buffer, peek);
        if let Io::Done(bytes) = io
            && !peek
        {
            self.1.count_read(Device::Sockets, bytes);
        }
        io
    }

    fn write(&self, stream: StreamId, bytes: &[u8]) -> Io {
        let io = self.0.write(stream, bytes);
        if let Io::Done(bytes) = io {
            self.1.count_written(Device::Sockets, bytes);
        }
        io
    }

    fn shutdown(&self, stream: StreamId, read: bool, write: bool) {
        self.0.shutdown(stream, read, write);
    }

    fn close(&self, stream: StreamId) {
        self.0.close(stream);
    }

    fn stream_readiness(&self, stream: StreamId) -> Readiness {
        self.0.stream_readiness(stream)
    }

    fn listener_readiness(&self, listener: u16) -> Readiness {
        self.0.listener_readiness(listener)
    }

    fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }

    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        self.0.seal()
    }

    fn unseal(&self) {
        self.0.unseal();
    }
}
