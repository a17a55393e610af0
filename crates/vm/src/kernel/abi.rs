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
    ACCES = 2,
    AGAIN = 6,
    BADF = 8,
    BUSY = 10,
    CONNREFUSED = 14,
    CONNRESET = 15,
    DQUOT = 19,
    EXIST = 20,
    FAULT = 21,
    FBIG = 22,
    HOSTUNREACH = 23,
    ILSEQ = 25,
    INTR = 27,
    INVAL = 28,
    IO = 29,
    ISDIR = 31,
    LOOP = 32,
    MFILE = 33,
    MLINK = 34,
    NAMETOOLONG = 37,
    NFILE = 41,
    NOENT = 44,
    NOMEM = 48,
    NOSPC = 51,
    NOSYS = 52,
    NOTCONN = 53,
    NOTDIR = 54,
    NOTEMPTY = 55,
    NOTSOCK = 57,
    NOTSUP = 58,
    NXIO = 60,
    OVERFLOW = 61,
    PERM = 63,
    PIPE = 64,
    ROFS = 69,
    SPIPE = 70,
    STALE = 72,
    TXTBSY = 74,
    XDEV = 75,
    TIMEDOUT = 73,
    NOTCAPABLE = 76,
}

/// What a call of the kernel gives.
pub(crate) type Call<T = ()> = Result<T, Errno>;

/// File types.
pub(crate) mod filetype {
    pub(crate) const UNKNOWN: u8 = 0;
    pub(crate) const BLOCK_DEVICE: u8 = 1;
    pub(crate) const CHARACTER_DEVICE: u8 = 2;
    pub(crate) const DIRECTORY: u8 = 3;
    pub(crate) const REGULAR_FILE: u8 = 4;
    pub(crate) const SOCKET_STREAM: u8 = 6;
    pub(crate) const SYMBOLIC_LINK: u8 = 7;
}

/// Rights of a descriptor: what it may be used for, and what a descriptor that is opened through it
/// may. A right can be given up, never gained.
pub(crate) mod rights {
    macro_rules! rights {
        ($($name:ident = $bit:literal,)*) => { $(pub(crate) const $name: u64 = 1 << $bit;)* };
    }

    rights! {
        FD_DATASYNC = 0,
        FD_READ = 1,
        FD_SEEK = 2,
        FD_FDSTAT_SET_FLAGS = 3,
        FD_SYNC = 4,
        FD_TELL = 5,
        FD_WRITE = 6,
        FD_ADVISE = 7,
        FD_ALLOCATE = 8,
        PATH_CREATE_DIRECTORY = 9,
        PATH_CREATE_FILE = 10,
        PATH_LINK_SOURCE = 11,
        PATH_LINK_TARGET = 12,
        PATH_OPEN = 13,
        FD_READDIR = 14,
        PATH_READLINK = 15,
        PATH_RENAME_SOURCE = 16,
        PATH_RENAME_TARGET = 17,
        PATH_FILESTAT_GET = 18,
        PATH_FILESTAT_SET_SIZE = 19,
        PATH_FILESTAT_SET_TIMES = 20,
        FD_FILESTAT_GET = 21,
        FD_FILESTAT_SET_SIZE = 22,
        FD_FILESTAT_SET_TIMES = 23,
        PATH_SYMLINK = 24,
        PATH_REMOVE_DIRECTORY = 25,
        PATH_UNLINK_FILE = 26,
        POLL_FD_READWRITE = 27,
        SOCK_SHUTDOWN = 28,
        SOCK_ACCEPT = 29,
    }

    #[cfg(test)]
    pub(crate) const ALL: u64 = (1 << 30) - 1;

    /// What any descriptor can be used for.
    const ANY: u64 = FD_FDSTAT_SET_FLAGS | FD_FILESTAT_GET | POLL_FD_READWRITE;
    /// What a regular file can be used for.
    pub(crate) const FILE: u64 = ANY
        | FD_READ
        | FD_WRITE
        | FD_SEEK
        | FD_TELL
        | FD_SYNC
        | FD_DATASYNC
        | FD_ADVISE
        | FD_ALLOCATE
        | FD_FILESTAT_SET_SIZE
        | FD_FILESTAT_SET_TIMES;
    /// What a directory can be used for.
    pub(crate) const DIRECTORY: u64 = ANY
        | FD_SYNC
        | FD_DATASYNC
        | FD_ADVISE
        | FD_READDIR
        | FD_FILESTAT_SET_TIMES
        | PATH_CREATE_DIRECTORY
        | PATH_CREATE_FILE
        | PATH_LINK_SOURCE
        | PATH_LINK_TARGET
        | PATH_OPEN
        | PATH_READLINK
        | PATH_RENAME_SOURCE
        | PATH_RENAME_TARGET
        | PATH_FILESTAT_GET
        | PATH_FILESTAT_SET_SIZE
        | PATH_FILESTAT_SET_TIMES
        | PATH_SYMLINK
        | PATH_REMOVE_DIRECTORY
        | PATH_UNLINK_FILE;
    /// What standard input can be used for. Programs take a stream without the rights to seek and
    /// tell, and of the type of a character device, for a terminal.
    pub(crate) const INPUT: u64 = ANY | FD_READ;
    /// What standard output and error can be used for.
    pub(crate) const OUTPUT: u64 = ANY | FD_WRITE | FD_SYNC | FD_DATASYNC;
    /// What a connection can be used for.
    pub(crate) const SOCKET: u64 = ANY | FD_READ | FD_WRITE | SOCK_SHUTDOWN;
    /// What a listener can be used for; it is waited for as if it were read.
    pub(crate) const LISTENER: u64 = ANY | FD_READ | SOCK_ACCEPT;
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

/// Signals, as `proc_raise` numbers them.
pub(crate) mod signal {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const CHLD: u32 = 16;
    pub(crate) const CONT: u32 = 17;
    pub(crate) const STOP: u32 = 18;
    pub(crate) const TTOU: u32 = 21;
    pub(crate) const URG: u32 = 22;
    pub(crate) const WINCH: u32 = 27;
    pub(crate) const SYS: u32 = 30;
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
/// Bytes that are moved between two looks at whether the process is asked to freeze: 0.1 to 0.3 ms.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// Buffers of one vectored read or write.
pub(crate) const MAX_IOVECS: u32 = 1024;
