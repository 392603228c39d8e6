//! A session description: with our address and ports it has the same lines, can be read, and names nobody else.

use sbc_core::sip::{LineRewrite, Sdp, SdpRewrite};

/// The target. True when it was taken.
pub(crate) fn run(octets: &[u8]) -> bool {
    let Ok(sdp) = Sdp::parse(octets) else {
        // What can be mended is a description like any other, and stays what it is.
        let Some(mended) = Sdp::repair(octets) else { return false };
        let again = Sdp::repair(mended.raw()).expect("it has been mended");
        assert_eq!((again.raw(), again.media().len()), (mended.raw(), mended.media().len()));
        return rewritten(&mended);
    };
    rewritten(&sdp)
}

fn rewritten(sdp: &Sdp) -> bool {
    let octets = sdp.raw();
    let line = |port| if port == 0 { LineRewrite::Keep } else { LineRewrite::Port(30_000) };
    let lines: Vec<LineRewrite> = sdp.media().iter().map(|media| line(media.port)).collect();
    let rewrite = SdpRewrite { origin: Some(("-".into(), 1, 2)), address: "127.0.0.1".parse().expect("address"), lines };
    let out = sdp.rewrite(&rewrite);
    let renumbered = Sdp::parse(&sdp.with_origin("sbc", 3, 4)).expect("only its o-line is another");
    assert_eq!((&*renumbered.origin().sess_id, renumbered.media()), ("3", sdp.media()));
    let ours = Sdp::parse(&out).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(octets)));
    assert_eq!(ours.media().len(), sdp.media().len());
    for (before, after) in sdp.media().iter().zip(ours.media()) {
        assert_eq!(after.port, if before.port == 0 { 0 } else { 30_000 });
        assert_eq!((&after.kind, &after.formats, after.direction), (&before.kind, &before.formats, before.direction));
    }
    assert_eq!(ours.rewrite(&rewrite), out, "rewriting is stable");
    // With fewer codecs it can still be read, has the same media, and each of them still a format.
    if let Some(fewer) = sdp.without_codecs(&|name| name.len() % 2 == 0) {
        let fewer = Sdp::parse(&fewer).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(octets)));
        let same =
            fewer.media().iter().zip(sdp.media()).all(|(f, m)| (&f.kind, f.port) == (&m.kind, m.port) && !f.formats.is_empty());
        assert!(same && fewer.media().len() == sdp.media().len());
        assert_eq!(fewer.without_codecs(&|name| name.len() % 2 == 0), None, "nothing is left to take out");
    }
    assert!(!out.windows(13).any(|octets| octets == b"\na=candidate:"));
    true
}
