//! Values of options that are checked before anything starts. (Listeners and directories have
//! files of their own: `listen`, `tree`.)

use std::net::{IpAddr, SocketAddr};
use wire::name::NameError;

/// The name of a process or node.
pub fn name(text: &str) -> Result<String, NameError> {
    wire::name::check_name(text).map(|()| text.to_owned())
}

/// `K=V` as it is; `K` with the value that it has here.
pub fn variable(text: &str) -> Result<String, String> {
    variable_with(text, |name| std::env::var_os(name))
}

fn variable_with(
    text: &str,
    here: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("the name is missing; give K=V, as in LANG=C".to_owned()),
        Some(_) => Ok(text.to_owned()),
        None if text.is_empty() => Err("give K=V, as in LANG=C".to_owned()),
        None => match here(text).map(std::ffi::OsString::into_string) {
            Some(Ok(value)) => Ok(format!("{text}={value}")),
            Some(Err(_)) => Err(format!("the value of `{text}` here is not UTF-8; give K=V")),
            None => Err(format!(
                "`{text}` has no value here that could be taken; give K=V, as in {text}=value"
            )),
        },
    }
}

/// What a process or node is called by: name, id, or the first digits of the id.
pub fn reference(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("give a name, an id, or the first digits of an id".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// A number of bytes, with a unit if it is large: `K`, `M`, `G`, or the same with `iB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "give a number of bytes, as in 65536, 512K, 64M or 2G".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.get(digits.len()..) {
        Some("") => 0,
        Some("K" | "k" | "KiB") => 10,
        Some("M" | "m" | "MiB") => 20,
        Some("G" | "g" | "GiB") => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Where links listen: `ADDR:PORT`, with a name of a machine allowed for the address.
pub fn link_address(text: &str) -> Result<String, String> {
    let whole = text.parse::<SocketAddr>().is_ok();
    let named = text.rsplit_once(':').is_some_and(|(host, port)| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        !host.is_empty() && host.chars().all(fits) && port.parse::<u16>().is_ok()
    });
    if whole || named {
        return Ok(text.to_owned());
    }
    let example = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 7420).to_string(),
        Err(_) => match text.parse::<u16>() {
            Ok(port) => format!("127.0.0.1:{port}"),
            Err(_) => "192.0.2.7:7420".to_owned(),
        },
    };
    Err(format!(
        "give an address and a port from 0 to 65535 (0: any free one), as in {example}"
    ))
}

/// Bytes per second, with the units of [`bytes`]; or bits per second with those of networks: `1Gbit`.
pub fn rate(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 3] = [
        ("kbit", 1_000),
        ("Mbit", 1_000_000),
        ("Gbit", 1_000_000_000),
    ];
    let in_bits = |(unit, factor): (&str, u64)| {
        let number = text.strip_suffix(unit)?;
        let bits = number.parse::<u64>().ok()?.checked_mul(factor)?;
        Some(bits / 8)
    };
    let rate = UNITS.into_iter().find_map(in_bits);
    match rate.or_else(|| bytes(text).ok()) {
        Some(rate) if rate > 0 => Ok(rate),
        _ => Err("give bytes per second, as in 50M, or bits, as in 400Mbit".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_of_1024() {
        for (text, count) in [
            ("0", 0),
            ("65536", 65536),
            ("512K", 512 << 10),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("4G", 4 << 30),
        ] {
            assert_eq!(bytes(text), Ok(count), "{text}");
        }
        for wrong in ["", "M", "-1", "1.5G", "1T", "1MB", "1 M", "99999999999G"] {
            assert!(bytes(wrong).unwrap_err().contains("64M"), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_in_bytes_or_bits_per_second() {
        for (text, count) in [
            ("1000", 1000),
            ("50M", 50 << 20),
            ("64KiB", 64 << 10),
            ("1Gbit", 125_000_000),
            ("10Mbit", 1_250_000),
        ] {
            assert_eq!(rate(text), Ok(count), "{text}");
        }
        for wrong in [
            "",
            "fast",
            "0",
            "-1M",
            "1 parsec",
            "Mbit",
            "99999999999Gbit",
            "7bit",
        ] {
            assert!(rate(wrong).unwrap_err().contains("50M"), "{wrong}");
        }
    }

    #[test]
    fn a_variable_without_a_value_takes_the_one_it_has_here() {
        let read = |text| variable_with(text, |name| (name == "HERE").then(|| "so".into()));
        assert_eq!(read("A=1").as_deref(), Ok("A=1"));
        assert_eq!(read("A=").as_deref(), Ok("A="));
        assert_eq!(read("A=b=c").as_deref(), Ok("A=b=c"));
        assert_eq!(read("HERE").as_deref(), Ok("HERE=so"));
        for wrong in ["", "=", "=x", "NOT_HERE"] {
            assert!(read(wrong).unwrap_err().contains("K=V"), "{wrong}");
        }
    }

    #[test]
    fn a_link_listens_at_an_address_and_a_port() {
        for fits in ["127.0.0.1:7420", "[::1]:0", "localhost:1", "a-b.example:9"] {
            assert_eq!(link_address(fits).as_deref(), Ok(fits));
        }
        for (wrong, example) in [
            ("", "192.0.2.7:7420"),
            ("foo", "192.0.2.7:7420"),
            ("foo:", "192.0.2.7:7420"),
            (":80", "192.0.2.7:7420"),
            ("1.2.3.4:65536", "192.0.2.7:7420"),
            ("1.2.3.4", "1.2.3.4:7420"),
            ("::1", "[::1]:7420"),
            ("7421", "127.0.0.1:7421"),
        ] {
            let error = link_address(wrong).unwrap_err();
            assert!(error.contains(example), "{wrong}: {error}");
        }
    }
}
