//! `dev flip`: moves the anycast address, and finds out who serves it by asking it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sbc_proto::v1::NodeServiceAnnounceRequest;
use sbc_proto::v1::node_service_client::NodeServiceClient;
use tokio::net::UdpSocket;

use crate::dev::ready;
use crate::dev::stand::{ANYCAST, NodeSpec, SIP_PORT, Stand};
use crate::error::{Exit, Failure};
use crate::files;

/// A move takes milliseconds; this is for a machine under load.
const SETTLE: Duration = Duration::from_secs(10);
/// How long one OPTIONS may stay unanswered before it is asked again.
const ANSWER: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_millis(20);

/// Moves the anycast address to a node; returns how long that took, once an OPTIONS to the address is answered by that node.
pub(crate) async fn flip(stand: &Stand, node: &NodeSpec) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let cluster = stand.cluster()?;
    let channel = cluster.connect_to(&node.grpc().to_string()).await?;
    let request_id = cluster.request_id()?;
    let request = NodeServiceAnnounceRequest { node: node.name.clone(), exclusive: true, request_id: request_id.clone() };
    NodeServiceClient::new(channel)
        .announce(request)
        .await
        .map_err(|s| Failure::from_change(&format!("announcing from {}", node.name), &s, &request_id))?;
    let others: Vec<NodeSpec> = stand.nodes().into_iter().filter(|n| n != node).collect();
    loop {
        let announcers = ready::announcers(stand).await?;
        let answer = options().await?;
        let seen = match &answer {
            Some(answer) if announcers == [node.name.as_str()] && serves(answer, node, &others) => return Ok(begin.elapsed()),
            Some(answer) => answer.lines().next().unwrap_or_default().to_owned(),
            None => "no answer".to_owned(),
        };
        if begin.elapsed() > SETTLE {
            return Err(Failure::new(
                Exit::Failed,
                format!("{} does not serve {ANYCAST} after {} s", node.name, SETTLE.as_secs()),
            )
            .cause(format!("announced by: [{}]; OPTIONS to it: {seen}", announcers.join(", ")))
            .hint(format!("see the log {}", stand.log(&node.name).display())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends an OPTIONS to the anycast address; `None`: no answer.
async fn options() -> Result<Option<String>, Failure> {
    let fault = |e: std::io::Error| Failure::failed("cannot send from a socket of 127.0.0.1").cause(e);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(fault)?;
    let local = socket.local_addr().map_err(fault)?;
    let target: SocketAddr = (ANYCAST, SIP_PORT).into();
    let id = files::hex(&files::random::<8>()?);
    let request = format!(
        "OPTIONS sip:{target} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{id};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:sbcctl@{local}>;tag={id}\r\nTo: <sip:{target}>\r\nCall-ID: {id}\r\nCSeq: 1 OPTIONS\r\n\
         Contact: <sip:sbcctl@{local}>\r\nContent-Length: 0\r\n\r\n"
    );
    // While nobody holds the address the kernel answers with an ICMP error: that is no answer.
    if socket.send_to(request.as_bytes(), target).await.is_err() {
        return Ok(None);
    }
    let mut buffer = [0; 4096];
    match tokio::time::timeout(ANSWER, socket.recv_from(&mut buffer)).await {
        Ok(Ok((n, _))) => Ok(Some(String::from_utf8_lossy(&buffer[..n]).into_owned()).filter(|a| a.contains(&id))),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// True when the answer is a 200 that does not come from another node: Contact and Server name the one that answered, and an answer
/// without them says nothing against it.
fn serves(answer: &str, node: &NodeSpec, others: &[NodeSpec]) -> bool {
    let names = |n: &NodeSpec| {
        let (address, name) = (n.unicast().to_string(), n.name.to_ascii_lowercase());
        answer.lines().any(|line| {
            let Some((header, value)) = line.split_once(':') else { return false };
            match header.trim().to_ascii_lowercase().as_str() {
                "contact" | "m" => value.split(['@', ':', ';', '>', '<', ' ', ',']).any(|part| part == address),
                "server" => value.to_ascii_lowercase().split([' ', '/', '(', ')']).any(|part| part == name),
                _ => false,
            }
        })
    };
    answer.starts_with("SIP/2.0 200") && (names(node) || !others.iter().any(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_answered() {
        let node = |name: &str, id| NodeSpec { name: name.to_owned(), id };
        let (a, others) = (node("node-a", 1), [node("node-b", 2)]);
        let from = |header: &str| format!("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.12\r\n{header}\r\n\r\n");
        assert!(serves(&from("Contact: <sip:127.0.0.11:5060>"), &a, &others));
        assert!(!serves(&from("Contact: <sip:x@127.0.0.12:5060>"), &a, &others));
        assert!(!serves(&from("m: <sip:127.0.0.12>"), &a, &others));
        assert!(!serves(&from("Server: sbcd/0.1.0 (node-b)"), &a, &others));
        assert!(serves(&from("Server: sbcd"), &a, &others));
        assert!(!serves("SIP/2.0 503 No\r\nContact: <sip:127.0.0.11:5060>\r\n\r\n", &a, &others));
    }
}
