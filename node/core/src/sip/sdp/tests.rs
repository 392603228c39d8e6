//! Tests of reading and rewriting session descriptions.

use super::*;

const OFFER: &str = "v=0\r\no=alice 2890844526 2890844527 IN IP4 10.0.0.1\r\ns= caf\u{e9} \r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\na=ice-lite\r\n\
    a=group:BUNDLE 1 2\r\na=sendonly\r\nm=audio 49170/2 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=rtcp:53020 IN IP4 10.0.0.2\r\n\
    a=candidate:1 1 UDP 2130706431 10.0.0.1 49170 typ host\r\na=ice-ufrag:x\r\na=end-of-candidates\r\na=X-odd  kept \r\n\
    m=video 0 RTP/AVP 31\r\nc=IN IP6 2001:db8::1\r\na=rtcp:9\r\na=inactive\r\nm=text 6000 udp/tls/rtp/savpf 98\r\na=rtcp-mux\r\na=rtcp:6001\r\n\
    m=message 7000 TCP/MSRP *\r\n";

fn rewrite(address: &str, ports: &[Option<u16>]) -> SdpRewrite {
    let lines = ports.iter().map(|port| port.map_or(LineRewrite::Keep, LineRewrite::Port)).collect();
    SdpRewrite { origin: Some(("-".into(), 7, 9)), address: address.parse().expect("address"), lines }
}

#[test]
fn an_offer_is_read() {
    let sdp = Sdp::parse(OFFER.as_bytes()).expect("valid");
    assert_eq!(&*sdp.origin().username, "alice");
    assert_eq!((&*sdp.origin().sess_id, sdp.origin().sess_version), ("2890844526", Some(2_890_844_527)));
    assert_eq!(sdp.origin().addr, Some("10.0.0.1".parse().expect("address")));
    let [audio, video, text, msrp] = sdp.media() else { panic!("four media") };
    assert_eq!((&*audio.kind, audio.port, audio.port_count, &*audio.proto), ("audio", 49170, 2, "RTP/AVP"));
    assert_eq!(audio.formats.iter().map(|format| &**format).collect::<Vec<_>>(), ["0", "8", "101"]);
    assert_eq!(audio.connection, Some("10.0.0.1".parse().expect("address")));
    assert_eq!(audio.rtcp, Some((53020, Some("10.0.0.2".parse().expect("address")))));
    assert_eq!(
        (audio.direction, video.direction, text.direction),
        (Direction::SendOnly, Direction::Inactive, Direction::SendOnly)
    );
    assert_eq!(video.connection, Some("2001:db8::1".parse().expect("address")));
    assert_eq!((text.rtcp_mux, audio.rtcp_mux, text.rtcp), (true, false, Some((6001, None))));
    assert_eq!((audio.is_rtp(), text.is_rtp(), msrp.is_rtp()), (true, true, false));
}

#[test]
fn only_addresses_ports_and_ice_change() {
    let sdp = Sdp::parse(OFFER.as_bytes()).expect("valid");
    let out = sdp.rewrite(&rewrite("127.0.0.9", &[Some(30000), None, Some(30004)]));
    let expected = "v=0\r\no=- 7 9 IN IP4 127.0.0.9\r\ns= caf\u{e9} \r\nc=IN IP4 127.0.0.9\r\nt=0 0\r\na=sendonly\r\n\
        m=audio 30000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=rtcp:30001\r\na=X-odd  kept \r\n\
        m=video 0 RTP/AVP 31\r\nc=IN IP4 127.0.0.9\r\na=inactive\r\nm=text 30004 udp/tls/rtp/savpf 98\r\na=rtcp-mux\r\n\
        m=message 7000 TCP/MSRP *\r\n";
    assert_eq!(std::str::from_utf8(&out).expect("UTF-8"), expected);
    let again = Sdp::parse(&out).expect("valid").rewrite(&rewrite("127.0.0.9", &[Some(30000), None, Some(30004)]));
    assert_eq!(again, out);
}

#[test]
fn ipv6_and_hold() {
    let held = "v=0\no=- 1 1 IN IP4 h.example\ns=-\nc=IN IP4 0.0.0.0\nt=0 0\nm=audio 5 RTP/AVP 0\nm=audio 7 RTP/AVP 0\nc=IN IP4 h.example\n";
    let sdp = Sdp::parse(held.as_bytes()).expect("valid");
    assert!(sdp.media()[0].connection.is_some_and(|addr| addr.is_unspecified()));
    assert_eq!((sdp.media()[1].connection, sdp.origin().addr), (None, None));
    let out = sdp.rewrite(&SdpRewrite { origin: None, ..rewrite("2001:db8::7", &[Some(10), Some(20)]) });
    let expected = "v=0\no=- 1 1 IN IP4 h.example\ns=-\nc=IN IP4 0.0.0.0\nt=0 0\nm=audio 10 RTP/AVP 0\nm=audio 20 RTP/AVP 0\nc=IN IP6 2001:db8::7\n";
    assert_eq!(std::str::from_utf8(&out).expect("UTF-8"), expected.replace("IP4 0.0.0.0", "IP6 ::"));
    let back = Sdp::parse(&out).expect("valid").rewrite(&SdpRewrite { origin: None, ..rewrite("127.0.0.1", &[]) });
    assert!(String::from_utf8_lossy(&back).contains("\nc=IN IP4 0.0.0.0\n"), "{back:?}");
}

#[test]
fn a_missing_connection_line_is_added_once() {
    let bare = "v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nt=0 0\r\nm=audio 5 RTP/AVP 0\r\ni=first\r\na=x\r\ni=again\r\nm=video 0 RTP/AVP 1\r\nm=text 9 RTP/AVP 98";
    let out = Sdp::parse(bare.as_bytes()).expect("valid").rewrite(&rewrite("127.0.0.1", &[Some(10), None, Some(20)]));
    let expected = "v=0\r\no=- 7 9 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 10 RTP/AVP 0\r\ni=first\r\nc=IN IP4 127.0.0.1\r\na=x\r\n\
        i=again\r\nm=video 0 RTP/AVP 1\r\nm=text 20 RTP/AVP 98\r\nc=IN IP4 127.0.0.1\r\n";
    assert_eq!(std::str::from_utf8(&out).expect("UTF-8"), expected);
}

#[test]
fn what_carries_a_medium() {
    for (proto, carrier) in [
        ("RTP/AVP", Carrier::Rtp),
        ("rtp/savpf", Carrier::Rtp),
        ("UDP/TLS/RTP/SAVP", Carrier::DtlsRtp),
        ("UDP/TLS/RTP/SAVPF", Carrier::DtlsRtp),
        ("udptl", Carrier::Datagrams),
        ("UDPTL", Carrier::Datagrams),
        ("udp", Carrier::Datagrams),
        ("UDP/BFCP", Carrier::Datagrams),
        ("UDP/TLS/UDPTL", Carrier::Datagrams),
        ("UDP/DTLS/SCTP", Carrier::Datagrams),
        ("TCP/MSRP", Carrier::Other),
        ("TCP/TLS/BFCP", Carrier::Other),
        ("TCP/RTP/AVP", Carrier::Other),
        ("udp\u{e9}", Carrier::Other),
    ] {
        let text = format!("v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nm=x 5 {proto} 0\r\n");
        assert_eq!(Sdp::parse(text.as_bytes()).expect("valid").media()[0].carrier(), carrier, "{proto}");
    }
}

/// Media that do not pass through us stay where they are, or are refused without a trace of where that is.
#[test]
fn media_past_us() {
    let head = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1/127\r\nt=0 0\r\n";
    let msrp = "m=message 7654/2 TCP/MSRP *\r\ni=chat\r\na=accept-types:text/plain\r\na=path:msrp://10.0.0.1:7654/x;tcp\r\n";
    let own = "m=application 9 TCP/BFCP *\r\nc=IN IP4 10.0.0.2\r\na=setup:active\r\na=rtcp:5 IN IP4 10.0.0.3\r\n";
    let sdp = Sdp::parse(format!("{head}{msrp}{own}").as_bytes()).expect("valid");
    assert_eq!((sdp.media()[0].path, sdp.media()[1].path), (true, false));
    let out = |lines: [LineRewrite; 2]| {
        let out = sdp.rewrite(&SdpRewrite { lines: lines.to_vec(), ..rewrite("127.0.0.9", &[]) });
        String::from_utf8(out.to_vec()).expect("text")
    };
    let ours = "v=0\r\no=- 7 9 IN IP4 127.0.0.9\r\ns=-\r\nc=IN IP4 127.0.0.9\r\nt=0 0\r\n";
    let kept = msrp.replace("i=chat\r\n", "i=chat\r\nc=IN IP4 10.0.0.1/127\r\n");
    assert_eq!(out([LineRewrite::Direct; 2]), format!("{ours}{kept}{own}"));
    let refused = "m=message 0 TCP/MSRP *\r\ni=chat\r\na=accept-types:text/plain\r\n\
        m=application 0 TCP/BFCP *\r\nc=IN IP4 127.0.0.9\r\na=setup:active\r\n";
    assert_eq!(out([LineRewrite::Refuse; 2]), format!("{ours}{refused}"));
    let again = sdp.with_origin("sbc", 3, 4);
    let again = String::from_utf8(again.to_vec()).expect("text");
    assert_eq!(again, format!("{}{msrp}{own}", head.replace("o=- 1 1", "o=sbc 3 4")));
}

#[test]
fn refused() {
    let with = |line: &str| format!("v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\n{line}\r\n");
    for (text, error) in [
        (String::new(), SdpError::Line),
        ("v=1\r\n".into(), SdpError::Line),
        ("v=0\r\ns=-\r\n".into(), SdpError::Origin),
        ("v=0\r\no=- 1 1 IN\r\n".into(), SdpError::Origin),
        (with("o=- 1 1 IN IP4 h"), SdpError::Origin),
        (with("nonsense"), SdpError::Line),
        (with("a=x\r\n\r\na=y"), SdpError::Line),
        (with("a=x\ry"), SdpError::Line),
        (with("m=audio"), SdpError::Media),
        (with("m=audio 70000 RTP/AVP 0"), SdpError::Media),
        (with("m=audio x RTP/AVP 0"), SdpError::Media),
        (with("m=audio 5 RTP/AVP"), SdpError::Media),
        (with(&"m=audio 5 RTP/AVP 0\r\n".repeat(MAX_MEDIA + 1)), SdpError::TooManyMedia),
        (with(&"a=x\r\n".repeat(MAX_SDP / 5)), SdpError::TooLarge),
    ] {
        assert_eq!(Sdp::parse(text.as_bytes()).err(), Some(error), "{text:.80}");
    }
    assert!(Sdp::parse(with("a=x\r\n\r\n").as_bytes()).is_ok());
}

#[test]
fn repaired() {
    let good = "v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nm=audio 5 RTP/AVP 0\r\na=x\r\n";
    let repaired = |text: &str| Sdp::repair(text.as_bytes()).map(|sdp| String::from_utf8_lossy(sdp.raw()).into_owned());
    for broken in [
        good.to_owned(),
        good.replace("s=-\r\n", "s=-\r\nnonsense\r\n\r\n"),
        good.replace("v=0\r\n", ""),
        good.replace("s=-\r\n", "s=-\r\no=- 2 2 IN IP4 h\r\n"),
        good.replace("a=x\r\n", "a=x\r\na=a\rb\r\n=y\r\nA=z\n"),
        good.replace("\r\n", "\n"),
    ] {
        assert_eq!(repaired(&broken).as_deref(), Some(good), "{broken}");
    }
    let nameless = good.replace("o=- 1 1 IN IP4 h\r\n", "");
    assert_eq!(repaired(&nameless), Some(good.replace("o=- 1 1 IN IP4 h", "o=- 0 0 IN IP4 0.0.0.0")));
    for lost in ["", "v=0\r\n", &good.replace("m=audio 5 ", "m=audio x "), &"a=x\r\n".repeat(MAX_SDP / 5)] {
        assert_eq!(repaired(lost), None, "{lost:.80}");
    }
}

/// Found by fuzzing: a description that ends within a line break still gets a whole line behind it.
#[test]
fn a_cut_line_break_is_made_whole() {
    for end in ["", "\r", "\n", "\r\n"] {
        let text = format!("v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nm=audio 5 RTP/AVP 0{end}");
        let out = Sdp::parse(text.as_bytes()).expect("valid").rewrite(&rewrite("127.0.0.1", &[Some(10)]));
        let out = String::from_utf8(out.to_vec()).expect("text");
        assert!(out.ends_with("m=audio 10 RTP/AVP 0\r\nc=IN IP4 127.0.0.1\r\n") || end == "\n", "{out:?}");
        assert!(Sdp::parse(out.as_bytes()).is_ok(), "{out:?}");
    }
}
