//! Reads `--listen [NAME=][ADDR:]PORT`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use wire::api::ListenSpec;

/// A listener to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(ListenSpec);

/// The name of a listener that was given none.
const NAME: &str = "listen";

impl Listen {
    /// As the API takes it.
    pub fn spec(&self) -> ListenSpec {
        self.0.clone()
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        let (name, place) = text.split_once('=').unwrap_or((NAME, text));
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(format!(
                "`{name}` cannot name a listener; use up to 64 letters, digits, `-`, `_` and `.`"
            ));
        }
        let address = if let Ok(port) = place.parse() {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
        } else {
            let place = place.replacen("localhost:", "127.0.0.1:", 1);
            place.parse().map_err(|_| {
                "give a port from 0 to 65535 (0: any free one), or an IP address and a port, as in \
                 8080, 0.0.0.0:8080, [::1]:8080 or web=8080"
            })?
        };
        Ok(Listen(ListenSpec {
            address: address.to_string(),
            name: name.to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_for_this_machine_only() {
        let read = |text: &str| {
            let Listen(ListenSpec { address, name }) = text.parse().unwrap();
            (name, address)
        };
        let expected = |name: &str, address: &str| (name.to_owned(), address.to_owned());
        assert_eq!(read("8080"), expected("listen", "127.0.0.1:8080"));
        assert_eq!(read("web=0"), expected("web", "127.0.0.1:0"));
        assert_eq!(read("0.0.0.0:80"), expected("listen", "0.0.0.0:80"));
        assert_eq!(read("a.b=[::1]:80"), expected("a.b", "[::1]:80"));
        assert_eq!(read("localhost:80"), expected("listen", "127.0.0.1:80"));
    }

    #[test]
    fn what_is_no_place_to_listen_is_refused_with_examples() {
        for text in [
            "",
            "x",
            "65536",
            "example.org:80",
            "=80",
            "a b=80",
            "1.2.3.4",
            "a:b=80",
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(
                error.contains("8080") || error.contains("cannot name"),
                "{text}: {error}"
            );
        }
    }
}
