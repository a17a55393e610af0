//! Numbers of WASI preview 1: error codes, rights, flags, sizes of its structures.

/// An error code, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub u16);

macro_rules! errnos {
    ($($name:ident = $value:literal,)*) => {
        #[allow(dead_code)] // The table is the standard's; not every code has a use yet.
        impl Errno {
            $(pub(crate) const $name: Errno = Errno($value);)*
        }
    };
}

errnos! {
    AGAIN = 6,
    BADF = 8,
    BUSY = 10,
    CONNRESET = 15,
    EXIST = 20,
    FAULT = 21,
    FBIG = 22,
    ILSEQ = 25,
    INVAL = 28,
    ISDIR = 31,
    LOOP = 32,
    MFILE = 33,
    MLINK = 34,
    NAMETOOLONG = 37,
    NOENT = 44,
    NOSPC = 51,
    NOSYS = 52,
    NOTCONN = 53,
    NOTDIR = 54,
    NOTEMPTY = 55,
    NOTSOCK = 57,
    NOTSUP = 58,
    OVERFLOW = 61,
    PERM = 63,
    PIPE = 64,
    SPIPE = 70,
    NOTCAPABLE = 76,
}

/// What a call of the kernel gives.
pub(crate) type Call<T = ()> = Result<T, Errno>;

/// File types.
pub(crate) mod filetype {
    pub(crate) const UNKNOWN: u8 = 0;
    pub(crate) const CHARACTER_DEVICE: u8 = 2;
    pub(crate) const DIRECTORY: u8 = 3;
    pub(crate) const REGULAR_FILE: u8 = 4;
    pub(crate) const SOCKET_STREAM: u8 = 6;
    pub(crate) const SYMBOLIC_LINK: u8 = 7;
}

/// Rights of a descriptor. Only reading and writing are enforced, as every runtime in use does
/// today; the others are kept because guests ask for them.
pub(crate) mod rights {
    pub(crate) const FD_READ: u64 = 1 << 1;
    pub(crate) const FD_SEEK: u64 = 1 << 2;
    pub(crate) const FD_TELL: u64 = 1 << 5;
    pub(crate) const FD_WRITE: u64 = 1 << 6;
    pub(crate) const ALL: u64 = (1 << 30) - 1;
    /// What standard streams and sockets cannot do.
    pub(crate) const NOT_FOR_STREAMS: u64 = FD_SEEK | FD_TELL;
}

/// Flags of a descriptor.
pub(crate) mod fdflags {
    pub(crate) const APPEND: u16 = 1;
    pub(crate) const NONBLOCK: u16 = 4;
    pub(crate) const ALL: u16 = 0x1f;
}

/// Flags of `path_open`.
pub(crate) mod oflags {
    pub(crate) const CREAT: u32 = 1;
    pub(crate) const DIRECTORY: u32 = 2;
    pub(crate) const EXCL: u32 = 4;
    pub(crate) const TRUNC: u32 = 8;
    pub(crate) const ALL: u32 = 15;
}

/// The only flag of a path lookup.
pub(crate) const LOOKUP_SYMLINK_FOLLOW: u32 = 1;

/// Flags of the calls that set times.
pub(crate) mod fstflags {
    pub(crate) const ATIM: u32 = 1;
    pub(crate) const ATIM_NOW: u32 = 2;
    pub(crate) const MTIM: u32 = 4;
    pub(crate) const MTIM_NOW: u32 = 8;
    pub(crate) const ALL: u32 = 15;
}

/// Clocks.
pub(crate) mod clockid {
    pub(crate) const REALTIME: u32 = 0;
    pub(crate) const MONOTONIC: u32 = 1;
    pub(crate) const PROCESS_CPUTIME: u32 = 2;
    pub(crate) const THREAD_CPUTIME: u32 = 3;
}

/// Kinds of subscriptions and events of `poll_oneoff`.
pub(crate) mod eventtype {
    pub(crate) const CLOCK: u8 = 0;
    pub(crate) const FD_READ: u8 = 1;
    pub(crate) const FD_WRITE: u8 = 2;
}

pub(crate) const SUBSCRIPTION_BYTES: u32 = 48;
pub(crate) const EVENT_BYTES: u32 = 32;
pub(crate) const DIRENT_BYTES: usize = 24;
pub(crate) const FILESTAT_BYTES: usize = 64;
pub(crate) const FDSTAT_BYTES: usize = 24;
/// Buffers of one vectored read or write.
pub(crate) const MAX_IOVECS: u32 = 1024;
