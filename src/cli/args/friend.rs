//! `tornet friend …`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Friend {
    /// Adds the node of an invitation, or changes a friend
    Add {
        /// What `tornet invite` printed on the friend's node
        invitation: String,
        /// How far this friend is trusted, 0 to 100 [default: 50]
        #[arg(long, value_name = "0-100", value_parser = clap::value_parser!(u8).range(0..=100))]
        trust: Option<u8>,
        /// What to call it
        #[arg(long)]
        name: Option<String>,
        /// The bridge by which it is reached where UDP does not get through: wss://host/path, perhaps with #sha256=… behind
        #[arg(long, value_name = "URL")]
        bridge: Option<String>,
    },
    /// Says by which bridge a friend is reached where UDP does not get through
    Bridge {
        /// Its name, or the beginning of its node id or key
        node: String,
        /// The bridge: wss://host/path, perhaps with #sha256=… behind; none takes it away
        #[arg(value_name = "URL|none")]
        url: String,
    },
    /// Lists the friends
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Changes what is said of a friend
    Set {
        /// Its name, or the beginning of its node id or key
        node: String,
        /// How far it is trusted, 0 to 100
        #[arg(long, value_name = "0-100", value_parser = clap::value_parser!(u8).range(0..=100))]
        trust: Option<u8>,
        /// What to call it
        #[arg(long)]
        name: Option<String>,
        /// Whether it is told of other friends, and they of it
        #[arg(long, value_name = "true|false")]
        introduce: Option<bool>,
    },
    /// Lists nodes that friends introduced
    Offers {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Makes a node that friends introduced a friend
    Adopt {
        /// The beginning of its node id or key
        node: String,
        /// What to call it
        #[arg(long)]
        name: Option<String>,
        /// How far it is trusted, 0 to 100 [default: what friends' words make it worth]
        #[arg(long, value_name = "0-100", value_parser = clap::value_parser!(u8).range(0..=100))]
        trust: Option<u8>,
        /// Also when that is more than friends' words make it worth
        #[arg(long)]
        force: bool,
    },
    /// Asks a friend to be there for longer than it means to
    Ask {
        /// Its name, or the beginning of its node id or key
        node: String,
        /// How much longer, such as 10m
        #[arg(long, value_name = "DURATION")]
        stay: String,
    },
    /// Removes a friend
    Remove {
        /// Its name, or the beginning of its node id or key
        node: String,
    },
}
