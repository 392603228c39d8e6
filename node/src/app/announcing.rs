//! What the node's configuration makes of the announcer, and the pulse by which it speaks BGP.

use std::time::Duration;

use sbc_core::bgp::Route;
use sbc_core::ids::NodeId;

use super::{AppError, start_error};
use crate::announce::{
    AnnounceConfig, BfdConfig, BgpConfig, BgpHandle, Driver as AnnounceBy, Exec, MD5_KEY_MAX, NeighborConfig, NeighborStatus,
    Pulse,
};
use crate::config::{AnnounceDriver, BgpSection, KeyFault, NodeConfig};
use crate::driver::DriverHandle;
use crate::key_file;
use crate::media::MediaHandle;
use crate::telemetry::RouterReading;
use crate::transport::TransportHandle;

/// The SIP loop beats twice a second where it has nothing to do: with a beat missed it has stopped. A router that has BFD is to know within
/// two seconds of the last turn.
const SIP_LOOP: Duration = Duration::from_millis(1200);
/// A media thread that is asked answers within a turn.
const MEDIA: Duration = Duration::from_millis(1200);

/// The keys of routers, in the order of the configuration; read before anything is bound.
pub(super) fn passwords(config: &NodeConfig) -> Result<Vec<Option<Vec<u8>>>, AppError> {
    let neighbors = config.announce.bgp.iter().flat_map(|b| &b.neighbors);
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    for neighbor in neighbors {
        let read = neighbor.password_file.as_deref().map(|path| {
            let fault = |why: String| KeyFault {
                key: "announce.bgp.neighbors",
                message: format!("password_file of {}: {}: {why}", neighbor.address, path.display()),
                hint: "one line, the key that the router has too (TCP MD5)".to_owned(),
            };
            let text = key_file::read_to_string(path).map_err(|e| fault(e.to_string()))?;
            let key = text.trim_end_matches(['\r', '\n']).as_bytes().to_vec();
            match key.len() {
                1..=MD5_KEY_MAX => Ok(key),
                n => Err(fault(format!("the key has {n} octets, and may have 1 to {MD5_KEY_MAX}"))),
            }
        });
        match read.transpose() {
            Ok(key) => all.push(key),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(all) } else { Err(AppError::Files(faults)) }
}

pub(super) fn announce_config(config: &NodeConfig) -> AnnounceConfig {
    AnnounceConfig {
        wanted: config.announce.at_start,
        preference: config.announce.preference,
        up_after: config.announce.up_after,
        // An emergency call is not refused for the store's sake (rule B), so a node without quorum takes calls too.
        allow_degraded: true,
    }
}

/// The driver, and the speaker where it is BGP.
pub(super) fn announce_by(
    config: &NodeConfig,
    incarnation: u32,
    parts: (&TransportHandle, &DriverHandle, &MediaHandle),
) -> Result<(AnnounceBy, Option<BgpHandle>), AppError> {
    let (transport, driver, media) = parts;
    Ok(match (config.announce.driver, &config.announce.bgp) {
        (AnnounceDriver::Bind, _) => (AnnounceBy::Bind(transport.clone()), None),
        (AnnounceDriver::Exec, _) => {
            (AnnounceBy::Exec(Exec { command: config.announce.command.clone(), anycast: config.sip.anycast }), None)
        }
        (AnnounceDriver::Bgp, Some(section)) => {
            let speaker = bgp_config(config, section, incarnation)?;
            let pulse = pulse(driver.clone(), media.clone(), transport.clone());
            let handle = BgpHandle::start(speaker, pulse).map_err(start_error("[announce.bgp]"))?;
            (AnnounceBy::Bgp(handle.clone()), Some(handle))
        }
        (AnnounceDriver::Bgp | AnnounceDriver::None, _) => (AnnounceBy::None, None),
    })
}

fn pulse(driver: DriverHandle, media: MediaHandle, transport: TransportHandle) -> Pulse {
    Box::new(move || {
        if driver.age() > SIP_LOOP {
            return Err("the SIP loop");
        }
        if !media.is_alive_within(MEDIA) {
            return Err("a media thread");
        }
        if !transport.core_bound() {
            return Err("the core side");
        }
        Ok(())
    })
}

fn bgp_config(config: &NodeConfig, section: &BgpSection, incarnation: u32) -> Result<BgpConfig, AppError> {
    let route = |prefix: &ipnet::IpNet| Route {
        prefix: *prefix,
        prepend: section.prepend,
        communities: section.communities.clone(),
        large_communities: section.large_communities.clone(),
    };
    let neighbors = section.neighbors.iter().zip(passwords(config)?).map(|(n, password)| NeighborConfig {
        address: n.address,
        port: n.port,
        remote_as: n.asn,
        local: n.local,
        password,
        ttl_security: n.ttl_security,
        next_hop4: n.next_hop4,
        next_hop6: n.next_hop6,
        bfd: n.bfd.map(|(interval, multiplier)| BfdConfig { interval, multiplier }),
    });
    Ok(BgpConfig {
        local_as: section.asn,
        identifier: section.router_id,
        hold_time: section.hold_time,
        connect_retry: section.connect_retry,
        routes: section.prefixes.iter().map(route).collect(),
        addresses: vec![config.sip.anycast, config.sip.unicast],
        listen: section.listen,
        neighbors: neighbors.collect(),
        seed: seed(config.id, incarnation),
    })
}

/// A router, as a metric.
pub(super) fn reading(of: &NeighborStatus) -> RouterReading {
    RouterReading {
        router: of.address,
        up: of.is_established(),
        prefixes: of.announced.len() as u64,
        established: of.session.established,
        updates_dropped: of.session.updates_dropped,
        bfd: of.bfd.map(|state| state == sbc_core::bfd::State::Up),
    }
}

/// Of each start another one: a router must not take this start's discriminators for those of the last.
fn seed(node: NodeId, incarnation: u32) -> u64 {
    let mixed = (u64::from(incarnation) << 16 | u64::from(node.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}
