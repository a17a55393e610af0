//! The fleet as this node sees it now: published by the node's loop, read by everyone.

use node::Named;
use overlay::membership::Health;
use std::collections::BTreeMap;
use tokio::sync::watch;
use wire::NodeId;
use wire::control::Member;

/// Members, their health, and who keeps the directory.
#[derive(Clone, Debug)]
pub struct FleetView {
    /// This node.
    pub me: Member,
    /// The node that keeps the directory.
    pub directory: NodeId,
    /// All members, this node included.
    pub members: BTreeMap<NodeId, Member>,
    /// How the others are seen.
    pub health: BTreeMap<NodeId, Health>,
}

/// The latest view.
pub type Fleet = watch::Receiver<FleetView>;

/// Why a text names no node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeReferenceError {
    /// None has this name or id.
    #[error("no such node: `{0}`; see `limosa nodes`")]
    Unknown(String),
    /// Several have this name.
    #[error("{count} nodes are called `{name}`; give the id of the one you mean")]
    SameName {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// Several begin so.
    #[error("`{text}` is the beginning of {count} node ids; give more digits")]
    Ambiguous {
        /// The text.
        text: String,
        /// How many.
        count: usize,
    },
}

impl FleetView {
    /// The members other than this node.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        let me = self.me.node;
        self.members
            .values()
            .filter(move |member| member.node != me)
    }

    /// How a member is seen; this node is alive, strangers are dead.
    pub fn health(&self, node: NodeId) -> Health {
        if node == self.me.node {
            return Health::Alive;
        }
        let member = self.members.contains_key(&node);
        match self.health.get(&node) {
            Some(health) if member => *health,
            // Known, not met yet.
            None if member => Health::Suspect,
            _ => Health::Dead,
        }
    }

    /// A member's name, or the beginning of its id.
    pub fn name(&self, node: NodeId) -> String {
        match self.members.get(&node) {
            Some(member) => member.name.clone(),
            None => node.short(),
        }
    }

    /// A node as messages name it: `two (4f2ac81b90d3)`.
    pub fn named(&self, node: NodeId) -> Named {
        let name = self.members.get(&node).map(|member| member.name.clone());
        Named { node, name }
    }

    /// The member that a text names: by id, by name, or by the beginning of its id.
    pub fn find(&self, text: &str) -> Result<NodeId, NodeReferenceError> {
        if let Ok(id) = text.parse::<NodeId>()
            && self.members.contains_key(&id)
        {
            return Ok(id);
        }
        let named = self.members.values().filter(|member| member.name == text);
        let named: Vec<NodeId> = named.map(|member| member.node).collect();
        match named[..] {
            [] => {}
            [one] => return Ok(one),
            _ => {
                return Err(NodeReferenceError::SameName {
                    name: text.to_owned(),
                    count: named.len(),
                });
            }
        }
        let begins = |node: &&NodeId| !text.is_empty() && node.to_string().starts_with(text);
        let found: Vec<&NodeId> = self.members.keys().filter(begins).collect();
        match found[..] {
            [one] => Ok(*one),
            [] => Err(NodeReferenceError::Unknown(text.chars().take(80).collect())),
            _ => Err(NodeReferenceError::Ambiguous {
                text: text.to_owned(),
                count: found.len(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> FleetView {
        let member = |byte: u8, name: &str| Member {
            node: NodeId([byte; 32]),
            name: name.to_owned(),
            address: "127.0.0.1:1".to_owned(),
            incarnation: 1,
        };
        let members = [
            member(0xaa, "ant"),
            member(0xab, "bee"),
            member(0x10, "cat"),
        ];
        FleetView {
            me: members[0].clone(),
            directory: members[0].node,
            members: members.into_iter().map(|m| (m.node, m)).collect(),
            health: BTreeMap::new(),
        }
    }

    #[test]
    fn a_node_is_found_by_name_id_and_beginning_of_its_id() {
        let view = view();
        assert_eq!(view.find("bee").unwrap(), NodeId([0xab; 32]));
        let id = NodeId([0x10; 32]);
        assert_eq!(view.find(&id.to_string()).unwrap(), id);
        assert_eq!(view.find("ab").unwrap(), NodeId([0xab; 32]));
    }

    #[test]
    fn what_names_no_node_or_several_is_said() {
        let view = view();
        for text in ["dog", "", "zz"] {
            let unknown = NodeReferenceError::Unknown(text.to_owned());
            assert_eq!(view.find(text).unwrap_err(), unknown);
        }
        let mut twins = view.clone();
        for member in twins.members.values_mut() {
            member.name = "twin".to_owned();
        }
        let same = twins.find("twin").unwrap_err();
        assert!(matches!(
            same,
            NodeReferenceError::SameName { count: 3, .. }
        ));
        let ambiguous = view.find("a").unwrap_err();
        assert!(matches!(
            ambiguous,
            NodeReferenceError::Ambiguous { count: 2, .. }
        ));
    }
}
