//! The keys of a trunk for digest authentication, redirects and transfer.

use std::time::Duration;

use sbc_core::auth::{AuthHeader, Hash, Secret};
use sbc_core::policy::{
    Challenger, Credentials, MethodPolicy, RedirectPolicy, ReferPolicy, RequestPolicies, SubscribePolicy, TrunkAuth, User,
};

use super::reader::{At, Reader, Section};

/// Users of one trunk: each is looked at in turn.
const USERS_CAP: usize = 10_000;
/// Longest user name or realm.
const TEXT_CAP: usize = 255;

/// How the trunk of that name and we prove who we are.
pub(super) fn auth(reader: &Reader<'_>, section: &Section<'_>, trunk: &str) -> TrunkAuth {
    TrunkAuth {
        credentials: section.section("credentials").and_then(|s| credentials(reader, &s)),
        challenger: challenger(reader, section, trunk),
    }
}

/// What is done with some of what a trunk says.
pub(super) fn requests(section: &Section<'_>) -> RequestPolicies {
    let redirects = section.word("redirects", &[("pass", RedirectPolicy::Pass), ("follow", RedirectPolicy::Follow)]);
    let refer = section.word("refer", &[("pass", ReferPolicy::Pass), ("reject", ReferPolicy::Reject)]);
    let methods = section.word("unknown_methods", &[("refuse", MethodPolicy::Refuse), ("pass", MethodPolicy::Pass)]);
    let subscribe = section.word("subscribe", &[("pass", SubscribePolicy::Pass), ("refuse", SubscribePolicy::Refuse)]);
    RequestPolicies {
        redirects: redirects.unwrap_or_default(),
        refer: refer.unwrap_or_default(),
        unknown_methods: methods.unwrap_or_default(),
        subscribe: subscribe.unwrap_or_default(),
    }
}

fn credentials(reader: &Reader<'_>, section: &Section<'_>) -> Option<Credentials> {
    let (username, secret) = (section.required("username"), section.required("secret"));
    let realm = section.string("realm").and_then(|r| quotable(reader, &r));
    let username = username.and_then(|u| quotable(reader, &u));
    Some(Credentials { username: username?, secret: secret_name(reader, &secret?)?, realm })
}

fn challenger(reader: &Reader<'_>, section: &Section<'_>, trunk: &str) -> Option<Challenger> {
    let digest = section.word("auth", &[("none", false), ("digest", true)]).unwrap_or(false);
    let asks = section.word("auth_as", &[("server", AuthHeader::User), ("proxy", AuthHeader::Proxy)]).unwrap_or(AuthHeader::User);
    let realm = section.string("auth_realm").and_then(|r| quotable(reader, &r)).unwrap_or_else(|| trunk.into());
    let algorithms = section.strings("auth_algorithms").iter().filter_map(|a| algorithm(reader, a)).collect::<Vec<_>>();
    let emergency = section.boolean("auth_emergency").unwrap_or(false);
    let life = section.number("auth_nonce_life_s", 10..=86_400).map_or(Challenger::NONCE_LIFE, Duration::from_secs);
    let sections = section.sections("users");
    if sections.len() > USERS_CAP {
        reader.fault(section.span.clone(), "users", format!("{} users; the most is {USERS_CAP}", sections.len()), "");
    }
    let mut users: Vec<User> = Vec::new();
    for s in sections.iter().take(USERS_CAP) {
        let (name, secret) = (s.required("name"), s.required("secret"));
        let (Some(name), Some(secret)) = (name, secret) else { continue };
        let (Some(user), Some(secret)) = (quotable(reader, &name), secret_name(reader, &secret)) else { continue };
        if users.iter().any(|u| u.name == user) {
            reader.fault_at(&name, format!("the user \"{user}\" stands twice"), "");
            continue;
        }
        users.push(User { name: user, secret });
    }
    if !digest {
        if !sections.is_empty() {
            reader.fault(section.span.clone(), "users", "users without auth = \"digest\"", "nobody would be asked");
        }
        return None;
    }
    if sections.is_empty() {
        reader.fault(section.span.clone(), "users", "auth = \"digest\" without users", "nobody could call: add [[trunks.users]]");
    }
    let algorithms = if algorithms.is_empty() { vec![Hash::Sha256, Hash::Md5] } else { algorithms };
    Some(Challenger { realm, asks, users, algorithms, emergency, nonce_life: life })
}

fn algorithm(reader: &Reader<'_>, text: &At<&str>) -> Option<Hash> {
    let hash = Hash::parse(text.value);
    if hash.is_none() {
        let message = format!("expected \"SHA-512-256\", \"SHA-256\" or \"MD5\", found \"{}\"", text.value);
        reader.fault_at(text, message, "");
    }
    hash
}

/// A text that stands between quotes in a header field, and is hashed as it stands there.
fn quotable(reader: &Reader<'_>, text: &At<&str>) -> Option<Box<str>> {
    let bad = |c: char| c.is_control() || matches!(c, '"' | '\\');
    if text.value.is_empty() || text.value.len() > TEXT_CAP || text.value.chars().any(bad) {
        reader.fault_at(text, format!("expected up to {TEXT_CAP} characters without quotes and backslashes"), "");
        return None;
    }
    Some(text.value.into())
}

/// The name of a file in each node's `secrets_dir`.
fn secret_name(reader: &Reader<'_>, text: &At<&str>) -> Option<Secret> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.value.len() > 64 || text.value.starts_with('.') || !text.value.chars().all(fits) {
        let hint = "the secret itself stands in that file, in the directory that [node] secrets_dir names on each node";
        reader.fault_at(text, "a secret is named by a file name: up to 64 letters, digits, `-`, `_` or `.`", hint);
        return None;
    }
    Some(Secret::named(text.value))
}

#[cfg(test)]
mod tests {
    use super::super::parse_cluster;
    use super::*;

    const TEXT: &str = r#"
[[trunks]]
name = "psap"
realm = "core"
redirects = "follow"
refer = "reject"
unknown_methods = "pass"
subscribe = "refuse"
[trunks.credentials]
username = "sbc"
secret = "psap-sip"
realm = "psap.example.org"
[[trunks]]
name = "pbx"
realm = "external"
auth = "digest"
auth_algorithms = ["MD5"]
auth_nonce_life_s = 60
[[trunks.users]]
name = "alice"
secret = "alice.sip"
"#;

    #[test]
    fn a_good_text_is_read_whole() {
        let c = parse_cluster(TEXT, 1).unwrap();
        let psap = &c.trunks[0];
        assert_eq!((psap.requests.redirects, psap.requests.refer), (RedirectPolicy::Follow, ReferPolicy::Reject));
        assert_eq!((psap.requests.unknown_methods, psap.requests.subscribe), (MethodPolicy::Pass, SubscribePolicy::Refuse));
        assert_eq!(c.trunks[1].requests.subscribe, SubscribePolicy::Pass);
        let own = psap.auth.credentials.as_ref().unwrap();
        assert_eq!((&*own.username, own.secret.name(), own.realm.as_deref()), ("sbc", "psap-sip", Some("psap.example.org")));
        assert!(psap.auth.challenger.is_none());
        let pbx = c.trunks[1].auth.challenger.as_ref().unwrap();
        assert_eq!((&*pbx.realm, pbx.emergency, pbx.nonce_life), ("pbx", false, Duration::from_secs(60)));
        assert_eq!((&*pbx.algorithms, pbx.asks), (&[Hash::Md5][..], AuthHeader::User));
        let proxy = parse_cluster(&TEXT.replace("auth = \"digest\"", "auth = \"digest\"\nauth_as = \"proxy\""), 1).unwrap();
        assert_eq!(proxy.trunks[1].auth.challenger.as_ref().unwrap().asks, AuthHeader::Proxy);
        assert_eq!((&*pbx.users[0].name, pbx.users[0].secret.name()), ("alice", "alice.sip"));
        let defaults = parse_cluster(&TEXT.replace("auth_algorithms = [\"MD5\"]", ""), 1).unwrap();
        assert_eq!(defaults.trunks[1].auth.challenger.as_ref().unwrap().algorithms, [Hash::Sha256, Hash::Md5]);
    }

    #[test]
    fn faults() {
        let paths = |from: &str, to: &str| {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT, "{from}");
            let faults = parse_cluster(&text, 1).unwrap_err();
            faults.0.into_iter().map(|f| f.path).collect::<Vec<_>>()
        };
        assert_eq!(paths("\"psap-sip\"", "\"../key\""), ["trunks[0].credentials.secret"]);
        assert_eq!(paths("\"psap-sip\"", "\"my pass word\""), ["trunks[0].credentials.secret"]);
        assert_eq!(paths("secret = \"psap-sip\"\n", ""), ["trunks[0].credentials.secret"]);
        assert_eq!(paths("secret = \"psap-sip\"", "password = \"x\"").len(), 2);
        assert_eq!(paths("username = \"sbc\"", "username = \"a\\\"b\""), ["trunks[0].credentials.username"]);
        assert_eq!(paths("auth = \"digest\"", "auth = \"none\""), ["users"]);
        assert_eq!(paths("auth = \"digest\"", "auth = \"digest\"\nauth_as = \"registrar\""), ["trunks[1].auth_as"]);
        assert_eq!(paths("[\"MD5\"]", "[\"SHA-1\"]"), ["trunks[1].auth_algorithms[0]"]);
        assert_eq!(
            paths(
                "name = \"alice\"\nsecret = \"alice.sip\"",
                "name = \"alice\"\nsecret = \"a\"\n[[trunks.users]]\nname = \"alice\"\nsecret = \"b\""
            ),
            ["trunks[1].users[1].name"]
        );
        assert_eq!(paths("[[trunks.users]]\nname = \"alice\"\nsecret = \"alice.sip\"", ""), ["users"]);
        assert_eq!(paths("redirects = \"follow\"", "redirects = \"chase\""), ["trunks[0].redirects"]);
    }
}
