//! The house rules of the .proto files (buf STANDARD, and a permission on every RPC), checked on the descriptors.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor, MethodDescriptor, ServiceDescriptor, Value};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(sbc_proto::FILE_DESCRIPTOR_SET).expect("the descriptor set decodes")
}

fn services() -> Vec<ServiceDescriptor> {
    let services: Vec<_> = pool().services().filter(|s| s.package_name() == "sbc.v1").collect();
    assert!(services.len() >= 6, "only {} services: the descriptor set is not ours", services.len());
    services
}

fn methods() -> Vec<MethodDescriptor> {
    services().iter().flat_map(|s| s.methods().collect::<Vec<_>>()).collect()
}

fn messages() -> Vec<MessageDescriptor> {
    pool().all_messages().filter(|m| m.package_name() == "sbc.v1").collect()
}

fn enums() -> Vec<EnumDescriptor> {
    pool().all_enums().filter(|e| e.package_name() == "sbc.v1").collect()
}

fn option(method: &MethodDescriptor, name: &str) -> Option<Value> {
    let extension = pool().get_extension_by_name(name).unwrap_or_else(|| panic!("{name} is declared"));
    let options = method.options();
    options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(|c| c.is_ascii_alphanumeric())
}

fn is_lower_snake(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// "CallState" to "CALL_STATE_".
fn prefix(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if i > 0 && c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out + "_"
}

#[test]
fn a_package_lives_in_its_directory() {
    for file in pool().files().filter(|f| f.package_name().starts_with("sbc.")) {
        let directory = file.name().rsplit_once('/').expect("a directory").0;
        assert_eq!(directory.replace('/', "."), file.package_name(), "{}", file.name());
    }
}

#[test]
fn names_follow_their_style() {
    for message in messages() {
        assert!(is_pascal(message.name()), "message {}", message.full_name());
        for field in message.fields() {
            assert!(is_lower_snake(field.name()), "field {}", field.full_name());
        }
    }
    for service in services() {
        assert!(is_pascal(service.name()) && service.name().ends_with("Service"), "service {}", service.full_name());
    }
    for method in methods() {
        assert!(is_pascal(method.name()), "rpc {}", method.full_name());
    }
}

#[test]
fn enums_begin_unspecified_and_prefix_their_values() {
    assert!(!enums().is_empty());
    for e in enums() {
        let prefix = prefix(e.name());
        let zero = e.get_value(0).unwrap_or_else(|| panic!("{} has no zero value", e.full_name()));
        assert_eq!(zero.name(), format!("{prefix}UNSPECIFIED"), "zero value of {}", e.full_name());
        for value in e.values() {
            assert!(value.name().starts_with(&prefix), "{} lacks the prefix {prefix}", value.full_name());
        }
    }
}

#[test]
fn every_rpc_has_its_own_request_and_response() {
    let mut used: HashMap<String, String> = HashMap::new();
    for method in methods() {
        let base = format!("{}{}", method.parent_service().name(), method.name());
        for (message, suffix) in [(method.input(), "Request"), (method.output(), "Response")] {
            assert_eq!(message.name(), format!("{base}{suffix}"), "of {}", method.full_name());
            let other = used.insert(message.full_name().to_owned(), method.full_name().to_owned());
            assert_eq!(other, None, "{} is used twice", message.full_name());
        }
    }
}

#[test]
fn every_rpc_names_its_permission() {
    for method in methods() {
        let permission = option(&method, "sbc.v1.permission");
        let permission = permission.as_ref().and_then(Value::as_str).unwrap_or_default();
        let (area, verb) =
            permission.split_once('.').unwrap_or_else(|| panic!("{}: permission {permission:?}", method.full_name()));
        assert!(is_lower_snake(area) && is_lower_snake(verb), "{}: permission {permission:?}", method.full_name());
    }
}

/// True when the message, or one that it holds, has parties, an identity or a location.
fn carries_personal_data(message: &MessageDescriptor, depth: u32) -> bool {
    const PERSONAL: [&str; 5] =
        ["sbc.v1.CallParties", "sbc.v1.CallerIdentity", "sbc.v1.Location", "sbc.v1.LadderMessage", "sbc.v1.AdditionalData"];
    PERSONAL.contains(&message.full_name())
        || depth > 0 && message.fields().any(|f| f.kind().as_message().is_some_and(|m| carries_personal_data(m, depth - 1)))
}

#[test]
fn an_rpc_is_marked_as_personal_exactly_when_its_answer_is() {
    for method in methods() {
        let marked = option(&method, "sbc.v1.pii").and_then(|v| v.as_bool()).unwrap_or(false);
        assert_eq!(marked, carries_personal_data(&method.output(), 6), "{}", method.full_name());
    }
}

#[test]
fn a_changing_rpc_takes_a_request_id() {
    for method in methods() {
        let permission = option(&method, "sbc.v1.permission").expect("checked above");
        if permission.as_str().is_some_and(|p| p.ends_with(".read")) {
            continue;
        }
        assert!(method.input().get_field_by_name("request_id").is_some(), "{}", method.full_name());
    }
}

#[test]
fn error_reasons_survive_the_wire() {
    use sbc_proto::v1::ErrorReason;
    assert_eq!(ErrorReason::NoLeader.reason(), "NO_LEADER");
    for e in enums().iter().filter(|e| e.name() == "ErrorReason") {
        for value in e.values() {
            let reason = ErrorReason::try_from(value.number()).expect("generated from the same file");
            assert_eq!(ErrorReason::from_reason(reason.reason()), Some(reason));
        }
    }
    assert_eq!(ErrorReason::from_reason("NOT_OURS"), None);
}
