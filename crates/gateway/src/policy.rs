//! Where a process may connect to.
//!
//! Nothing is allowed but what a rule allows. A destination is looked at twice. First as it was
//! asked for: a name that no rule could ever allow is not even looked up, so that a look-up tells
//! nobody anything. Then each address that the name turned out to have.
//!
//! Whoever answers for a name can give it any address. So a rule that allows a name does not allow
//! what only this machine, or this link, can reach: were `example.org` to turn into 127.0.0.1 or
//! into 169.254.169.254, the process would talk to the node itself or to its cloud. Such addresses
//! are allowed by rules about addresses, by `*`, and by the name `localhost`.

use std::net::IpAddr;
use wire::destination::{Hosts, Rule};

/// The name of this very machine, by the standard.
const LOCALHOST: &str = "localhost";

/// The destinations of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Allows what these rules do.
    pub fn new(rules: Vec<Rule>) -> Policy {
        Policy { rules }
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether any address that the name may have could be allowed. `port` 0 is any.
    pub fn may_look_up(&self, name: &str, port: u16) -> bool {
        self.about(port).any(|rule| match &rule.host {
            Hosts::Network { .. } => true,
            host => host.has_name(name),
        })
    }

    /// Whether this address may be connected to; `name` is what it was looked up for, if it was.
    /// `port` 0 is any.
    pub fn allows(&self, name: Option<&str>, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        self.about(port).any(|rule| {
            let host = &rule.host;
            host.has_address(address)
                || name.is_some_and(|name| {
                    let local = address.is_loopback() && *host == Hosts::Name(LOCALHOST.to_owned());
                    host.has_name(name) && (local || !is_near(address))
                })
        })
    }

    fn about(&self, port: u16) -> impl Iterator<Item = &Rule> {
        let about = move |rule: &&Rule| port == 0 || rule.has_port(port);
        self.rules.iter().filter(about)
    }
}

/// Whether an address means this machine, this link, or many.
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.octets().first() == Some(&0)
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[&str]) -> Policy {
        Policy::new(rules.iter().map(|rule| rule.parse().unwrap()).collect())
    }

    fn allows(rules: &[&str], name: Option<&str>, address: &str, port: u16) -> bool {
        policy(rules).allows(name, address.parse().unwrap(), port)
    }

    #[test]
    fn nothing_is_allowed_that_no_rule_allows() {
        assert!(!allows(&[], None, "10.0.0.1", 80));
        assert!(!policy(&[]).may_look_up("example.org", 80));
        assert!(!allows(&["10.0.0.1:80"], None, "10.0.0.1", 81));
        assert!(!allows(&["10.0.0.1:80"], None, "10.0.0.2", 80));
        assert!(!allows(&["a.org:80"], None, "10.0.0.1", 80));
        assert!(allows(&["10.0.0.1:80"], None, "::ffff:10.0.0.1", 80));
        assert!(allows(&["*:80"], None, "127.0.0.1", 80));
    }

    #[test]
    fn a_name_is_looked_up_only_where_that_can_lead_to_something() {
        let rules = ["a.org:80", "*.b.org:*", "10.0.0.0/8:5432"];
        let policy = policy(&rules);
        assert!(policy.may_look_up("a.org", 80) && !policy.may_look_up("a.org", 81));
        assert!(policy.may_look_up("x.b.org", 81) && !policy.may_look_up("c.org", 80));
        // What it turns out to be is looked at then.
        assert!(policy.may_look_up("c.org", 5432));
        assert!(allows(&rules, Some("c.org"), "10.0.0.1", 5432));
        assert!(!allows(&rules, Some("c.org"), "11.0.0.1", 5432));
    }

    #[test]
    fn a_name_does_not_lead_to_this_machine_or_its_link() {
        for near in [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!allows(&["a.org:80"], Some("a.org"), near, 80), "{near}");
            assert!(!allows(&["*.org:80"], Some("a.org"), near, 80), "{near}");
            assert!(allows(&["*:80"], Some("a.org"), near, 80), "{near}");
        }
        assert!(allows(&["a.org:80"], Some("a.org"), "10.0.0.1", 80));
        let both = ["a.org:80", "127.0.0.0/8:80"];
        assert!(allows(&both, Some("a.org"), "127.0.0.1", 80));
        assert!(allows(&["localhost:80"], Some("localhost"), "::1", 80));
        let elsewhere = "169.254.169.254";
        assert!(!allows(&["localhost:80"], Some("localhost"), elsewhere, 80));
    }
}
