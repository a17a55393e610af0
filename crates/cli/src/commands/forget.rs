//! Forgetting nodes that are gone for good: `forget`.

use super::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;

/// Forget nodes that are gone for good
///
/// The fleet forgets a node that is dead, and its name is free. Should the node come back, it is
/// refused until it joins anew with a ticket. The node that keeps the directory is never forgotten.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa forget two
  limosa forget --force two      with the processes that were lost with it")]
pub struct Forget {
    /// Names, ids, or the first digits of ids
    #[arg(required = true)]
    nodes: Vec<String>,
    /// Also remove the processes that were lost with it
    #[arg(short, long)]
    force: bool,
}

impl Forget {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let (mut forgotten, mut first) = (Vec::new(), None);
        for node in &self.nodes {
            match client.forget_node(node, self.force).await {
                Ok(info) if context.json => forgotten.push(info),
                Ok(_) => output::line(node)?,
                Err(error) => {
                    let code = Failure::from(error).report();
                    first.get_or_insert(code);
                }
            }
        }
        if context.json {
            output::json(&forgotten)?;
        }
        first.map_or(Ok(()), |code| Err(Failure::quiet(code)))
    }
}
