//! The configuration files of a development cluster.

use toml::{Table, Value};

use crate::dev::args::Setting;
use crate::dev::stand::{ANYCAST, CLUSTER, NodeSpec, SIP_PORT, SIP_TLS_PORT, Stand};
use crate::error::{Exit, Failure};

/// Tables of the cluster's configuration; a setting in another one is a node's.
const CLUSTER_TABLES: [&str; 2] = ["settings", "emergency"];
/// First RTP port; ranges are the same on each node, since their addresses differ.
const MEDIA_PORTS: [i64; 2] = [20_000, 29_999];

/// `NODE.toml`.
pub(crate) fn node(stand: &Stand, node: &NodeSpec) -> Result<String, Failure> {
    let file = |path: std::path::PathBuf| text(path.to_string_lossy());
    let pki = stand.pki();
    let members = stand.nodes().into_iter().map(|n| {
        Value::Table(table([
            ("name", text(&n.name)),
            ("id", Value::Integer(n.id.into())),
            ("peer", text(n.grpc())),
            ("unicast", text(n.unicast())),
            ("core", text(n.core())),
        ]))
    });
    let members = Value::Array(members.collect());
    let mut config = table([
        (
            "node",
            section([
                ("name", text(&node.name)),
                ("id", Value::Integer(node.id.into())),
                ("data_dir", file(stand.dir.join(&node.name))),
            ]),
        ),
        (
            "cluster",
            section([
                ("id", text(CLUSTER)),
                ("key_file", file(stand.dir.join("cluster.key"))),
                ("config_file", file(stand.dir.join("cluster.toml"))),
                ("members", members),
            ]),
        ),
        (
            "sip",
            section([
                ("anycast", text(ANYCAST)),
                ("unicast", text(node.unicast())),
                ("core", text(node.core())),
                ("port", Value::Integer(SIP_PORT.into())),
                ("tls_port", Value::Integer(SIP_TLS_PORT.into())),
            ]),
        ),
        (
            "tls",
            section([
                ("ca", file(pki.join("ca.crt"))),
                ("cert", file(pki.join(format!("{}.crt", node.name)))),
                ("key", file(pki.join(format!("{}.key", node.name)))),
            ]),
        ),
        ("grpc", section([("listen", text(node.grpc()))])),
        (
            "announce",
            section([
                ("driver", text("bind")),
                ("preference_ms", Value::Integer(node.preference_ms().into())),
                ("announce_at_start", Value::Boolean(true)),
            ]),
        ),
        (
            "media",
            section([
                ("engine", text("embedded")),
                ("ports", Value::Array(MEDIA_PORTS.iter().map(|p| Value::Integer(*p)).collect())),
            ]),
        ),
        ("metrics", section([("listen", text(node.metrics()))])),
        ("log", section([("filter", text("info")), ("format", text("json"))])),
    ]);
    for setting in stand.spec.set.iter().filter(|s| !is_clusters(s)) {
        set(&mut config, setting)?;
    }
    render(&config)
}

/// `cluster.toml`: emergency calls, and calls of well-known test users, go to the PSAP; there is nothing else.
pub(crate) fn cluster(stand: &Stand) -> Result<String, Failure> {
    let psap = stand.psap();
    let list = |items: &[&str]| Value::Array(items.iter().map(text).collect());
    let bits = if psap.is_ipv4() { 32 } else { 128 };
    let to_psap = |name: &str, condition: (&str, Value)| {
        Value::Table(table([("name", text(name)), (condition.0, condition.1), ("trunks", list(&["psap"]))]))
    };
    let mut config = table([
        ("emergency", section([("numbers", list(&["112", "911"]))])),
        (
            "trunks",
            Value::Array(vec![
                section([
                    ("name", text("psap")),
                    ("realm", text("core")),
                    ("sources", list(&[&format!("{}/{bits}", psap.ip())])),
                    ("targets", list(&[&format!("{psap};transport=udp")])),
                ]),
                section([
                    // Everybody: a request within a call is heard from where its far end is.
                    ("name", text("callers")),
                    ("realm", text("external")),
                    ("sources", list(&["0.0.0.0/0", "::/0"])),
                    ("targets", list(&[])),
                ]),
            ]),
        ),
        (
            "routes",
            Value::Array(vec![
                to_psap("emergency", ("emergency", Value::Boolean(true))),
                to_psap("sipp", ("user", text("service"))),
                to_psap("112", ("user", text("112"))),
                to_psap("911", ("user", text("911"))),
            ]),
        ),
    ]);
    for setting in stand.spec.set.iter().filter(|s| is_clusters(s)) {
        set(&mut config, setting)?;
    }
    render(&config)
}

fn is_clusters(setting: &Setting) -> bool {
    CLUSTER_TABLES.contains(&setting.key[0].as_str())
}

fn text(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

fn section<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(table(entries))
}

/// Sets one value, and the tables on the way to it.
fn set(config: &mut Table, setting: &Setting) -> Result<(), Failure> {
    let (last, tables) = setting.key.split_last().expect("a setting has a key of at least two parts");
    let mut at = config;
    for part in tables {
        let next = at.entry(part.clone()).or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| Failure::new(Exit::Usage, format!("--set {setting}: {part} is no table")))?;
    }
    at.insert(last.clone(), value(&setting.value));
    Ok(())
}

/// A TOML value where the text is one, else a string.
fn value(typed: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("v = {typed}")).ok();
    parsed.filter(|t| t.len() == 1).and_then(|mut t| t.remove("v")).unwrap_or_else(|| text(typed))
}

fn render(config: &Table) -> Result<String, Failure> {
    toml::to_string(config).map_err(|e| Failure::failed("a configuration cannot be written").cause(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::stand::Spec;

    fn stand(set: &[&str]) -> Stand {
        let set = set.iter().map(|s| s.parse().unwrap()).collect();
        Stand { dir: "/tmp/a \"quoted\" dir".into(), spec: Spec { nodes: 3, psap: None, set } }
    }

    fn parsed(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_nodes_file_has_its_own_addresses_and_all_members() {
        let stand = stand(&[]);
        let config = parsed(&node(&stand, &stand.nodes()[1]).unwrap());
        assert_eq!(config["node"]["name"].as_str(), Some("node-b"));
        assert_eq!(config["node"]["data_dir"].as_str(), Some("/tmp/a \"quoted\" dir/node-b"));
        assert_eq!(config["sip"]["anycast"].as_str(), Some("127.0.0.100"));
        assert_eq!(config["sip"]["unicast"].as_str(), Some("127.0.0.12"));
        assert_eq!(config["announce"]["preference_ms"].as_integer(), Some(150));
        assert_eq!(config["cluster"]["members"].as_array().map(Vec::len), Some(3));
        assert_eq!(config["cluster"]["members"][2]["peer"].as_str(), Some("127.0.0.13:7443"));
    }

    #[test]
    fn settings_reach_the_node_or_the_cluster() {
        let stand =
            stand(&["log.filter=info,sbc_core=debug", "sip.port=5070", "settings.claim_budget_ms=90", "new.deep.key=true"]);
        let config = parsed(&node(&stand, &stand.nodes()[0]).unwrap());
        assert_eq!(config["log"]["filter"].as_str(), Some("info,sbc_core=debug"));
        assert_eq!(config["sip"]["port"].as_integer(), Some(5070));
        assert_eq!(config["new"]["deep"]["key"].as_bool(), Some(true));
        assert!(!config.contains_key("settings"));
        assert_eq!(parsed(&cluster(&stand).unwrap())["settings"]["claim_budget_ms"].as_integer(), Some(90));
    }

    #[test]
    fn a_setting_below_a_value_is_refused() {
        let stand = stand(&["sip.port.x=1"]);
        assert_eq!(node(&stand, &stand.nodes()[0]).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn values_are_toml_where_they_can_be() {
        assert_eq!(value("5"), Value::Integer(5));
        assert_eq!(value("[1, 2]").as_array().map(Vec::len), Some(2));
        assert_eq!(value("debug"), text("debug"));
        assert_eq!(value("1\nx = 2"), text("1\nx = 2"));
    }

    #[test]
    fn calls_go_to_the_psap_that_is_named() {
        let mut stand = stand(&[]);
        stand.spec.psap = Some("127.0.3.1:5090".parse().unwrap());
        let config = parsed(&cluster(&stand).unwrap());
        assert_eq!(config["trunks"][0]["targets"][0].as_str(), Some("127.0.3.1:5090;transport=udp"));
        assert_eq!(config["trunks"][0]["sources"][0].as_str(), Some("127.0.3.1/32"));
        assert_eq!(config["routes"][0]["emergency"].as_bool(), Some(true));
        assert_eq!(config["routes"][1]["user"].as_str(), Some("service"));
    }
}
