//! A datagram: what is taken survives being written and read again, what is refused yields an answer that can be sent.

use bytes::Bytes;
use sbc_core::sip::{Draft, HeaderId, Message, Multipart, NameAddr, ParseError, Uri, Via, split_list};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Taken,
    Answered,
    Dropped,
}

/// The target.
pub(crate) fn run(octets: &[u8]) -> Outcome {
    match Message::parse(Bytes::copy_from_slice(octets)) {
        Ok(message) => {
            check_taken(&message);
            Outcome::Taken
        }
        Err(error) => {
            check_refused(&error);
            if error.reply().is_some() { Outcome::Answered } else { Outcome::Dropped }
        }
    }
}

/// All fields but Content-Length, which the writer moves.
fn fields(message: &Message) -> Vec<(String, String)> {
    let kept = message.headers().filter(|field| field.id != HeaderId::ContentLength);
    kept.map(|field| (field.name.to_owned(), field.value.to_owned())).collect()
}

fn rewritten(message: &Message) -> Draft {
    let mut draft = match message.request_uri() {
        Some(uri) => Draft::request(message.method(), uri),
        None => Draft::response(message.status().expect("a response has a status"), Some(message.reason())),
    };
    message.headers().for_each(|field| {
        draft.push_field(&field);
    });
    draft.set_body(None, message.body());
    draft
}

/// Everything that is read from a message on its way.
fn touch(message: &Message) {
    message.top_via().with_received("10.0.0.1:5060".parse().expect("address"));
    for field in message.headers() {
        for element in message.values(field.id).chain([field.value]) {
            let _ = (Uri::parse(element), Via::parse(element), message.number(field.id));
            if let Ok(addr) = NameAddr::parse(element) {
                let _ = (addr.tag(), addr.uri.user_decoded(), addr.uri.param("x"), addr.uri.is_service_sos());
            }
        }
        assert!(split_list(field.value).map(str::len).sum::<usize>() <= field.value.len());
    }
    if let Some(Ok(parts)) = message.content_type().map(|value| Multipart::parse(value, message.body())) {
        super::multipart::check(message.content_type().expect("seen"), &parts);
    }
}

/// Checks a message that was taken.
pub(crate) fn check_taken(message: &Message) {
    touch(message);
    let encoded = rewritten(message).encode().expect("what was taken can be written");
    let again = Message::parse(encoded.clone()).expect("what we write we read");
    assert_eq!(fields(&again), fields(message));
    assert_eq!(again.body(), message.body());
    assert_eq!((again.call_id(), again.cseq(), again.method()), (message.call_id(), message.cseq(), message.method()));
    assert_eq!((again.from_tag(), again.to_tag(), again.top_via()), (message.from_tag(), message.to_tag(), message.top_via()));
    assert_eq!(rewritten(&again).encode().expect("again"), encoded, "writing is stable");
    if message.is_request() {
        let response = message.response(500, None).encode().expect("a response to what was taken");
        let response = Message::parse(response).expect("our response is valid");
        assert_eq!((response.call_id(), response.top_via().branch()), (message.call_id(), message.top_via().branch()));
    }
}

/// Checks the answer to one that was not.
pub(crate) fn check_refused(error: &ParseError) {
    if let Some(reply) = error.reply() {
        let encoded = reply.encode().expect("an answer can be written");
        assert!(encoded.starts_with(b"SIP/2.0 ") && encoded.windows(5).any(|octets| octets.eq_ignore_ascii_case(b"\nVia:")));
    }
}
