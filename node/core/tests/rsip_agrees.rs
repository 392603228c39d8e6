//! On canonical messages the scanner and rsip read the same. Where they differ (URNs, IPv6, folding, compact forms) rsip is
//! wrong, see ARCHITECTURE.md; those messages are in `torture.rs`.

use bytes::Bytes;
use rsip::headers::ToTypedHeader;
use rsip::prelude::{HeadersExt, UntypedHeader};
use sbc_core::sip::{Message, NameAddr};

const MESSAGES: [&str; 4] = [
    "INVITE sip:112@psap.example.org SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bKnashds8\r\nMax-Forwards: 70\r\n\
     From: \"Ann\" <sip:ann@example.org>;tag=1928301774\r\nTo: <sip:112@psap.example.org>\r\nCall-ID: a84b4c76e66710@198.51.100.7\r\n\
     CSeq: 314159 INVITE\r\nContact: <sip:ann@198.51.100.7:5060>\r\nContent-Length: 0\r\n\r\n",
    "BYE sip:ann@198.51.100.7:5060 SIP/2.0\r\nVia: SIP/2.0/TCP 198.51.100.9:5060;branch=z9hG4bK77;rport\r\nMax-Forwards: 69\r\n\
     From: <sip:112@psap.example.org>;tag=abc\r\nTo: <sip:ann@example.org>;tag=def\r\nCall-ID: 1@x\r\nCSeq: 2 BYE\r\n\
     Content-Length: 0\r\n\r\n",
    "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bKnashds8\r\nFrom: <sip:ann@example.org>;tag=1\r\n\
     To: <sip:112@psap.example.org>;tag=2\r\nCall-ID: 2@x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    "SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/TLS psap.example.org:5061;branch=z9hG4bKq\r\nFrom: <sips:ann@example.org>;tag=1\r\n\
     To: <sips:112@psap.example.org>;tag=2\r\nCall-ID: 3@x\r\nCSeq: 2147483647 INVITE\r\nContent-Length: 0\r\n\r\n",
];

#[test]
fn canonical_messages_read_the_same() {
    for text in MESSAGES {
        let ours = Message::parse(Bytes::from(text)).expect("canonical");
        let theirs = rsip::SipMessage::try_from(text).expect("canonical");
        match &theirs {
            rsip::SipMessage::Request(request) => {
                assert_eq!(ours.method().as_str(), request.method.to_string());
                assert_eq!(ours.request_uri(), Some(request.uri.to_string().as_str()));
            }
            rsip::SipMessage::Response(response) => assert_eq!(ours.status(), Some(response.status_code.code())),
        }
        assert_eq!(ours.call_id(), theirs.call_id_header().unwrap().value());
        let cseq = theirs.cseq_header().unwrap().typed().unwrap();
        assert_eq!((ours.cseq(), ours.method().as_str().to_owned()), (cseq.seq, cseq.method.to_string()));
        let via = theirs.via_header().unwrap().typed().unwrap();
        assert_eq!(ours.top_via().branch(), via.branch().map(|b| b.value()));
        assert_eq!(ours.top_via().transport(), via.transport.to_string());
        let from = theirs.from_header().unwrap().typed().unwrap();
        assert_eq!(NameAddr::parse(ours.from()).unwrap().uri.as_str(), from.uri.to_string());
        assert_eq!(ours.from_tag(), from.tag().map(|t| t.value()));
        let to = theirs.to_header().unwrap().typed().unwrap();
        assert_eq!(ours.to_tag(), to.tag().map(|t| t.value()));
    }
}
