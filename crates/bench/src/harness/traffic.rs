//! Scripted clients of the accounts server: its sockets without a network.
//!
//! A few connections stay open; each asks its next request as soon as its answer is complete, as
//! the demo's clients do. All requests are made before the clock starts, and answers are only added
//! up, so that what is measured is the guest and its host calls.

use std::sync::Arc;

/// Connections that are open at once.
const CONNECTIONS: u32 = 8;
/// The descriptor of the listener; connections follow.
pub(crate) const LISTENER: u32 = 3;
const FIRST_CONNECTION: u32 = LISTENER + 1;
/// Every answer of the server ends with a body; this many bytes of script per request, about.
const BYTES_PER_REQUEST: usize = 90;

/// All requests of a run, in order; the last one ends the server.
pub(crate) struct Script {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Script {
    /// So many transfers and questions, the same for every run.
    pub fn new(requests: u32) -> Script {
        let mut script = Script {
            bytes: Vec::with_capacity(requests as usize * BYTES_PER_REQUEST),
            ends: Vec::with_capacity(requests as usize + 1),
        };
        let mut rng = fastrand::Rng::with_seed(1);
        for id in 0..requests {
            let from = rng.u32(0..1024);
            let to = (from + rng.u32(1..1024)) % 1024;
            let request = if id % 8 == 7 {
                format!("GET /balance/{to} HTTP/1.1\r\nHost: bank\r\n\r\n")
            } else {
                let amount = rng.u32(1..9);
                format!(
                    "POST /transfer?from={from}&to={to}&amount={amount}&id={id} HTTP/1.1\r\n\
                     Host: bank\r\nContent-Length: 0\r\n\r\n"
                )
            };
            script.push(&request);
        }
        script.push("GET /quit HTTP/1.1\r\nHost: bank\r\n\r\n");
        script
    }

    fn push(&mut self, request: &str) {
        self.bytes.extend(request.as_bytes());
        self.ends.push(self.bytes.len());
    }

    fn request(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends.get(number)?;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }
}

/// One client.
#[derive(Clone, Copy, Default)]
struct Client {
    /// The request it has sent, by number.
    request: Option<usize>,
    /// How much of it the server has read.
    read: usize,
}

/// The clients' side of all connections.
#[derive(Clone)]
pub(crate) struct Traffic {
    script: Arc<Script>,
    clients: [Client; CONNECTIONS as usize],
    accepted: u32,
    next: usize,
    answered: usize,
    bytes: u64,
    checksum: u64,
}

impl Traffic {
    /// Clients that follow this script.
    pub fn new(script: Arc<Script>) -> Traffic {
        Traffic {
            script,
            clients: Default::default(),
            accepted: 0,
            next: 0,
            answered: 0,
            bytes: 0,
            checksum: 0,
        }
    }

    /// Accepts a waiting connection: its descriptor.
    pub fn accept(&mut self) -> Option<u32> {
        if self.accepted == CONNECTIONS {
            return None;
        }
        let index = self.accepted;
        self.accepted += 1;
        self.ask(index as usize);
        Some(FIRST_CONNECTION + index)
    }

    /// How many connections are waiting to be accepted.
    pub fn waiting(&self) -> usize {
        (CONNECTIONS - self.accepted) as usize
    }

    /// The connections that were accepted.
    pub fn connections(&self) -> std::ops::Range<u32> {
        FIRST_CONNECTION..FIRST_CONNECTION + self.accepted
    }

    /// How many bytes (or connections) are waiting on a descriptor.
    pub fn readable(&self, descriptor: u32) -> usize {
        if descriptor == LISTENER {
            return self.waiting();
        }
        self.client(descriptor)
            .and_then(|client| {
                let request = self.script.request(client.request?)?;
                Some(request.len() - client.read)
            })
            .unwrap_or(0)
    }

    /// Reads from a connection; `None` if nothing is there.
    pub fn read(&mut self, descriptor: u32, buffer: &mut [u8]) -> Option<usize> {
        let index = self.index(descriptor)?;
        let client = &mut self.clients[index];
        let rest = &self.script.request(client.request?)?[client.read..];
        let count = rest.len().min(buffer.len());
        if count == 0 {
            return None;
        }
        buffer[..count].copy_from_slice(&rest[..count]);
        client.read += count;
        Some(count)
    }

    /// Writes an answer to a connection, which asks its next request. The server writes each
    /// answer by one call: they are short.
    pub fn write(&mut self, descriptor: u32, bytes: &[u8]) -> usize {
        if let Some(index) = self.index(descriptor) {
            self.bytes += bytes.len() as u64;
            for word in bytes.chunks(8) {
                let mut padded = [0; 8];
                padded[..word.len()].copy_from_slice(word);
                self.checksum = (self.checksum ^ u64::from_le_bytes(padded))
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .rotate_left(23);
            }
            self.answered += 1;
            self.ask(index);
        }
        bytes.len()
    }

    /// Whether this is one of the connections.
    pub fn is_connection(&self, descriptor: u32) -> bool {
        self.index(descriptor).is_some()
    }

    /// What the server answered, in short.
    pub fn summary(&self) -> String {
        format!(
            "{} answers, {} bytes, {:016x}",
            self.answered, self.bytes, self.checksum
        )
    }

    /// The next request goes out; the one that ends the server only after all other answers.
    fn ask(&mut self, index: usize) {
        let last = self.script.ends.len() - 1;
        let client = &mut self.clients[index];
        *client = Client::default();
        if self.next < last || (self.next == last && self.answered == last) {
            client.request = Some(self.next);
            self.next += 1;
        }
    }

    fn index(&self, descriptor: u32) -> Option<usize> {
        let index = descriptor.checked_sub(FIRST_CONNECTION)?;
        (index < self.accepted).then_some(index as usize)
    }

    fn client(&self, descriptor: u32) -> Option<&Client> {
        Some(&self.clients[self.index(descriptor)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_asked_once_and_the_last_only_after_all_answers() {
        let mut traffic = Traffic::new(Arc::new(Script::new(50)));
        let descriptors: Vec<u32> = std::iter::from_fn(|| traffic.accept()).collect();
        assert_eq!(descriptors.len(), CONNECTIONS as usize);
        assert_eq!(traffic.readable(LISTENER), 0);
        let (mut asked, mut quit) = (0, false);
        let mut turn = 0;
        while !quit {
            let descriptor = descriptors[turn % descriptors.len()];
            turn += 1;
            assert!(turn < 1000, "the traffic stands still");
            let waiting = traffic.readable(descriptor);
            if waiting == 0 {
                continue;
            }
            let mut request = vec![0; waiting];
            assert_eq!(traffic.read(descriptor, &mut request), Some(waiting));
            assert_eq!(traffic.read(descriptor, &mut request), None);
            let text = String::from_utf8(request).unwrap();
            quit = text.starts_with("GET /quit");
            assert!(!quit || asked == 50, "the end came after {asked} requests");
            asked += 1;
            traffic.write(descriptor, b"HTTP/1.1 200 OK\r\n\r\n");
        }
        assert_eq!(asked, 51);
        assert!(traffic.summary().starts_with("51 answers, 969 bytes"));
    }

    #[test]
    fn a_request_can_be_read_in_pieces() {
        let mut traffic = Traffic::new(Arc::new(Script::new(1)));
        let descriptor = traffic.accept().unwrap();
        let whole = traffic.readable(descriptor);
        let mut piece = [0; 10];
        assert_eq!(traffic.read(descriptor, &mut piece), Some(10));
        assert_eq!(&piece, b"POST /tran");
        assert_eq!(traffic.readable(descriptor), whole - 10);
        assert_eq!(traffic.read(99, &mut piece), None);
        assert!(!traffic.is_connection(LISTENER));
    }
}
