//! The grammar of the command line.

mod friend;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

pub(super) use friend::Friend;

/// A node of tornet: moves files between friends, encrypted, verified and resumable.
#[derive(Debug, Parser)]
#[command(name = "tornet", version, max_term_width = 100)]
pub(super) struct Args {
    /// The node's folder [default: /var/lib/tornet for root, ~/.local/share/tornet for a user]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes a new node: its identity and tornet.toml; prints the node id
    Init(Init),
    /// Runs the node until it is told to stop; prints "ready" when it is
    Run,
    /// Prints this node's invitation, to be given to a friend
    Invite {
        /// Shows it as a QR code, too, for a camera
        #[arg(long)]
        qr: bool,
        /// Names this node's bridge, too (setting bridge.url): whoever has the invitation can use it
        #[arg(long)]
        bridge: bool,
    },
    /// Adds, removes and lists friends
    #[command(subcommand)]
    Friend(Friend),
    /// Shows peers, store and jobs
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Again and again, every second
        #[arg(long)]
        watch: bool,
    },
    /// Publishes files and directories; prints one reference
    Put(Put),
    /// Fetches what a reference names; the same command resumes what was interrupted
    Get(Get),
    /// Tunnels to friends and through circuits: any application's packets
    #[command(subcommand)]
    Tunnel(Tunnel),
    /// Shows and changes settings
    #[command(subcommand)]
    Config(Config),
    /// Limits what this node, or one peer, may use
    #[command(subcommand)]
    Limit(Limit),
    /// Has this node leave: friends hear when, and what too few others have is handed over; its daemon ends then
    Leave(Leave),
    /// Tells friends for how long this node means to stay; without a time nothing is said of it any more
    Online(Online),
    /// Raises this node's rank
    #[command(subcommand)]
    Rank(Rank),
}

#[derive(Debug, ClapArgs)]
pub(super) struct Init {
    /// Work to put into the identity; each step doubles it
    #[arg(long, value_name = "N", default_value_t = 18, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub rank: u32,
    /// UDP port [default: 4600]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// TCP address of the status page and metrics, such as 127.0.0.1:4680
    #[arg(long, value_name = "ADDR")]
    pub api: Option<SocketAddr>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Leave {
    /// In how long, such as 10m; friends may have it stay longer, as far as intents.grant_max goes
    #[arg(long = "in", value_name = "DURATION", required_unless_present = "cancel")]
    pub within: Option<String>,
    /// Before that, once everything is handed over and nobody is served any more
    #[arg(long, requires = "within")]
    pub early: bool,
    /// Waits until the daemon has ended, and shows what is handed over
    #[arg(long, requires = "within")]
    pub wait: bool,
    /// Stays after all
    #[arg(long, conflicts_with_all = ["within", "early", "wait"])]
    pub cancel: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Online {
    /// For so long from now, such as 8h
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    pub duration: Option<String>,
    /// Until it is that time of the day (UTC)
    #[arg(long, value_name = "HH:MM")]
    pub until: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Put {
    /// Files and directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Encrypts under keys that nobody can guess from the contents; for private material
    #[arg(long)]
    pub salt: bool,
    /// Leaves out what cannot be read
    #[arg(long)]
    pub skip_unreadable: bool,
    /// Gives it to other nodes to keep, through circuits of its own over so many relays, 1 to 5: this node neither serves
    /// nor announces it, and keepers see the last relay's address and a key that is made for this put alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub hops: Option<u8>,
    /// The circuits' exit: a friend's name, or any exit's key [default: chosen at random, another where one lets nothing
    /// out to the network]
    #[arg(long, value_name = "NODE", requires = "hops")]
    pub exit: Option<String>,
    /// Also with one connected friend that relays: it then knows that you are the origin
    #[arg(long, requires = "hops")]
    pub one_friend: bool,
    /// Prints the reference although some of it has fewer than two keepers
    #[arg(long, requires = "hops")]
    pub force: bool,
    /// The result as JSON, the reference in it
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Get {
    /// What `tornet put` printed; with /path/below it, only that part
    pub reference: String,
    /// Where to: the new path of what is fetched, or an existing directory (or one written with a / at
    /// its end) that receives it; replaces existing files
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Replaces existing files also without -o
    #[arg(long)]
    pub force: bool,
    /// Through circuits of its own over so many relays, 1 to 5: whoever is asked sees the last one's address, and a key
    /// that is made for this get and forgotten with it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub hops: Option<u8>,
    /// The circuits' exit: a friend's name, or any exit's key [default: chosen at random, another where one lets nothing
    /// out to the network]
    #[arg(long, value_name = "NODE", requires = "hops")]
    pub exit: Option<String>,
    /// Also with one connected friend that relays: it then knows that you are the origin
    #[arg(long, requires = "hops")]
    pub one_friend: bool,
    /// The result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Tunnel {
    /// Brings a tunnel to a friend up (--peer), or a circuit through several relays (--hops), or changes it; it comes up
    /// again with the daemon until it is taken down
    Up {
        /// The friend: its name, or the beginning of its node id or key
        #[arg(long, value_name = "NODE", requires = "addr", required_unless_present = "hops")]
        peer: Option<String>,
        /// This host's address in the tunnel, with the length of its network, such as 10.9.0.1/24. Not used with --hops: a
        /// circuit's address is its exit's
        #[arg(long, value_name = "CIDR", requires = "peer")]
        addr: Vec<String>,
        /// Addresses that are the friend's: what goes to them goes through the tunnel, and nothing else is believed
        /// from it [default: the networks of --addr]
        #[arg(long, value_name = "CIDR", requires = "peer")]
        allow: Vec<String>,
        /// Networks behind the friend, to be reached through the tunnel; allowed too. With --hops: what goes through the
        /// circuit [default: everything]
        #[arg(long, value_name = "CIDR")]
        route: Vec<String>,
        /// Everything goes through a circuit of so many relays, 1 to 5, that know only their neighbours; the last lets
        /// it out
        #[arg(long, value_name = "N", conflicts_with = "peer", value_parser = clap::value_parser!(u8).range(1..=5))]
        hops: Option<u8>,
        /// So many circuits at once, 1 to 4, that share no relay but the exit: flows are spread over them, and go on when
        /// one fails
        #[arg(long, value_name = "N", requires = "hops", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
        paths: u8,
        /// What is spread over them: each flow by one (flow), or each packet by the one where it arrives soonest (packet),
        /// so that one connection has what all carry together
        #[arg(long, value_name = "WHAT", requires = "hops", default_value = "flow", value_parser = ["flow", "packet"])]
        spread: String,
        /// The circuit's exit: a friend's name, or any exit's key [default: chosen at random, and kept]
        #[arg(long, value_name = "NODE", requires = "hops")]
        exit: Option<String>,
        /// A SOCKS5 proxy there leads applications into the circuit, such as 127.0.0.1:1080: no device and no rights are
        /// needed, unless --route is given, too
        #[arg(long, value_name = "ADDR", requires = "hops", conflicts_with = "peer")]
        socks: Option<String>,
        /// Also with one connected friend that relays: it then knows that you are the origin
        #[arg(long, requires = "hops")]
        force: bool,
    },
    /// Takes tunnels down for good: the one to a friend, the circuit, or all of them
    Down {
        /// The friend
        #[arg(long, value_name = "NODE")]
        peer: Option<String>,
        /// The circuit alone
        #[arg(long, conflicts_with = "peer")]
        circuit: bool,
    },
    /// Lists the tunnels and what passed them
    #[command(alias = "status")]
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Prints a setting, or all of them
    Get {
        /// Its name, such as store.local_max
        key: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Changes a setting in tornet.toml and applies it
    Set {
        /// Its name
        key: String,
        /// The new value, lists separated by commas; none restores the default
        #[arg(allow_hyphen_values = true)]
        value: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Limit {
    /// Sets limits of this node, or of NODE alone; a RATE is 50mbit as in tc, "none" takes one away
    Set(LimitSet),
    /// Promises NODE a RATE for a DURATION, such as 80kbit for 2.5h; a later promise replaces it
    Reserve(LimitReserve),
    /// Takes back what was promised to NODE
    Release {
        /// As for reserve
        node: String,
        /// Gives back what NODE was asked to promise
        #[arg(long)]
        from: bool,
    },
    /// Takes all limits of NODE away, and what was promised to it or asked of it
    Remove {
        /// Its name, or the beginning of its node id or key
        node: String,
    },
    /// Shows what is limited
    #[command(alias = "list")]
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct LimitReserve {
    /// A friend's name, the beginning of its node id or key, or any peer's whole node id
    pub node: String,
    /// What it gets at least, by its deadline
    pub rate: String,
    /// For how long
    pub duration: String,
    /// What each packet waits at most
    #[arg(long, value_name = "DURATION", default_value = "20ms")]
    pub delay: String,
    /// Bytes that may come at once
    #[arg(long, value_name = "SIZE")]
    pub burst: Option<String>,
    /// Asks NODE to promise this node so much of what it sends, and says what it answers
    #[arg(long)]
    pub from: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct LimitSet {
    /// A friend's name, the beginning of its node id or key, or any peer's whole node id
    pub node: Option<String>,
    /// What is sent at most, in bytes on the wire
    #[arg(long, value_name = "RATE")]
    pub up: Option<String>,
    /// What is asked for at most
    #[arg(long, value_name = "RATE")]
    pub down: Option<String>,
    /// What NODE gets at least, when it has something to get
    #[arg(long, value_name = "RATE", requires = "node")]
    pub floor: Option<String>,
    /// Bytes that may leave at once after a pause
    #[arg(long, value_name = "SIZE")]
    pub burst: Option<String>,
    /// NODE's share among its like
    #[arg(long, value_name = "1-100", requires = "node")]
    pub weight: Option<String>,
    /// Whether NODE's traffic yields to everything else
    #[arg(long, value_name = "BOOL", requires = "node")]
    pub background: Option<bool>,
    /// Whether NODE may have something promised to it by asking; what it has so is taken back with "false"
    #[arg(long, value_name = "BOOL", requires = "node")]
    pub askable: Option<bool>,
    /// What may leave in a calendar month, spent evenly
    #[arg(long, value_name = "SIZE", conflicts_with = "node")]
    pub quota: Option<String>,
    /// Times of the day (UTC) with rates of their own: "08:00-18:00 up=5mbit down=20mbit, 23:00-06:00 up=50mbit"
    #[arg(long, value_name = "TIMES", conflicts_with = "node")]
    pub schedule: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Rank {
    /// Searches for a rank nonce with more work; keeps every improvement, so it may be interrupted
    Raise {
        /// The rank to reach
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        to: u32,
    },
}

/// A usage error as one line.
pub(super) fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let until = text.find("\nUsage:").or_else(|| text.find("\nFor more information")).unwrap_or(text.len());
    let words = super::one_line(text[..until].trim_start_matches("error: "));
    // Without a command clap answers with the whole help.
    let words = match error.kind() {
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | clap::error::ErrorKind::MissingSubcommand => "a command is missing".to_owned(),
        _ => words,
    };
    format!("{words} (see `tornet --help`)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_contract_parses() {
        for line in [
            "tornet --dir /d init --rank 20 --port 4700 --api 127.0.0.1:4680",
            "tornet --dir /d init",
            "tornet --dir /d run",
            "tornet run --dir /d",
            "tornet --dir /d invite",
            "tornet --dir /d invite --qr",
            "tornet --dir /d friend add tornet:node:x --trust 100 --name bob",
            "tornet --dir /d friend add tornet:node:x --bridge wss://b.example/a-secret-path",
            "tornet --dir /d friend bridge bob wss://b.example/a-secret-path",
            "tornet --dir /d friend bridge bob none",
            "tornet --dir /d invite --bridge",
            "tornet --dir /d friend list",
            "tornet --dir /d friend remove bob",
            "tornet --dir /d friend ask bob --stay 10m",
            "tornet --dir /d leave --in 10m --early --wait",
            "tornet --dir /d leave --cancel",
            "tornet --dir /d online --for 8h",
            "tornet --dir /d online --until 23:30",
            "tornet --dir /d online",
            "tornet --dir /d status --json --watch",
            "tornet --dir /d put a b --salt --json",
            "tornet --dir /d get tornet:x -o out",
            "tornet --dir /d get tornet:x --json",
            "tornet --dir /d get tornet:x",
            "tornet --dir /d tunnel up --peer bob --addr 10.9.0.1/24",
            "tornet --dir /d tunnel up --peer bob --addr 10.9.0.1/24 --addr fd00::1/64 --allow 10.9.0.2 --route ::/0",
            "tornet --dir /d tunnel down",
            "tornet --dir /d tunnel down --peer bob",
            "tornet --dir /d tunnel down --circuit",
            "tornet --dir /d tunnel list --json",
            "tornet --dir /d tunnel status --json",
            "tornet --dir /d config get port",
            "tornet --dir /d config set port 4601",
            "tornet --dir /d config set port",
            "tornet --dir /d rank raise --to 24",
            "tornet --dir /d limit set --up 50mbit --down 100mbit",
            "tornet --dir /d limit set bob --up 1mbit --floor 100kbit --weight 20 --background true",
            "tornet --dir /d limit set --schedule 08:00-18:00",
            "tornet --dir /d limit set bob --askable false",
            "tornet --dir /d limit list",
            "tornet --dir /d limit reserve bob 80kbit 2.5h",
            "tornet --dir /d limit reserve bob 80kbit 2.5h --delay 10ms --burst 8KiB",
            "tornet --dir /d limit release bob",
            "tornet --dir /d limit show --json",
            "tornet --dir /d limit remove bob",
        ] {
            let args = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(args.dir, Some("/d".into()), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_in_one_line() {
        for line in [
            "tornet",
            "tornet friend",
            "tornet init --port 0",
            "tornet init --rank 0",
            "tornet init --api localhost",
            "tornet put",
            "tornet get",
            "tornet friend add x --trust 101",
            "tornet rank raise",
            "tornet limit set --floor 1mbit",
            "tornet limit set bob --quota 1GiB",
            "tornet limit set --askable false",
            "tornet limit set bob --schedule x",
            "tornet tunnel up",
            "tornet tunnel up --peer bob",
            "tornet tunnel up --addr 10.9.0.1/24",
            "tornet tunnel down --peer bob --circuit",
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} was accepted"));
            let line = usage_line(&error);
            assert!(
                !line.contains('\n') && line.ends_with("(see `tornet --help`)") && line.len() < 300,
                "{line}"
            );
        }
    }
}
