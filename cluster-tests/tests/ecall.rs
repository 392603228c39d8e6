//! Emergency calls of each class, place and vehicle, through three real nodes: what the record, the events, the metrics and the far ends have.

use cluster_tests::cluster::{Cluster, Options, SETTLE, Shared, anycast, list, unicast};
use cluster_tests::message::{Dialog, Message};
use cluster_tests::scene::Scene;
use cluster_tests::{scrape, wait};
use data_encoding::BASE64;

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

const POLICE: &str = "\n[[numbers]]\nname = \"police\"\nfrom = \"110\"\nto = \"110\"\nservice = \"sos.police\"\n\
                      \n[[numbers]]\nname = \"relay\"\nprefix = \"1155\"\nservice = \"sos.fire\"\n";

/// RFC 5031: a range of numbers has a service, which is in the call, its record, each event and the metrics.
#[test]
fn a_number_of_a_range_has_its_class_everywhere() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    cluster.with_config(
        |old| format!("{old}{POLICE}"),
        || {
            for (uri, service) in
                [("sip:110@127.0.0.100", "sos.police"), ("tel:1155-07", "sos.fire"), ("sip:112@127.0.0.100", "sos")]
            {
                let received = format!("sbc_calls_received_total{{class=\"{service}\"}}");
                let ended = format!("sbc_calls_ended_total{{outcome=\"answered\",class=\"{service}\"}}");
                let counted = (scrape::sum(&received), scrape::sum(&ended));
                let mut scene = Scene::new();
                let invite = scene.invite().to_uri(uri).replace("To", &format!("<{uri}>"));
                let (at_psap, from) = scene.ring(&invite, anycast());
                assert!(at_psap.all("Call-Info").any(|v| v.ends_with(";purpose=emergency-CallId")), "{at_psap:?}");
                scene.psap.send(&Scene::answer(&at_psap), from);
                let (ok, _) = scene.caller.expect_response(200, "INVITE");
                let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
                scene.caller.send(&dialog.ack(1), anycast());
                scene.psap.expect_request("ACK");
                let call = cluster.call(invite.header("Call-ID"), "CALL_STATE_ANSWERED");
                assert_eq!((&call["emergency"], &call["emergencyInfo"]["service"]), (&true.into(), &service.into()), "{uri}");
                wait::until("the node that owns it counts it", SETTLE, || {
                    let active = scrape::sum(&format!("sbc_calls_active{{class=\"{service}\"}}"));
                    if active > 0 { Ok(()) } else { Err(active) }
                });
                scene.caller.send(&dialog.request("BYE"), unicast(1));
                scene.psap_confirms("BYE");
                scene.caller.expect_response(200, "BYE");
                let uid = call["uid"].as_str().expect("a uid").to_owned();
                let cdr = wait::until("its record", SETTLE, || {
                    let cdrs = cluster.cdrs();
                    cdrs.iter().find(|c| c["call"] == uid.as_str()).cloned().ok_or(cdrs.len())
                });
                assert_eq!((&cdr["emergency"], &cdr["emergencyInfo"]["service"]), (&true.into(), &service.into()), "{cdr}");
                let events = list(&cluster.json(&["event", "list", "--call", &uid]), "events");
                assert!(events.len() >= 4 && events.iter().all(|e| e["emergency"] == true), "{events:#?}");
                let tail =
                    cluster.ctl(&["dispatch", "tail", "--call", &uid, "--from", "snapshot", "--count", "4", "-o", "jsonl"]);
                let told: Vec<serde_json::Value> = tail.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
                assert_eq!(told.len(), 4, "received, ringing, answered, ended: {told:#?}");
                assert!(told.iter().all(|e| e["emergencyInfo"]["service"] == service), "{told:#?}");
                wait::until("none is left", SETTLE, || {
                    let active = scrape::sum(&format!("sbc_calls_active{{class=\"{service}\"}}"));
                    if active == 0 { Ok(()) } else { Err(active) }
                });
                assert_eq!((scrape::sum(&received), scrape::sum(&ended)), (counted.0 + 1, counted.1 + 1), "{service}");
            }
            cluster.settled(before + 3);
        },
    );
}

/// A PIDF-LO (RFC 4119) with this in its location-info.
fn pidf(info: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
         xmlns:gp=\"urn:ietf:params:xml:ns:pidf:geopriv10\" xmlns:gml=\"http://www.opengis.net/gml\" \
         xmlns:ca=\"urn:ietf:params:xml:ns:pidf:geopriv10:civicAddr\" entity=\"pres:j\u{f6}rg@example.com\">\
         <tuple id=\"t\"><status><gp:geopriv><gp:location-info>{info}</gp:location-info><gp:usage-rules/>\
         <gp:method>Manual</gp:method></gp:geopriv></status></tuple></presence>\n"
    )
}

/// A call whose INVITE has one more part beside its description, turned away by the PSAP. What the PSAP got, and the call's uid.
fn turned_away_with(
    cluster: &Cluster,
    scene: &mut Scene,
    content_type: &str,
    fields: &[(&str, &str)],
    part: &[u8],
) -> (Message, String) {
    let before = cluster.cdrs().len();
    let mut invite = scene.invite();
    let description = invite.text();
    for (name, value) in fields {
        invite = invite.with(name, value);
    }
    invite = invite.replace("Content-Type", "multipart/mixed;boundary=outer");
    invite.body = [
        format!("--outer\r\nContent-Type: application/sdp\r\n\r\n{description}\r\n--outer\r\nContent-Type: {content_type}\r\n")
            .as_bytes(),
        b"Content-ID: <part@example.com>\r\n\r\n",
        part,
        b"\r\n--outer--\r\n",
    ]
    .concat();
    scene.caller.send(&invite, anycast());
    let at_psap = scene.psap.turn_away(invite.uri("From"), 486, &[]);
    assert_eq!(scene.caller.final_of(&invite).status(), 486);
    cluster.settled(before + 1);
    let cdr = cluster.cdrs().pop().expect("its record");
    (at_psap, cdr["call"].as_str().expect("an id").to_owned())
}

fn has(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|w| w == part)
}

/// RFC 5491 §5.2 and RFC 5139: whatever the shape, and where nothing can be read, PSAP and dispatcher have the octets that were sent.
#[test]
fn each_shape_is_read_and_the_octets_stand_beside_it() {
    let cluster = cluster();
    let mut scene = Scene::new();
    let point = pidf("<gml:Point srsName=\"urn:ogc:def:crs:EPSG::4326\"><gml:pos>52.520008 13.404954</gml:pos></gml:Point>");
    let polygon = pidf(
        "<gml:Polygon srsName=\"urn:ogc:def:crs:EPSG::4326\"><gml:exterior><gml:LinearRing><gml:pos>43.311 -73.422</gml:pos>\
         <gml:pos>43.111 -73.322</gml:pos><gml:pos>43.111 -73.222</gml:pos><gml:pos>43.311 -73.422</gml:pos></gml:LinearRing>\
         </gml:exterior></gml:Polygon>",
    );
    let civic =
        pidf("<ca:civicAddress><ca:country>DE</ca:country><ca:A3>M\u{fc}nchen</ca:A3><ca:RD>Isarring</ca:RD></ca:civicAddress>");
    let broken = b"<presence><tuple>\xff\xfe no end".to_vec();
    for (document, pointer, value) in [
        (point.into_bytes(), "/parsed/0/geodetic/point", serde_json::json!({"latitude": 52.520_008, "longitude": 13.404_954})),
        (
            polygon.into_bytes(),
            "/parsed/0/geodetic/polygon/points/1",
            serde_json::json!({"latitude": 43.111, "longitude": -73.322}),
        ),
        (civic.into_bytes(), "/parsed/0/civic/1", serde_json::json!({"name": "A3", "value": "M\u{fc}nchen"})),
        (broken, "/parseError", "not UTF-8".into()),
    ] {
        let fields = [("Geolocation", "<cid:part@example.com>")];
        let (at_psap, uid) = turned_away_with(&cluster, &mut scene, "application/pidf+xml", &fields, &document);
        assert!(has(&at_psap.body, &document), "octet for octet at the PSAP: {pointer}");
        let told = cluster.json(&["dispatch", "location", &uid]);
        let place = &told["locations"][0];
        assert_eq!(place.pointer(pointer), Some(&value), "{told}");
        assert_eq!(place["value"], BASE64.encode(&document), "octet for octet at the dispatcher: {pointer}");
        assert_eq!(list(&told, "locations").len(), 1);
    }
}

const MSD_TYPE: &str = "application/EmergencyCallData.eCall.MSD";
const CONTROL_TYPE: &str = "application/EmergencyCallData.Control+xml";
/// Octets that no text has, a line that looks like a boundary, and an end without a line's end.
const MSD: &[u8] = b"\x02\x29\x00\xff\r\n--\x80\r\n\r\n\x01--oute";
const ACK: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<EmergencyCallData.Control xmlns=\"urn:ietf:params:xml:ns:EmergencyCallData:control\">\n \
                   <ack received=\"true\" ref=\"part@example.com\"/>\n</EmergencyCallData.Control>\n";
const AGAIN: &str = "<EmergencyCallData.Control xmlns=\"urn:ietf:params:xml:ns:EmergencyCallData:control\"><request action=\"send-data\" \
                     datatype=\"eCall.MSD\"/></EmergencyCallData.Control>";

/// Description and one more part in one body.
fn both(description: &str, content_type: &str, part: &[u8]) -> Vec<u8> {
    let head = format!(
        "--outer\r\nContent-Type: application/sdp\r\n\r\n{description}\r\n--outer\r\nContent-Type: {content_type}\r\n\
         Content-ID: <part@example.com>\r\nContent-Disposition: by-reference;handling=optional\r\n\r\n"
    );
    [head.as_bytes(), part, b"\r\n--outer--\r\n"].concat()
}

/// A body without the description in it: all that is not ours to change.
fn besides_sdp(body: &[u8]) -> Vec<u8> {
    let find = |what: &[u8]| body.windows(what.len()).position(|w| w == what).expect("the parts are there");
    let (start, end) = (find(b"v=0"), find(b"\r\n--outer\r\nContent-Type: application/Emergency"));
    [&body[..start], &body[end..]].concat()
}

/// RFC 8147 §6: the vehicle's data in the INVITE, the PSAP's acknowledgement in the 200, its request for newer data and the answer in INFO
/// of both directions, each octet for octet.
#[test]
fn a_vehicle_and_a_psap_exchange_data_octet_for_octet() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let package = |m: Message| {
        m.with("Info-Package", "EmergencyCallData.eCall.MSD").with("Content-Disposition", "Info-Package;handling=optional")
    };
    let mut invite = Message::invite("urn:service:sos.ecall.automatic", scene.caller.at(), "UDP")
        .with("Call-Info", "<cid:part@example.com>;purpose=EmergencyCallData.eCall.MSD")
        .with("Recv-Info", "EmergencyCallData.eCall.MSD")
        .replace("Content-Type", "multipart/mixed;boundary=outer");
    invite.body = both(&invite.text(), MSD_TYPE, MSD);
    let (at_psap, from) = scene.ring(&invite, anycast());
    assert_eq!(besides_sdp(&at_psap.body), besides_sdp(&invite.body));
    assert_eq!(at_psap.header("Recv-Info"), "EmergencyCallData.eCall.MSD");
    assert!(at_psap.all("Call-Info").any(|v| v == invite.header("Call-Info")), "{at_psap:?}");

    let mut answer = Scene::answer(&at_psap)
        .with("Call-Info", "<cid:part@example.com>;purpose=EmergencyCallData.Control")
        .with("Recv-Info", "EmergencyCallData.eCall.MSD");
    answer = answer.clone().replace("Content-Type", "multipart/mixed;boundary=outer");
    answer.body = both(&answer.text(), CONTROL_TYPE, ACK.as_bytes());
    scene.psap.send(&answer, from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    assert_eq!(besides_sdp(&ok.body), besides_sdp(&answer.body), "the acknowledgement");
    assert_eq!(ok.header("Recv-Info"), "EmergencyCallData.eCall.MSD");
    assert!(ok.all("Call-Info").any(|v| v == answer.header("Call-Info")), "{ok:?}");
    let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    let mut from_psap = Dialog::of_callee(&at_psap, &answer, scene.psap.at());
    scene.caller.send(&dialog.ack(1), anycast());
    scene.psap.expect_request("ACK");

    // The PSAP wants newer data; the vehicle's answer goes by another node.
    let mut asks = package(from_psap.request("INFO")).with("Content-Type", CONTROL_TYPE);
    asks.body = AGAIN.into();
    scene.psap.send(&asks, from);
    let (asked, way) = scene.caller.expect_request("INFO");
    assert_eq!((&asked.body, asked.header("Content-Type")), (&asks.body, CONTROL_TYPE));
    assert_eq!(asked.header("Info-Package"), "EmergencyCallData.eCall.MSD");
    scene.caller.send(&asked.response(200, "OK", ""), way);
    scene.psap.expect_response(200, "INFO");
    let mut newer = package(dialog.request("INFO")).with("Content-Type", MSD_TYPE);
    newer.body = (0..=255).collect();
    scene.caller.send(&newer, unicast(2));
    let told = scene.psap_confirms("INFO");
    assert_eq!((&told.body, told.header("Content-Type")), (&newer.body, MSD_TYPE));
    assert_eq!(told.header("Info-Package"), "EmergencyCallData.eCall.MSD");
    scene.caller.expect_response(200, "INFO");

    let call = cluster.call(invite.header("Call-ID"), "CALL_STATE_ANSWERED");
    assert_eq!(call["emergencyInfo"]["service"], "sos.ecall.automatic");
    let uid = call["uid"].as_str().expect("a uid");
    // What the PSAP says is its own; the dispatcher reads what the vehicle sent.
    let blocks = wait::until("both sets of data", SETTLE, || {
        let blocks = list(&cluster.json(&["dispatch", "data", uid]), "data");
        let values: Vec<_> =
            blocks.iter().filter(|b| b["purpose"] == "EmergencyCallData.eCall.MSD").map(|b| b["value"].clone()).collect();
        if values.len() == 2 { Ok(values) } else { Err(blocks) }
    });
    assert_eq!(blocks, [BASE64.encode(MSD), BASE64.encode(&newer.body)]);
    scene.caller.send(&dialog.request("BYE"), anycast());
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    scene.settled(&cluster, before + 1, (&invite, &at_psap));
}
