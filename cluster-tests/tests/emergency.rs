//! What an emergency call carries for dispatchers, through three real nodes: location, additional data, ids, class.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, NODES, Options, SETTLE, Shared, anycast, list, unicast};
use cluster_tests::command;
use cluster_tests::message::{Message, sdp};
use cluster_tests::scene::Scene;
use cluster_tests::wait;

const PIDF: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
    xmlns:gp=\"urn:ietf:params:xml:ns:pidf:geopriv10\" xmlns:gs=\"http://www.opengis.net/pidflo/1.0\" \
    xmlns:gml=\"http://www.opengis.net/gml\" entity=\"pres:ann@example.com\"><tuple id=\"t\"><status><gp:geopriv><gp:location-info>\
    <gs:Circle srsName=\"urn:ogc:def:crs:EPSG::4326\"><gml:pos>47.123987 8.765432</gml:pos><gs:radius \
    uom=\"urn:ogc:def:uom:EPSG::9001\">42.5</gs:radius></gs:Circle></gp:location-info><gp:usage-rules/><gp:method>GPS</gp:method>\
    </gp:geopriv></status><timestamp>2026-11-24T05:00:00Z</timestamp></tuple></presence>\r\n";
const PROVIDER: &str = "<ad:EmergencyCallData.ProviderInfo xmlns:ad=\"urn:ietf:params:xml:ns:EmergencyCallData:ProviderInfo\"/>";
/// A binary body with octets that no text has.
const MSD: &[u8] = b"\x02\x29\x00\xff\r\n--\x80";

/// Everything that the nodes ever log is looked at: they log all they can.
fn cluster() -> Shared {
    Cluster::shared(Options { set: vec!["log.filter=debug".into()], ..Options::with_own_psap() })
}

/// Session description, location and provider information in one body.
fn multipart(at: SocketAddr) -> Vec<u8> {
    let description = String::from_utf8(sdp(at, 1, "sendrecv")).expect("SDP is text");
    format!(
        "--outer\r\nContent-Type: application/sdp\r\n\r\n{description}\r\n--outer\r\nContent-Type: application/pidf+xml\r\n\
         Content-ID: <place@example.com>\r\n\r\n{PIDF}\r\n--outer\r\nContent-Type: application/EmergencyCallData.ProviderInfo+xml\r\n\
         Content-ID: <who@example.com>\r\nContent-Disposition: by-reference;handling=optional\r\n\r\n{PROVIDER}\r\n--outer--\r\n"
    )
    .into_bytes()
}

fn invite(scene: &Scene, uri: &str) -> Message {
    let mut invite = Message::invite(uri, scene.caller.at(), "UDP")
        .with("Geolocation", "<cid:place@example.com>")
        .with("Geolocation", "<https://lis.example.com/ann>")
        .with("Geolocation-Routing", "yes")
        .with("Call-Info", "<cid:who@example.com>;purpose=EmergencyCallData.ProviderInfo")
        .replace("Content-Type", "multipart/mixed;boundary=outer");
    invite.body = multipart(SocketAddr::new(scene.caller.at().ip(), 40_000));
    invite
}

/// The body without the lines of its session description.
fn besides_sdp(body: &[u8]) -> Vec<u8> {
    let find = |what: &[u8]| body.windows(what.len()).position(|w| w == what).expect("the parts are there");
    let (start, end) = (find(b"v=0"), find(b"\r\n--outer\r\nContent-Type: application/pidf+xml"));
    [&body[..start], &body[end..]].concat()
}

#[test]
fn location_and_data_reach_the_psap_as_they_are_and_the_dispatcher_read() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let invite = invite(&scene, "urn:service:sos.fire");
    let (at_psap, from) = scene.ring(&invite, anycast());
    assert_eq!(besides_sdp(&at_psap.body), besides_sdp(&invite.body), "all but the session description crosses octet for octet");
    assert_eq!(at_psap.header("Content-Type"), "multipart/mixed;boundary=outer");
    assert_eq!(at_psap.all("Geolocation").collect::<Vec<_>>(), invite.all("Geolocation").collect::<Vec<_>>());
    assert_eq!(at_psap.header("Geolocation-Routing"), "yes");

    scene.psap.send(&Scene::answer(&at_psap), from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    let mut dialog = cluster_tests::message::Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(1), unicast(0));
    scene.psap.expect_request("ACK");
    let call = cluster.call(invite.header("Call-ID"), "CALL_STATE_ANSWERED");
    let uid = call["uid"].as_str().expect("a call has a uid").to_owned();
    assert_eq!(call["emergencyInfo"]["service"], "sos.fire");
    // The ids at the PSAP are those of the record.
    let ids: Vec<&str> = at_psap.all("Call-Info").filter(|v| v.contains("urn:emergency:uid:")).collect();
    let named = |key: &str| call["emergencyInfo"][key].as_str().expect("ids are there").to_owned();
    assert_eq!(
        ids,
        [
            format!("<{}>;purpose=emergency-CallId", named("callId")),
            format!("<{}>;purpose=emergency-IncidentId", named("incidentId"))
        ]
    );

    for node in 0..3u8 {
        let grpc = format!("127.0.0.{}:7443", 11 + node);
        let place = wait::until("the location", SETTLE, || {
            cluster.try_json(&["dispatch", "location", &uid, "--endpoint", &grpc]).ok_or("none")
        });
        let circle = &place["locations"][0]["parsed"][0]["geodetic"]["circle"];
        assert_eq!((&circle["center"]["latitude"], &circle["radiusM"]), (&47.123_987.into(), &42.5.into()), "{place}");
        assert_eq!(place["locations"][0]["parsed"][0]["method"], "GPS");
        assert_eq!(place["locations"][1]["referenceUri"], "https://lis.example.com/ann");
        let data = cluster.json(&["dispatch", "data", &uid, "--endpoint", &grpc]);
        assert_eq!(data["data"][0]["purpose"], "EmergencyCallData.ProviderInfo");
    }

    // The caller moves, and a vehicle sends its minimum set of data, both at other nodes than the owner.
    let moved = PIDF.replace("47.123987", "48.5");
    let mut update = dialog.request("INFO").with("Content-Type", "application/pidf+xml");
    update.body = moved.clone().into_bytes();
    scene.caller.send(&update, unicast(1));
    assert_eq!(scene.psap_confirms("INFO").body, moved.as_bytes());
    scene.caller.expect_response(200, "INFO");
    let mut msd = dialog
        .request("INFO")
        .with("Info-Package", "EmergencyCallData.eCall.MSD")
        .with("Content-Type", "application/EmergencyCallData.eCall.MSD")
        .with("Content-Disposition", "Info-Package");
    msd.body = MSD.to_vec();
    scene.caller.send(&msd, unicast(2));
    assert_eq!(scene.psap_confirms("INFO").body, MSD);
    scene.caller.expect_response(200, "INFO");
    wait::until_equal("the newer latitude", SETTLE, &serde_json::json!(48.5), || {
        cluster.json(&["dispatch", "location", &uid])["locations"][0]["parsed"][0]["geodetic"]["circle"]["center"]["latitude"]
            .clone()
    });
    wait::until_equal("both blocks", SETTLE, &2, || list(&cluster.json(&["dispatch", "data", &uid]), "data").len());

    scene.caller.send(&dialog.request("BYE"), anycast());
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    cluster.settled(before + 1);
    let cdrs = cluster.cdrs();
    let cdr = cdrs.iter().find(|c| c["call"] == uid.as_str()).expect("its record");
    assert_eq!(cdr["emergencyInfo"], call["emergencyInfo"]);

    // No line of any log has the caller, the place or the data.
    let logs = command::run(
        Command::new("sh").args(["-c", "find \"$0\" -name '*.log' -exec cat {} +"]).arg(cluster.dir()),
        Duration::from_secs(30),
    )
    .expect("the logs can be read")
    .stdout;
    assert!(logs.contains("DEBUG"), "the nodes log all they can");
    for secret in ["47.123987", "lis.example.com", "ann@example.com", "ProviderInfo", invite.header("Call-ID"), "sip:caller@"] {
        assert!(!logs.contains(secret), "{secret} is in a log of {NODES:?}");
    }
}

#[test]
fn ids_that_the_call_brings_are_kept_and_a_caller_that_gives_up_is_an_event() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let brought = "<urn:emergency:uid:callid:abc123:esrp.example.org>;purpose=emergency-CallId";
    let invite = scene.invite().with("Call-Info", brought);
    let (at_psap, _) = scene.ring(&invite, anycast());
    let ids: Vec<&str> = at_psap.all("Call-Info").collect();
    assert_eq!((ids.len(), ids[0]), (2, brought), "{ids:?}");
    assert!(ids[1].ends_with(";purpose=emergency-IncidentId"), "{ids:?}");
    let uid = cluster.call(invite.header("Call-ID"), "CALL_STATE_RINGING")["uid"].as_str().expect("a uid").to_owned();

    let cancel = Message {
        start: invite.start.replace("INVITE", "CANCEL"),
        headers: invite
            .headers
            .iter()
            .filter(|(n, _)| !["Contact", "Content-Type", "Call-Info"].contains(&n.as_str()))
            .cloned()
            .collect(),
        body: Vec::new(),
    }
    .replace("CSeq", "1 CANCEL");
    scene.caller.send(&cancel, anycast());
    scene.caller.expect_response(487, "INVITE");
    let (at_psap_cancel, from) = scene.psap.expect_request("CANCEL");
    scene.psap.send(&at_psap_cancel.response(200, "OK", ""), from);
    scene.psap.send(&at_psap.response(487, "Request Terminated", "psap"), from);
    scene.psap.expect_request("ACK");
    cluster.settled(before + 1);
    let tail = cluster.ctl(&["dispatch", "tail", "--call", &uid, "--from", "snapshot", "--count", "3", "-o", "jsonl"]);
    let events: Vec<serde_json::Value> = tail.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let last = events.last().expect("events");
    assert_eq!(last["kind"], "EMERGENCY_EVENT_KIND_ABANDONED", "{events:#?}");
    assert_eq!(last["callSequence"], 3);
    // Who to call back.
    assert!(last["caller"]["fromUri"].as_str().is_some_and(|uri| uri.starts_with("sip:caller@")), "{last}");
    assert_eq!(last["emergencyInfo"]["callId"], "urn:emergency:uid:callid:abc123:esrp.example.org");
}
