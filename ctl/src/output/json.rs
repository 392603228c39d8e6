//! Proto JSON of any message, by the descriptors of `sbc.v1`. Fields at their default are printed, so that an empty list is
//! `[]` and a reader finds every field.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Serializer;

use crate::error::Failure;

/// On how many lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Json {
    Indented,
    Line,
}

/// The message as proto JSON; `name` is its full name, for example `sbc.v1.Call`.
pub(crate) fn render(name: &str, message: &impl Message, form: Json) -> Result<String, Failure> {
    let fault = |cause: String| Failure::failed(format!("{name} cannot be printed as JSON")).cause(cause);
    let descriptor = pool().get_message_by_name(name).ok_or_else(|| fault("no such message".into()))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|e| fault(e.to_string()))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut out = Vec::new();
    match form {
        Json::Indented => dynamic.serialize_with_options(&mut Serializer::pretty(&mut out), &options),
        Json::Line => dynamic.serialize_with_options(&mut Serializer::new(&mut out), &options),
    }
    .map_err(|e| fault(e.to_string()))?;
    String::from_utf8(out).map_err(|e| fault(e.to_string()))
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(sbc_proto::FILE_DESCRIPTOR_SET).expect("built with the crate, and tested"))
}

#[cfg(test)]
mod tests {
    use sbc_proto::v1;

    use super::*;

    fn value(name: &str, message: &impl Message) -> serde_json::Value {
        let line = render(name, message, Json::Line).unwrap();
        assert!(!line.contains('\n'));
        let indented: serde_json::Value = serde_json::from_str(&render(name, message, Json::Indented).unwrap()).unwrap();
        let line = serde_json::from_str(&line).unwrap();
        assert_eq!(indented, line);
        line
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let json = value("sbc.v1.CallServiceListResponse", &v1::CallServiceListResponse::default());
        assert_eq!(json["calls"], serde_json::json!([]));
    }

    #[test]
    fn a_call_is_proto_json() {
        let call = v1::Call {
            uid: "1-a-2f".into(),
            state: v1::CallState::Answered.into(),
            emergency: true,
            revision: 1 << 60,
            received_at: Some(prost_types::Timestamp { seconds: 0, nanos: 500_000_000 }),
            media: Some(v1::MediaCounters { caller_packets: 7, ..Default::default() }),
            ..Default::default()
        };
        let json = value("sbc.v1.Call", &call);
        assert_eq!(json["state"], "CALL_STATE_ANSWERED");
        assert_eq!(json["revision"], (1u64 << 60).to_string());
        assert_eq!(json["receivedAt"], "1970-01-01T00:00:00.500Z");
        assert_eq!(json["media"]["callerPackets"], "7");
        assert_eq!(json["target"], "");
        assert!(json.get("endedAt").is_none_or(serde_json::Value::is_null));
    }

    #[test]
    fn an_unknown_message_is_an_error() {
        assert!(render("sbc.v1.Nothing", &v1::Call::default(), Json::Line).is_err());
    }
}
