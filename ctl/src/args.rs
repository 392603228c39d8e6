//! The command line: what there is to type, and nothing of what it does.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::dev::args::DevCommand;
use crate::pki::{IdentityKind, Role};

/// Operates a cluster of anycast SBCs.
#[derive(Debug, Parser)]
#[command(name = "sbcctl", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes. Flags stand above SBCCTL_* variables, and those above the contexts file.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// gRPC address of a node, host:port; repeatable: the next one is tried when one is unreachable
    #[arg(long, global = true, env = "SBCCTL_ENDPOINT", value_delimiter = ',', value_name = "HOST:PORT")]
    pub(crate) endpoint: Vec<String>,
    /// Certificate authority of the cluster (PEM)
    #[arg(long, global = true, env = "SBCCTL_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Own certificate (PEM)
    #[arg(long, global = true, env = "SBCCTL_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Key of the certificate (PEM)
    #[arg(long, global = true, env = "SBCCTL_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Context of the contexts file; default: its current one
    #[arg(long, global = true, env = "SBCCTL_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Contexts file; default: ~/.config/sbcctl/config.toml
    #[arg(long, global = true, env = "SBCCTL_CONFIG", value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, env = "SBCCTL_OUTPUT", value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Longest wait for an answer, seconds
    #[arg(long, global = true, env = "SBCCTL_TIMEOUT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// Id of a changing request, to repeat one whose outcome is unknown
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// Proto JSON, indented
    Json,
    /// Proto JSON, one value a line
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The cluster in brief
    Status(Watching),
    /// Who belongs to it
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// The calls
    #[command(subcommand)]
    Call(CallCommand),
    /// What happened
    #[command(subcommand)]
    Event(EventCommand),
    /// Emergency calls, as a dispatch system sees them
    #[command(subcommand)]
    Dispatch(DispatchCommand),
    /// Call detail records
    #[command(subcommand)]
    Cdr(CdrCommand),
    /// Where calls go, and why
    #[command(subcommand)]
    Route(RouteCommand),
    /// The peers
    #[command(subcommand)]
    Trunk(TrunkCommand),
    /// Header rules, access list, limits and blocked sources
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// The numbers that are emergency calls
    #[command(subcommand)]
    Number(NumberCommand),
    /// The cluster in the DNS
    #[command(subcommand)]
    Dns(DnsCommand),
    /// The configuration that the cluster shares
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Certificates
    #[command(subcommand)]
    Pki(PkiCommand),
    /// A whole cluster on this machine, without root
    #[command(subcommand)]
    Dev(DevCommand),
    /// Prints a completion script
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Prints the version
    Version,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Watching {
    /// Print again every second
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Confirm {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Take a member back whose disk was wiped: it loses its vote, is waited for, gets the log, and votes again
    Readmit {
        node: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// All nodes
    List(Watching),
    /// One node, with its counters
    Show {
        /// Its name
        node: String,
    },
    /// Withdraw the anycast address, take no new calls, wait until the last is over
    Drain {
        node: String,
        /// Stop waiting after this many seconds; the node stays draining
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
        wait: u32,
        /// Also when no other node would serve the anycast address, or the log cannot say so
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take a node back into service
    Undrain { node: String },
    /// Serve the anycast address from a node
    Announce {
        node: String,
        /// Move the address here: the others let go of it and stand by
        #[arg(long)]
        exclusive: bool,
    },
    /// Read a node's configuration file and certificates again: all or nothing, as SIGHUP does
    Reload { node: String },
    /// Stop serving the anycast address from a node
    Withdraw {
        node: String,
        /// Also when no other node would serve it, when the log cannot say so, or when the node only stands by for it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// State of a call, as a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateFilter {
    Trying,
    Ringing,
    Answered,
    Ended,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CallFilterArgs {
    /// Only calls in this state; repeatable; default: the live ones
    #[arg(long, value_enum)]
    pub(crate) state: Vec<StateFilter>,
    /// Only emergency calls (or, with =false, only others)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) emergency: Option<bool>,
    /// Only calls of this node
    #[arg(long)]
    pub(crate) node: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CallCommand {
    /// The live calls
    List {
        #[command(flatten)]
        filter: CallFilterArgs,
        /// At most this many; 0: all
        #[arg(long, default_value_t = 0)]
        limit: usize,
        #[command(flatten)]
        watching: Watching,
    },
    /// One call
    Show {
        /// Its uid, for example 1-a-2f
        uid: String,
    },
    /// Its SIP messages
    Ladder { uid: String },
    /// Each change of one call or of all
    Watch {
        uid: Option<String>,
        #[command(flatten)]
        filter: CallFilterArgs,
        #[command(flatten)]
        stream: StreamArgs,
    },
    /// End a call
    Terminate {
        uid: String,
        /// Needed to end an emergency call
        #[arg(long)]
        emergency: bool,
        /// Goes into the Reason header and the call detail record
        #[arg(long, default_value = "ended by operator")]
        reason: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StreamArgs {
    /// Where to begin: now, snapshot, or a resume token
    #[arg(long, default_value = "now", value_name = "now|snapshot|TOKEN")]
    pub(crate) from: String,
    /// Stop after this many events; 0: never
    #[arg(long, default_value_t = 0)]
    pub(crate) count: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Events as they happen
    Tail {
        #[command(flatten)]
        stream: StreamArgs,
        /// Only of this call
        #[arg(long)]
        call: Option<String>,
    },
    /// The events that are kept
    List {
        /// Only of this call
        #[arg(long)]
        call: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DispatchCommand {
    /// Emergency call events as they happen
    Tail {
        #[command(flatten)]
        stream: StreamArgs,
        /// Only of this call
        #[arg(long)]
        call: Option<String>,
    },
    /// The newest location of an emergency call, as it came and as it was read
    Location {
        /// Uid of the call
        call: String,
    },
    /// The additional data of an emergency call (RFC 7852, eCall)
    Data {
        /// Uid of the call
        call: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CdrCommand {
    /// All records
    List {
        /// At most this many; 0: all
        #[arg(long, default_value_t = 0)]
        limit: usize,
        /// Only of this call
        #[arg(long)]
        call: Option<String>,
        #[command(flatten)]
        watching: Watching,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// All routes, in the order in which they are tried
    List,
    /// One route
    Show {
        /// Its name
        name: String,
    },
    /// What would happen to an INVITE: whether it is refused, which route is taken, and why the others are not
    ///
    /// Not looked at is what is of the moment: limits, load, challenges, copies of calls that there are, certificates, DNS, targets held down.
    Explain(ExplainArgs),
}

/// A side of the SBC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// Where the anycast address is
    #[default]
    External,
    /// Where the PSAPs are
    Core,
}

#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true), group = clap::ArgGroup::new("whence").required(true))]
pub(crate) struct ExplainArgs {
    /// The Request-URI, for example sip:112@example.net or urn:service:sos.fire
    #[arg(group = "what")]
    pub(crate) uri: Option<String>,
    /// A file with a whole INVITE instead ("-": standard input)
    #[arg(long, group = "what", value_name = "FILE")]
    pub(crate) message: Option<PathBuf>,
    /// Address that it comes from
    #[arg(long, group = "whence", value_name = "IP")]
    pub(crate) source: Option<IpAddr>,
    /// Trunk that it comes from, whatever its address
    #[arg(long, group = "whence", value_name = "NAME")]
    pub(crate) trunk: Option<String>,
    /// Side that --source is on
    #[arg(long, value_enum, default_value_t)]
    pub(crate) realm: Side,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrunkCommand {
    /// All trunks
    List,
    /// One trunk
    Show {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// The access list, or what it says about one address
    Acl {
        /// Only the rules that decide about this address
        source: Option<IpAddr>,
    },
    /// The limits that are set
    Rate,
    /// All blocked sources
    Blocks,
    /// Block a source at every node; its emergency calls and what is under way go on
    Block {
        /// An address, or a prefix such as 198.51.100.0/24
        prefix: String,
        /// How long: 90s, 30m, 12h, 7d; default: until it is taken back
        #[arg(long = "for", value_name = "TIME", value_parser = crate::commands::seconds)]
        duration: Option<u32>,
        /// Drop every packet unread, emergency calls too
        #[arg(long)]
        everything: bool,
        /// Why, for others
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take a block back
    Unblock {
        /// As in `policy blocks`
        prefix: String,
    },
    /// What the profiles of two trunks and the header rules make of a message; nothing is sent
    ///
    /// Applied are `identity` and `topology` of both trunks, then the rules. Shown as it came is what is of one leg and never crosses: Via,
    /// From- and To-tag, Call-ID, CSeq, Contact, Max-Forwards, Route, Record-Route, Path, Proxy-Require, RAck, Replaces, Session-Expires,
    /// Min-SE, the answer to our own challenge. Nor is the body touched: `codecs`, addresses and ports are a matter of the call.
    TestMessage {
        /// A file with a SIP message ("-": standard input)
        file: PathBuf,
        /// Trunk that sends it
        #[arg(long, value_name = "TRUNK")]
        from: String,
        /// Trunk that gets it
        #[arg(long, value_name = "TRUNK")]
        to: String,
        /// It belongs to an emergency call, also where its Request-URI does not say so
        #[arg(long)]
        emergency: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NumberCommand {
    /// All of them
    List,
    /// Whether a number is one of them, and which
    Lookup {
        /// As dialled, for example +49-110
        number: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DnsCommand {
    /// The records by which callers find the cluster (RFC 3263), as a zone file: the anycast address first, each node's own after it
    Zone {
        /// Domain of the SIP URIs, for example sip.example.org
        domain: String,
        /// Time to live of all records, seconds
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=604_800))]
        ttl: u32,
    },
    /// Compares those records with what the DNS serves; exit code 9 where it differs
    Check {
        /// Domain of the SIP URIs, for example sip.example.org
        domain: String,
        /// DNS server to ask; default: those of /etc/resolv.conf
        #[arg(long, value_name = "IP:PORT")]
        server: Option<SocketAddr>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// The current configuration, or an earlier one
    Get {
        /// From the asked node's own state
        #[arg(long)]
        stale: bool,
        /// One of `config history`
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Say what is wrong with a file ("-": standard input), and what it would do to callers
    Validate { file: PathBuf },
    /// What applying a file, or going back to a revision, would change; exit code 9 when it would
    Diff(DiffArgs),
    /// Make a file the configuration
    Apply {
        file: PathBuf,
        /// Do everything but change
        #[arg(long)]
        validate_only: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Keep what was applied with --confirm-within
    Confirm {
        /// The etag of what is to be kept; default: of what waits
        #[arg(long)]
        etag: Option<String>,
    },
    /// The newest revisions
    History {
        /// At most this many; 0: all that are kept
        #[arg(long, default_value_t = 0)]
        limit: usize,
        #[command(flatten)]
        watching: Watching,
    },
    /// Apply the text of an earlier revision once more, as a new revision
    Rollback {
        /// One of `config history`
        revision: u64,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("to").required(true))]
pub(crate) struct DiffArgs {
    /// A file ("-": standard input)
    #[arg(group = "to")]
    pub(crate) file: Option<PathBuf>,
    /// A revision instead
    #[arg(long, group = "to", value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// What it is compared with; default: the current configuration
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) from: u64,
}

/// How the configuration is changed.
#[derive(Args, Clone, Debug)]
pub(crate) struct ChangeArgs {
    /// The etag that it is based on; default: the one current when it is shown
    #[arg(long)]
    pub(crate) etag: Option<String>,
    /// Also when an emergency number reaches no target by it, or a trunk never matches
    #[arg(long)]
    pub(crate) force: bool,
    /// The cluster takes it back after this time (90s, 2m, 1h) unless `config confirm` comes
    #[arg(long, value_name = "TIME", value_parser = crate::commands::seconds)]
    pub(crate) confirm_within: Option<u32>,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make the certificate authority of a cluster
    Init {
        /// Where ca.crt and ca.key go
        #[arg(long)]
        dir: PathBuf,
        /// Name of the cluster: the trust domain in its identities
        #[arg(long)]
        cluster: String,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
    /// Issue a certificate for a node or a user
    Issue {
        /// Where ca.crt and ca.key are, and where NAME.crt and NAME.key go
        #[arg(long)]
        dir: PathBuf,
        #[arg(long, value_enum)]
        kind: IdentityKind,
        #[arg(long)]
        name: String,
        /// Role of a user
        #[arg(long, value_enum, required_if_eq("kind", "user"))]
        role: Option<Role>,
        /// Address of a node; repeatable
        #[arg(long, value_name = "IP")]
        san: Vec<IpAddr>,
        /// Valid for this many days
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = parse("sbcctl call list -o json --endpoint a:1 --endpoint b:2").unwrap();
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.endpoint, ["a:1", "b:2"]);
        let cli = parse("sbcctl --endpoint a:1,b:2 status -w").unwrap();
        assert_eq!(cli.global.endpoint, ["a:1", "b:2"]);
        assert!(matches!(cli.command, Command::Status(Watching { watch: true })));
    }

    #[test]
    fn the_emergency_filter_has_three_values() {
        let filter = |line: &str| match parse(line).unwrap().command {
            Command::Call(CallCommand::List { filter, .. }) => filter.emergency,
            other => panic!("{other:?}"),
        };
        assert_eq!(filter("sbcctl call list"), None);
        assert_eq!(filter("sbcctl call list --emergency"), Some(true));
        assert_eq!(filter("sbcctl call list --emergency=false"), Some(false));
    }

    #[test]
    fn a_users_certificate_needs_a_role() {
        assert!(parse("sbcctl pki issue --dir d --kind user --name ann").is_err());
        assert!(parse("sbcctl pki issue --dir d --kind user --name ann --role admin").is_ok());
        assert!(parse("sbcctl pki issue --dir d --kind node --name node-a --san 127.0.0.11").is_ok());
    }

    #[test]
    fn dev_takes_one_to_nine_nodes() {
        assert!(parse("sbcctl dev up --nodes 9 --set sip.claim_budget_ms=100 --set log.filter=debug").is_ok());
        assert!(parse("sbcctl dev up --nodes 0").is_err());
        assert!(parse("sbcctl dev up --nodes 10").is_err());
        assert!(parse("sbcctl dev up --set nothing").is_err());
        assert!(parse("sbcctl dev up --psap nowhere").is_err());
    }

    #[test]
    fn misspelt_things_are_refused() {
        assert!(parse("sbcctl call lst").is_err());
        assert!(parse("sbcctl call list -o yaml").is_err());
        assert!(parse("sbcctl node drain").is_err());
    }
}
