//! `sbc.v1.NodeService.Reload`: at the node that is meant.

use sbc_proto::v1 as pb;
use sbc_proto::v1::node_service_client::NodeServiceClient;
use tonic::{Code, Response, Status};

use super::auth::Caller;
use super::error::fault;
use super::shared::{FORWARD_BUDGET, Place, Shared, forwarded, on_behalf};

impl Shared {
    pub(super) async fn reload(
        &self,
        caller: &Caller,
        asked: pb::NodeServiceReloadRequest,
    ) -> Result<Response<pb::NodeServiceReloadResponse>, Status> {
        if let Place::There(name, channel) = self.place(&asked.node, caller)? {
            let mut client = NodeServiceClient::new(channel);
            return forwarded(&name, FORWARD_BUDGET, client.reload(on_behalf(asked, caller))).await;
        }
        tracing::info!(by = %caller.display(), request_id = %asked.request_id, "reload ordered");
        match self.node.reload().await {
            Ok(done) => Ok(Response::new(pb::NodeServiceReloadResponse {
                changed: done.changed,
                needs_restart: done.needs_restart,
                warnings: done.warnings,
            })),
            Err(error) => {
                let message = format!("nothing was changed: {error}");
                Err(fault(Code::InvalidArgument, pb::ErrorReason::InvalidConfig, message, &[("node", self.my_name())]))
            }
        }
    }
}
