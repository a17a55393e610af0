//! Where a process may connect to, as `--allow-net` and the API say it.
//!
//! ```text
//! rule  = host ":" port
//! host  = "*"                     any host
//!       | "example.org"           this name
//!       | "*.example.org"         every name below it
//!       | "10.1.2.3" | "[fd00::1]"         this address
//!       | "10.0.0.0/8" | "[fd00::/8]"      every address of this network
//! port  = "*" | 1 … 65535
//! ```
//!
//! What follows from a list of them is decided where connections are made (`gateway::Policy`).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The longest name of a host, in bytes.
pub const MAX_HOST: usize = 253;

/// One destination, or many alike, that a process may connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// Which hosts.
    pub host: Hosts,
    /// Which port; any if absent.
    pub port: Option<u16>,
}

/// Which hosts a rule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// All.
    Any,
    /// The one of this name, in lower case.
    Name(String),
    /// All whose names end in a dot and this, in lower case.
    Below(String),
    /// All whose addresses begin with these bits of this one.
    Network {
        /// The address; what lies behind the bits is zero.
        address: IpAddr,
        /// How many bits.
        bits: u8,
    },
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` says no destination; give HOST:PORT, as in example.org:443, *.example.org:443, \
     10.0.0.0/8:5432, [fd00::/8]:80 or example.org:*"
)]
pub struct NoRule(String);

impl Hosts {
    fn read(text: &str) -> Option<Hosts> {
        if text == "*" {
            return Some(Hosts::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return host_name(suffix).map(Hosts::Below);
        }
        let inner = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        let bare = inner.unwrap_or(text);
        let (address, bits) = match bare.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (bare, None),
        };
        match address.parse::<IpAddr>() {
            // Without brackets nobody knows where the port begins.
            Ok(IpAddr::V6(_)) if inner.is_none() => None,
            Ok(IpAddr::V4(_)) if inner.is_some() => None,
            Ok(address) => network(address, bits),
            Err(_) if inner.is_some() || bits.is_some() => None,
            Err(_) => host_name(text).map(Hosts::Name),
        }
    }

    /// Whether this address is meant, written as itself.
    pub fn has_address(&self, address: IpAddr) -> bool {
        match self {
            Hosts::Any => true,
            Hosts::Name(_) | Hosts::Below(_) => false,
            Hosts::Network {
                address: network,
                bits,
            } => masked(address.to_canonical(), *bits) == Some(*network),
        }
    }

    /// Whether this name is meant, whatever its address is.
    pub fn has_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self {
            Hosts::Any => true,
            Hosts::Name(meant) => *meant == name,
            Hosts::Below(suffix) => name
                .strip_suffix(suffix.as_str())
                .and_then(|begin| begin.strip_suffix('.'))
                .is_some_and(|begin| !begin.is_empty()),
            Hosts::Network { .. } => false,
        }
    }
}

/// A host's name in lower case and without the dot at its end, if it can be one.
pub fn host_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let parts_fit = text.split('.').all(|part| !part.is_empty());
    let is_name = text.len() <= MAX_HOST && text.chars().all(fits) && parts_fit;
    is_name.then(|| text.to_ascii_lowercase())
}

fn network(address: IpAddr, bits: Option<u8>) -> Option<Hosts> {
    let (address, bits) = match (address, bits) {
        // An address of IPv4 in that of IPv6 is one of IPv4.
        (IpAddr::V6(v6), None) => (v6.to_canonical(), None),
        other => other,
    };
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(all);
    let begin = masked(address, bits)?;
    // 10.1.2.3/8 is a mistake in one or the other.
    (begin == address).then_some(Hosts::Network { address, bits })
}

/// The first bits of an address; none if it has not so many.
fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => {
            let rest = 32u32.checked_sub(bits.into())?;
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let rest = 128u32.checked_sub(bits.into())?;
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    })
}

impl Rule {
    /// Whether this port is meant.
    pub fn has_port(&self, port: u16) -> bool {
        self.port.is_none_or(|meant| meant == port)
    }
}

impl FromStr for Rule {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Rule, NoRule> {
        let read = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = match port {
                "*" => None,
                // Not `+80`, and not 0, which no host listens on.
                port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Some(port.parse().ok().filter(|port| *port != 0)?)
                }
                _ => return None,
            };
            let host = Hosts::read(host)?;
            Some(Rule { host, port })
        };
        read().ok_or_else(|| NoRule(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Hosts::Any => f.write_str("*")?,
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Below(suffix) => write!(f, "*.{suffix}")?,
            Hosts::Network { address, bits } => match (address, bits) {
                (IpAddr::V4(v4), 32) => write!(f, "{v4}")?,
                (IpAddr::V4(v4), bits) => write!(f, "{v4}/{bits}")?,
                (IpAddr::V6(v6), 128) => write!(f, "[{v6}]")?,
                (IpAddr::V6(v6), bits) => write!(f, "[{v6}/{bits}]")?,
            },
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = NoRule;

    fn try_from(text: String) -> Result<Rule, NoRule> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for text in [
            "*:*",
            "*:443",
            "example.org:443",
            "*.example.org:*",
            "10.1.2.3:80",
            "10.0.0.0/8:5432",
            "0.0.0.0/0:1",
            "[fd00::1]:80",
            "[fd00::/8]:*",
            "[::/0]:65535",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
        assert_eq!(rule("Example.ORG.:80").to_string(), "example.org:80");
        assert_eq!(rule("[::ffff:10.0.0.1]:80").to_string(), "10.0.0.1:80");
    }

    #[test]
    fn what_is_no_rule_is_refused_with_examples() {
        for text in [
            "",
            ":",
            ":80",
            "example.org",
            "example.org:",
            "example.org:0",
            "example.org:+80",
            "example.org:65536",
            "example.org:http",
            "*example.org:80",
            "a..b:80",
            "a b:80",
            "10.1.2.3/8:80",
            "10.0.0.0/33:80",
            "10.0.0.0/:80",
            "fd00::1:80",
            "[fd00::1:80",
            "[10.0.0.1]:80",
            "[example.org]:80",
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.to_string().contains("example.org:443"), "{text}");
        }
        assert!(format!("{}:80", "a".repeat(254)).parse::<Rule>().is_err());
    }

    #[test]
    fn a_rule_means_its_hosts_and_no_others() {
        let names = [
            ("*:1", "x", true),
            ("a.org:1", "A.org.", true),
            ("a.org:1", "b.a.org", false),
            ("*.a.org:1", "b.a.org", true),
            ("*.a.org:1", "c.b.a.org", true),
            ("*.a.org:1", "a.org", false),
            ("*.a.org:1", "ba.org", false),
            ("*.a.org:1", ".a.org", false),
            ("0.0.0.0/0:1", "a.org", false),
        ];
        for (text, name, meant) in names {
            assert_eq!(rule(text).host.has_name(name), meant, "{text} {name}");
        }
        let addresses = [
            ("*:1", "10.0.0.1", true),
            ("a.org:1", "10.0.0.1", false),
            ("10.0.0.0/8:1", "10.255.0.1", true),
            ("10.0.0.0/8:1", "11.0.0.1", false),
            ("10.0.0.0/8:1", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8:1", "a00::", false),
            ("0.0.0.0/0:1", "::1", false),
            ("[fd00::/8]:1", "fdff::1", true),
            ("[fd00::/8]:1", "fe00::1", false),
            ("[::/0]:1", "10.0.0.1", false),
        ];
        for (text, address, meant) in addresses {
            let host = rule(text).host;
            let address = address.parse().unwrap();
            assert_eq!(host.has_address(address), meant, "{text} {address}");
        }
        assert!(rule("a:*").has_port(9) && rule("a:9").has_port(9) && !rule("a:9").has_port(8));
    }
}
