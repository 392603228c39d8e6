//! The node's certificates: read and checked before anything is bound, and read again by a reload.
//!
//! Two sets of files: `[tls]` for the control plane and the peers, `[sip.tls]` for SIP; without the second the first serves both.
//! A reload is all or nothing: one bad file, and everything stays as it was.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{self, KeyFault, NodeConfig};
use crate::telemetry::Metrics;
use crate::tls::{
    ClientAuth, ClientAuths, PemFaults, PemPart, PemPaths, Pems, SipConfigs, SipNames, SipTls, TlsError, TlsReloader, not_after,
};

use super::AppError;

/// The files, read and found good.
pub(super) struct CheckedPems {
    pub(super) control: Pems,
    sip: Pems,
}

impl CheckedPems {
    /// Reads both sets; all faults of both at once.
    pub(super) fn load(config: &NodeConfig) -> Result<CheckedPems, AppError> {
        let tls = &config.tls;
        let paths = PemPaths { cert: tls.cert.clone(), key: tls.key.clone(), ca: tls.ca.clone() };
        let control = Pems::load(&paths);
        let own = config.sip.tls.as_ref();
        let sip = own.map(|s| Pems::load(&PemPaths { cert: s.cert.clone(), key: s.key.clone(), ca: s.ca.clone() }));
        let mut faults = Vec::new();
        let control = control.map_err(|f| faults.extend(located(&f, ["tls.cert", "tls.key", "tls.ca"]))).ok();
        let sip = match sip {
            None => control.clone(),
            Some(sip) => sip.map_err(|f| faults.extend(located(&f, ["sip.tls.cert", "sip.tls.key", "sip.tls.ca"]))).ok(),
        };
        match (control, sip) {
            (Some(control), Some(sip)) => Ok(CheckedPems { control, sip }),
            _ => Err(AppError::Files(faults)),
        }
    }

    /// What is no reason not to serve, UDP and TCP least of all, and that an operator should hear of.
    pub(super) fn warnings(&self, config: &NodeConfig) -> Vec<String> {
        let mut warnings = Vec::new();
        let sets = [("tls.cert", Some(&self.control)), ("sip.tls.cert", config.sip.tls.is_some().then_some(&self.sip))];
        for (key, pems) in sets.into_iter().filter_map(|(key, pems)| Some((key, pems?))) {
            if expired(pems) {
                warnings.push(format!("{key}: the certificate has expired"));
            }
        }
        // AC-33: Contact is this address, and a phone that opens a connection to it checks the certificate for it.
        let names = SipNames::of(self.sip.end_entity());
        for unicast in config.sip.unicast.iter().filter(|ip| config.sip.tls.is_some() && !names.has_address(*ip)) {
            warnings.push(format!(
                "sip.tls.cert: the certificate does not bear {unicast}, which Contact names: a phone that opens a new TLS \
                 connection within a call will refuse it"
            ));
        }
        for core in config.sip.core.iter().filter(|ip| names.has_address(*ip)) {
            let key = if config.sip.tls.is_some() { "sip.tls.cert" } else { "tls.cert" };
            warnings.push(format!(
                "{key}: the certificate bears {core}, and callers are shown it: they need not know the core side's addresses"
            ));
        }
        warnings
    }
}

/// Faults of a set, each at the key that names its file.
fn located(faults: &PemFaults, keys: [&'static str; 3]) -> Vec<KeyFault> {
    let one = |(part, error): &(PemPart, TlsError)| {
        let (key, hint) = match part {
            PemPart::Cert => (keys[0], "a PEM file with the certificate first, then those that lead to its authority"),
            PemPart::Key => (keys[1], "the PEM file with the certificate's own private key, readable for the node"),
            PemPart::Ca => (keys[2], "a PEM file with the certificates of all authorities that are believed"),
        };
        KeyFault { key, message: error.to_string(), hint: hint.to_owned() }
    };
    faults.0.iter().map(one).collect()
}

fn expired(pems: &Pems) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    not_after(pems.end_entity()).is_some_and(|end| end < i64::try_from(now).unwrap_or(i64::MAX))
}

fn auths(config: &NodeConfig) -> ClientAuths {
    let word = |auth| match auth {
        config::ClientAuth::None => ClientAuth::None,
        config::ClientAuth::Request => ClientAuth::Request,
        config::ClientAuth::Require => ClientAuth::Require,
    };
    let set = config.sip.tls.as_ref();
    set.map_or_else(ClientAuths::default, |s| ClientAuths { external: word(s.external), core: word(s.core) })
}

/// The certificates in use, and the way to others.
pub(crate) struct Certificates {
    metrics: Metrics,
    /// For gRPC.
    pub(super) control: Arc<TlsReloader>,
    /// For SIP.
    pub(super) sip: Arc<SipTls>,
}

impl Certificates {
    /// Those of the start.
    pub(super) fn new(config: &NodeConfig, pems: &CheckedPems, metrics: &Metrics) -> Result<Arc<Certificates>, AppError> {
        let certificates = Certificates {
            metrics: metrics.clone(),
            control: TlsReloader::new(&pems.control),
            sip: SipTls::new(SipConfigs::build(&pems.sip, auths(config))?),
        };
        certificates.show(pems);
        Ok(Arc::new(certificates))
    }

    /// What other files give for SIP, before anything is changed by them.
    pub(super) fn prepare(&self, config: &NodeConfig, pems: &CheckedPems) -> Result<SipConfigs, AppError> {
        let sip = if config.sip.tls.is_some() { "sip.tls.cert" } else { "tls.cert" };
        for (key, set) in [("tls.cert", &pems.control), (sip, &pems.sip)] {
            // At the start it is a warning, for calls over UDP and TCP must go on. Here what is in use can be no worse.
            if expired(set) {
                let message = format!("{}: the certificate has expired", set.paths.cert.display());
                return Err(AppError::Files(vec![KeyFault { key, message, hint: String::new() }]));
            }
        }
        Ok(SipConfigs::build(&pems.sip, auths(config))?)
    }

    /// Handshakes that begin from now on use what is in other files; connections that live stay. False: the authorities of gRPC are other
    /// ones than at the start.
    pub(super) fn swap(&self, pems: &CheckedPems, sip: SipConfigs) -> bool {
        let same_authorities = self.control.swap(&pems.control);
        self.sip.swap(sip);
        self.show(pems);
        self.metrics.certificates_reloaded(true);
        let (names, until) = (SipNames::of(pems.sip.end_entity()).shown(), not_after(pems.sip.end_entity()));
        tracing::debug!(?names, until, "certificates of SIP");
        same_authorities
    }

    /// Other files were not taken.
    pub(super) fn refused(&self) {
        self.metrics.certificates_reloaded(false);
    }

    fn show(&self, pems: &CheckedPems) {
        let gauges = &self.metrics.gauges;
        let sets =
            [(&pems.control, &gauges.certificate_not_after_seconds), (&pems.sip, &gauges.sip_certificate_not_after_seconds)];
        for (set, gauge) in sets {
            if let Some(end) = not_after(set.end_entity()) {
                gauge.set(end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::date_time_ymd;

    use super::*;
    use crate::tls::tests::{Authority, Dir};

    /// A node whose files are `a.*` for the cluster and, where asked for, `s.*` for SIP.
    fn config(dir: &Path, own: bool) -> Arc<NodeConfig> {
        let sip = if own { "[sip.tls]\ncert = \"s.crt\"\nkey = \"s.key\"\nca = \"s.ca\"\n" } else { "" };
        let text = format!(
            "[node]\nname = \"a\"\nid = 1\ndata_dir = \"d\"\n[cluster]\nid = \"lab\"\nkey_file = \"k\"\n[[cluster.members]]\n\
             name = \"a\"\nid = 1\npeer = \"127.0.0.11:7443\"\nunicast = \"127.0.0.11\"\ncore = \"127.0.1.11\"\n[sip]\n\
             anycast = \"127.0.0.100\"\nunicast = \"127.0.0.11\"\ncore = \"127.0.1.11\"\n{sip}[tls]\ncert = \"a.crt\"\n\
             key = \"a.key\"\nca = \"a.ca\"\n[grpc]\nlisten = \"127.0.0.11:7443\"\n"
        );
        Arc::new(NodeConfig::parse(&text, dir).unwrap())
    }

    fn keys(error: AppError) -> Vec<&'static str> {
        match error {
            AppError::Files(faults) => faults.into_iter().map(|f| f.key).collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn faults_of_both_sets_are_told_at_once() {
        let (dir, ca) = (Dir::new(), Authority::new());
        assert_eq!(keys(CheckedPems::load(&config(&dir.0, false)).err().unwrap()), ["tls.cert", "tls.key", "tls.ca"]);
        ca.issue(&dir.0, "a", &["127.0.0.11"], &[]);
        ca.issue(&dir.0, "s", &["sbc.test"], &[]);
        std::fs::write(dir.0.join("a.ca"), "").unwrap();
        std::fs::copy(dir.0.join("a.key"), dir.0.join("s.key")).unwrap();
        assert_eq!(keys(CheckedPems::load(&config(&dir.0, true)).err().unwrap()), ["tls.ca", "sip.tls.key"]);
    }

    #[test]
    fn an_old_certificate_starts_and_is_not_swapped_in() {
        let (dir, ca) = (Dir::new(), Authority::new());
        ca.issue(&dir.0, "a", &["127.0.0.11"], &[]);
        ca.issue(&dir.0, "s", &["127.0.0.11"], &[]);
        let config = config(&dir.0, true);
        let pems = CheckedPems::load(&config).unwrap();
        assert_eq!(pems.warnings(&config), [""; 0]);
        let metrics = Metrics::new();
        let certificates = Certificates::new(&config, &pems, &metrics).unwrap();
        let first = certificates.control.current();
        // The cluster's set is good and fresh, SIP's is not: neither is taken.
        ca.issue(&dir.0, "a", &["127.0.0.11"], &[]);
        ca.issue_with(&dir.0, "s", &["sbc.test"], &[], |p| p.not_after = date_time_ymd(2020, 1, 1));
        let old = CheckedPems::load(&config).unwrap();
        let warnings = old.warnings(&config);
        assert!(warnings[0].contains("expired") && warnings[1].contains("127.0.0.11"), "{warnings:?}");
        assert!(Certificates::new(&config, &old, &metrics).is_ok(), "UDP and TCP go on");
        assert_eq!(keys(certificates.prepare(&config, &old).err().unwrap()), ["sip.tls.cert"]);
        assert!(Arc::ptr_eq(&certificates.control.current(), &first));
        ca.issue(&dir.0, "s", &["127.0.0.11"], &[]);
        let fresh = CheckedPems::load(&config).unwrap();
        assert!(certificates.swap(&fresh, certificates.prepare(&config, &fresh).unwrap()), "the same authorities");
        assert!(!Arc::ptr_eq(&certificates.control.current(), &first));
        certificates.refused();
        let text = metrics.render();
        for outcome in ["refused", "swapped"] {
            assert!(text.contains(&format!("sbc_certificate_reloads_total{{outcome=\"{outcome}\"}} 1")), "{text}");
        }
    }

    #[test]
    fn without_a_set_of_its_own_sip_has_the_clusters() {
        let (dir, ca) = (Dir::new(), Authority::new());
        ca.issue(&dir.0, "a", &["node-a"], &[]);
        let config = config(&dir.0, false);
        let pems = CheckedPems::load(&config).unwrap();
        assert_eq!(pems.sip.end_entity(), pems.control.end_entity());
        assert_eq!((pems.warnings(&config).len(), auths(&config)), (0, ClientAuths::default()));
    }
}
