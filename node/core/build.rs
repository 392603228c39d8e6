//! Compiles the replicated records (proto/sbc/store/v1) without protoc.

fn main() {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}/sbc/store/v1");
    let set = protox::compile(["sbc/store/v1/store.proto"], [root]).expect("store.proto compiles");
    tonic_prost_build::configure().build_client(false).build_server(false).bytes(".").compile_fds(set).expect("code generation");
}
