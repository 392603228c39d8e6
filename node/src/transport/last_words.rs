//! The answer to a stream whose message boundaries are lost (RFC 3261 §18.3): said, heard, and then the end.

use std::time::Duration;

use bytes::Bytes;
use sbc_core::io::{Path, ReturnPath};
use sbc_core::sip::FrameError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long the far end may take to close its side. Closing while its octets are unread would reset the connection, and the
/// answer would be lost with it.
const LINGER: Duration = Duration::from_millis(500);
/// What is read and thrown away in that time.
const MAX_DISCARDED: usize = 1 << 20;

/// The answer to what broke the framing; `None` where none is due.
pub(super) fn answer_to(error: &FrameError, path: Path) -> Option<Bytes> {
    let mut draft = error.parse.as_ref()?.reply()?;
    sbc_core::call::fill_via(&mut draft, &ReturnPath::here(path));
    draft.encode().ok()
}

/// Writes it, closes our side, and waits for the far end to close its own.
pub(super) async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &[u8]) {
    let said = timeout(LINGER, async {
        stream.write_all(answer).await?;
        stream.shutdown().await
    });
    if !matches!(said.await, Ok(Ok(()))) {
        return;
    }
    let _ = timeout(LINGER, async {
        let mut buffer = [0; 4096];
        let mut left = MAX_DISCARDED;
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
    })
    .await;
}
