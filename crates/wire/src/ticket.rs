//! Tickets: one word of text that lets a node join a fleet.
//!
//! `limosa-` and then, in lowercase base32 (RFC 4648, no padding), these bytes:
//!
//! ```text
//! offset  size
//!      0     1  version, 1
//!      1    32  id of the node to join by
//!     33    32  the fleet's secret
//!     65     1  number of addresses, 1 to 8; then for each
//!            1    length in bytes, not 0
//!            …    the address, `host:port`, UTF-8
//!      …     4  the first bytes of BLAKE3 over all before
//! ```
//!
//! Who has the ticket can join, so it is shown only where it is asked for: `Display` writes it,
//! `Debug` does not.

use crate::NodeId;
use crate::link::Secret;
use std::fmt;
use std::str::FromStr;

/// What every ticket begins with.
pub const PREFIX: &str = "limosa-";

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Addresses in one ticket.
const MAX_ADDRESSES: usize = 8;
/// The longest text that can be a ticket: all addresses of the greatest length.
const MAX_TEXT: usize = 4096;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// How to join a fleet.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    node: NodeId,
    addresses: Vec<String>,
    secret: Secret,
}

/// Text that is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin like one.
    #[error("this is not a join ticket: tickets begin with `{PREFIX}`; `limosa up` prints one")]
    NotATicket,
    /// A character that no ticket has.
    #[error(
        "character {position} of the ticket, {found:?}, is not one that tickets have; copy it again"
    )]
    Character {
        /// Which character, from 1.
        position: usize,
        /// What is there.
        found: char,
    },
    /// The checksum does not match.
    #[error("the ticket is incomplete or mistyped; copy all of it again")]
    Checksum,
    /// It is of a later release.
    #[error(
        "the ticket is of version {0}, this release knows version {VERSION}; use a later release here"
    )]
    Newer(u8),
    /// The checksum matches but the content is not a ticket's.
    #[error("the ticket is malformed: {0}; make a new one")]
    Malformed(&'static str),
}

impl Ticket {
    /// A ticket for the node `node`, which listens at `addresses` (1 to 8 of at most 255 bytes).
    pub fn new(
        node: NodeId,
        addresses: Vec<String>,
        secret: Secret,
    ) -> Result<Ticket, TicketError> {
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(TicketError::Malformed("it needs 1 to 8 addresses"));
        }
        let fits = |address: &String| (1..=255).contains(&address.len());
        if !addresses.iter().all(fits) {
            return Err(TicketError::Malformed("an address needs 1 to 255 bytes"));
        }
        Ok(Ticket {
            node,
            addresses,
            secret,
        })
    }

    /// The node to join by.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it listens, `host:port` each.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The fleet's secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    fn from_bytes(bytes: &[u8]) -> Result<Ticket, TicketError> {
        let cut = || TicketError::Malformed("it ends too early");
        // The version first: another version may have its checksum elsewhere.
        match bytes.first() {
            Some(&version) if version > VERSION => return Err(TicketError::Newer(version)),
            _ => {}
        }
        let length = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(TicketError::Checksum)?;
        let (content, checksum) = bytes.split_at_checked(length).ok_or_else(cut)?;
        if self::checksum(content) != *checksum {
            return Err(TicketError::Checksum);
        }
        let (version, rest) = content.split_first().ok_or_else(cut)?;
        if *version != VERSION {
            return Err(TicketError::Malformed("its version is zero"));
        }
        let (node, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (secret, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (count, mut rest) = rest.split_first().ok_or_else(cut)?;
        let mut addresses = Vec::new();
        for _ in 0..*count {
            let (length, after) = rest.split_first().ok_or_else(cut)?;
            let (address, after) = after
                .split_at_checked(usize::from(*length))
                .ok_or_else(cut)?;
            let address = std::str::from_utf8(address)
                .map_err(|_| TicketError::Malformed("an address is not text"))?;
            addresses.push(address.to_owned());
            rest = after;
        }
        if !rest.is_empty() {
            return Err(TicketError::Malformed("bytes follow its addresses"));
        }
        Ticket::new(NodeId(*node), addresses, Secret(*secret))
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = *blake3::hash(content).as_bytes();
    [a, b, c, d]
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("node", &self.node)
            .field("addresses", &self.addresses)
            .field("secret", &self.secret)
            .finish()
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.node.0);
        bytes.extend(self.secret.0);
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            bytes.push(address.len() as u8);
            bytes.extend(address.as_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        write!(f, "{PREFIX}{}", to_base32(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket; blanks around it and capitals do not matter.
    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        let text = text.trim();
        let head = text.get(..PREFIX.len()).unwrap_or_default();
        if !head.eq_ignore_ascii_case(PREFIX) || text.len() > MAX_TEXT {
            return Err(TicketError::NotATicket);
        }
        Ticket::from_bytes(&from_base32(&text[PREFIX.len()..])?)
    }
}

fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut pending, mut bits) = (0u32, 0);
    for byte in bytes {
        pending = pending << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(pending >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(pending << (5 - bits)) as usize & 31]));
    }
    text
}

fn from_base32(text: &str) -> Result<Vec<u8>, TicketError> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut pending, mut bits) = (0u32, 0);
    for (index, found) in text.chars().enumerate() {
        let digit = match found.to_ascii_lowercase() {
            letter @ 'a'..='z' => letter as u32 - 'a' as u32,
            digit @ '2'..='7' => digit as u32 - '2' as u32 + 26,
            _ => {
                let position = PREFIX.len() + index + 1;
                return Err(TicketError::Character { position, found });
            }
        };
        pending = pending << 5 | digit;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((pending >> bits) as u8);
        }
    }
    // What is left over belongs to no byte: fewer than five bits, all zero.
    if bits >= 5 || pending & ((1 << bits) - 1) != 0 {
        return Err(TicketError::Checksum);
    }
    Ok(bytes)
}
