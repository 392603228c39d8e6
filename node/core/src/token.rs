//! The owner token and everything else that is derived under the cluster key (anycast.md, rules A and C).
//!
//! A token is one AES-128 block, written as 26 lower-case base32 characters: an outsider can neither read nor forge it, and
//! any node knows from it whose a message is without looking anything up.

use aes::Aes128;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE, HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::ids::{CallUid, Incarnation, NodeId, PacketKey};

const VERSION: u8 = 1;
/// What the last four octets of a clear block must be: with a random key a forged token passes once in 2^32.
const CHECK: [u8; 4] = *b"sbc1";
/// Characters of an encoded token.
pub const TOKEN_LEN: usize = 26;

/// What a token stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Tag and Contact user part on the caller's leg.
    CallerLeg,
    /// Contact user part on the called leg.
    CalleeLeg,
    /// Via branch of a client transaction.
    Branch,
    /// Tag and Contact user part of a further early dialog on the caller's leg, 1 to [`MAX_FORK`].
    CallerFork(u8),
}

/// Early dialogs of one call that have a token of their own besides the first.
pub const MAX_FORK: u8 = 31;

/// Who minted an identifier, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerToken {
    /// Where it stands.
    pub kind: TokenKind,
    /// For legs: the call. For branches: minting node and incarnation with the transaction's serial.
    pub uid: CallUid,
}

/// The key ring: tokens are minted under one key and accepted under others too, so that keys can be exchanged node by node.
///
/// What is derived (claim keys, the identity of called legs, nonces) must be the same on all nodes at any moment, or two nodes would
/// dial one call as two: it comes from a secret of its own that is not exchanged while calls go on.
#[derive(Clone)]
pub struct ClusterKey {
    current: Aes128,
    others: Vec<Aes128>,
    derive: [u8; 32],
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey")
    }
}

/// The key of an initial INVITE: Call-ID, From-tag, CSeq number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey(pub [u8; 16]);

/// Identity of a called leg (rule C).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalleeIdentity {
    /// Call-ID.
    pub call_id: String,
    /// From-tag.
    pub from_tag: String,
    /// First CSeq number, 1..=65,535.
    pub cseq: u32,
}

impl ClusterKey {
    /// From 32 secret octets alone, and those before the last rotation.
    pub fn new(current: &[u8; 32], previous: Option<&[u8; 32]>) -> ClusterKey {
        ClusterKey::ring(current, previous, None)
    }

    /// Mints under `current`, accepts what was minted under `others` (before the last rotation, or after the coming one), and derives
    /// from `identity`; `None`: from `current`, which then must not be exchanged while calls go on. 32 secret octets each.
    pub fn ring<'a>(
        current: &[u8; 32],
        others: impl IntoIterator<Item = &'a [u8; 32]>,
        identity: Option<&[u8; 32]>,
    ) -> ClusterKey {
        let derived = |secret: &[u8; 32], label: &[u8]| mac(secret, &[label]);
        let aes = |secret: &[u8; 32]| Aes128::new(GenericArray::from_slice(&derived(secret, b"token")[..16]));
        ClusterKey {
            current: aes(current),
            others: others.into_iter().map(aes).collect(),
            derive: derived(identity.unwrap_or(current), b"derive"),
        }
    }

    /// Mints a token.
    pub fn seal(&self, token: OwnerToken) -> String {
        let mut block = [0u8; 16];
        block[0] = (VERSION << 4) | kind_code(token.kind);
        block[1..12].copy_from_slice(&token.uid.to_bytes());
        block[12..].copy_from_slice(&CHECK);
        if let TokenKind::CallerFork(fork) = token.kind {
            block[15] ^= fork & MAX_FORK;
        }
        let mut block = GenericArray::from(block);
        self.current.encrypt_block(&mut block);
        encode(&block.into())
    }

    /// Reads a token; `None` when it is not one of this cluster's.
    pub fn open(&self, text: &str) -> Option<OwnerToken> {
        let block = decode(text)?;
        open_with(&self.current, block).or_else(|| self.others.iter().find_map(|key| open_with(key, block)))
    }

    /// What a node says of itself to a peer that asked with `challenge`: nobody but a member can read it, and it answers no other question.
    pub fn seal_state(&self, node: NodeId, incarnation: Incarnation, bits: u8, challenge: &str) -> String {
        let mut block = [0u8; 16];
        block[0] = (VERSION << 4) | STATE_CODE;
        block[1..3].copy_from_slice(&node.0.to_be_bytes());
        block[3..7].copy_from_slice(&incarnation.0.to_be_bytes());
        block[7] = bits;
        block[8..12].copy_from_slice(&self.authenticate(&[b"state", challenge.as_bytes()])[..4]);
        block[12..].copy_from_slice(&CHECK);
        let mut block = GenericArray::from(block);
        self.current.encrypt_block(&mut block);
        encode(&block.into())
    }

    /// Reads what [`ClusterKey::seal_state`] has made for the same challenge.
    pub fn open_state(&self, text: &str, challenge: &str) -> Option<(NodeId, Incarnation, u8)> {
        let sealed = decode(text)?;
        let asked = self.authenticate(&[b"state", challenge.as_bytes()]);
        let open = |key: &Aes128| {
            let mut block = GenericArray::from(sealed);
            key.decrypt_block(&mut block);
            let fits = block[0] == (VERSION << 4) | STATE_CODE && block[8..12] == asked[..4] && block[12..] == CHECK;
            let incarnation = Incarnation(u32::from_be_bytes([block[3], block[4], block[5], block[6]]));
            fits.then(|| (NodeId(u16::from_be_bytes([block[1], block[2]])), incarnation, block[7]))
        };
        open(&self.current).or_else(|| self.others.iter().find_map(open))
    }

    /// The claim key of an initial INVITE.
    pub fn claim_key(&self, call_id: &str, from_tag: &str, cseq: u32) -> ClaimKey {
        ClaimKey(first16(&mac(&self.derive, &[b"claim", call_id.as_bytes(), from_tag.as_bytes(), &cseq.to_be_bytes()])))
    }

    /// The packet key of an initial INVITE or its CANCEL.
    pub fn packet_key(&self, key: ClaimKey, sent_by: &str, branch: &str) -> PacketKey {
        // The label is the name that the key once had: nodes of another version derive the same one.
        PacketKey(first16(&mac(&self.derive, &[b"exact", &key.0, sent_by.to_ascii_lowercase().as_bytes(), branch.as_bytes()])))
    }

    /// A MAC that every node of the cluster can make and verify. The first part says what for.
    pub fn authenticate(&self, parts: &[&[u8]]) -> [u8; 16] {
        first16(&mac(&self.derive, parts))
    }

    /// Text that far ends carry without being able to read it, as letters and digits: the same text gives the same. The first part says
    /// what for.
    pub fn wrap(&self, label: &[u8], text: &str) -> String {
        let seal = first16(&mac(&self.derive, &[b"wrap", label, text.as_bytes()]));
        let mut octets = text.as_bytes().to_vec();
        self.mask(label, &seal, &mut octets);
        HEXLOWER.encode(&[&seal[..], &octets].concat())
    }

    /// The text of [`ClusterKey::wrap`]; `None`: it is none of this cluster's.
    pub fn unwrap(&self, label: &[u8], wrapped: &str) -> Option<String> {
        let octets = HEXLOWER_PERMISSIVE.decode(wrapped.as_bytes()).ok()?;
        let (seal, octets) = octets.split_first_chunk::<16>()?;
        let mut octets = octets.to_vec();
        self.mask(label, seal, &mut octets);
        let text = String::from_utf8(octets).ok()?;
        (first16(&mac(&self.derive, &[b"wrap", label, text.as_bytes()])) == *seal).then_some(text)
    }

    /// A key stream that the seal, which depends on the text, makes another one for each.
    fn mask(&self, label: &[u8], seal: &[u8; 16], octets: &mut [u8]) {
        for (n, block) in (0u32..).zip(octets.chunks_mut(32)) {
            let stream = mac(&self.derive, &[b"stream", label, seal, &n.to_be_bytes()]);
            block.iter_mut().zip(stream).for_each(|(octet, mask)| *octet ^= mask);
        }
    }

    /// Identity of the called leg of a call: the same on every node that dials it (rule C).
    pub fn callee_identity(&self, key: ClaimKey, epoch: u32, target: u32) -> CalleeIdentity {
        let material = |label: &[u8]| mac(&self.derive, &[label, &key.0, &epoch.to_be_bytes(), &target.to_be_bytes()]);
        let cseq = material(b"cseq");
        CalleeIdentity {
            call_id: encode(&first16(&material(b"call-id"))),
            from_tag: encode(&first16(&material(b"from-tag"))),
            cseq: u32::from(u16::from_be_bytes([cseq[0], cseq[1]])).max(1),
        }
    }
}

fn kind_code(kind: TokenKind) -> u8 {
    match kind {
        TokenKind::CallerLeg => 1,
        TokenKind::CalleeLeg => 2,
        TokenKind::Branch => 3,
        TokenKind::CallerFork(_) => FORK_CODE,
    }
}

/// Leaves room for kinds that have no number. The number stands in the check, which is then right once in 2^27.
const FORK_CODE: u8 = 8;

/// What a node says of itself is no owner token, and no owner token passes for it.
const STATE_CODE: u8 = 9;

fn open_with(key: &Aes128, block: [u8; 16]) -> Option<OwnerToken> {
    let mut block = GenericArray::from(block);
    key.decrypt_block(&mut block);
    let fork = block[15] ^ CHECK[3];
    if block[12..15] != CHECK[..3] || block[0] >> 4 != VERSION {
        return None;
    }
    let kind = match block[0] & 15 {
        FORK_CODE if (1..=MAX_FORK).contains(&fork) => TokenKind::CallerFork(fork),
        _ if fork != 0 => return None,
        1 => TokenKind::CallerLeg,
        2 => TokenKind::CalleeLeg,
        3 => TokenKind::Branch,
        _ => return None,
    };
    let uid = CallUid::from_bytes(&block[1..12])?;
    (uid.node != NodeId(0) && uid.incarnation != Incarnation(0)).then_some(OwnerToken { kind, uid })
}

/// HMAC-SHA-256 over length-prefixed parts, so that no two lists of parts give the same input.
fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut m = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        m.update(&(part.len() as u64).to_be_bytes());
        m.update(part);
    }
    m.finalize().into_bytes().into()
}

fn first16(b: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&b[..16]);
    out
}

/// RFC 4648 base32, lower case, no padding: 16 octets to 26 characters.
fn encode(block: &[u8; 16]) -> String {
    let mut text = [0; TOKEN_LEN];
    BASE32_NOPAD.encode_mut(block, &mut text);
    text.make_ascii_lowercase();
    text.map(char::from).iter().collect()
}

/// In any case: far ends write some of what they copy in capitals.
fn decode(text: &str) -> Option<[u8; 16]> {
    let mut block = [0; 16];
    // Also what is left of the last character must be zero, or one block would have four texts.
    let fits = text.len() == TOKEN_LEN;
    (fits && BASE32_NOPAD_NOCASE.decode_mut(text.as_bytes(), &mut block).is_ok()).then_some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(serial: u64) -> OwnerToken {
        OwnerToken { kind: TokenKind::CallerLeg, uid: CallUid { node: NodeId(2), incarnation: Incarnation(9), serial } }
    }

    #[test]
    fn seals_and_opens() {
        let key = ClusterKey::new(&[7; 32], None);
        for serial in [0, 1, 0xff_ffff_ffff] {
            let text = key.seal(token(serial));
            assert_eq!(text.len(), TOKEN_LEN);
            assert_eq!(key.open(&text), Some(token(serial)));
            assert_eq!(key.open(&text.to_ascii_uppercase()), Some(token(serial)));
        }
    }

    #[test]
    fn a_block_has_one_text() {
        let text = encode(b"0123456789abcdef");
        assert_eq!((text.as_str(), decode(&text)), ("gaytemzugu3doobzmfrggzdfmy", Some(*b"0123456789abcdef")));
        assert_eq!(decode("gaytemzugu3doobzmfrggzdfmz"), None, "bits of no octet");
        assert_eq!((decode(&text[1..]), decode("gaytemzugu3doobzmfrggzdfm1"), decode(&format!("{text}aa"))), (None, None, None));
    }

    #[test]
    fn what_is_wrapped_is_read_by_the_cluster_alone() {
        let key = ClusterKey::new(&[7; 32], None);
        for text in ["", "a", &"call-id@198.18.0.1;to-tag=x;from-tag=y".repeat(4)] {
            let wrapped = key.wrap(b"replaces", text);
            assert!(wrapped.bytes().all(|b| b.is_ascii_alphanumeric()) && (text.len() < 8 || !wrapped.contains(text)));
            assert_eq!(key.unwrap(b"replaces", &wrapped).as_deref(), Some(text));
            assert_eq!((key.unwrap(b"other", &wrapped), key.unwrap(b"replaces", &wrapped[2..])), (None, None));
            assert_eq!(ClusterKey::new(&[8; 32], None).unwrap(b"replaces", &wrapped), None);
        }
        assert_eq!((key.unwrap(b"replaces", "x@y"), key.unwrap(b"replaces", "é0")), (None, None));
    }

    #[test]
    fn forks_have_tokens_of_their_own() {
        let key = ClusterKey::new(&[7; 32], None);
        let of = |kind| OwnerToken { kind, ..token(5) };
        let mut seen = std::collections::BTreeSet::from([key.seal(of(TokenKind::CallerLeg))]);
        for fork in 1..=MAX_FORK {
            let text = key.seal(of(TokenKind::CallerFork(fork)));
            assert_eq!(key.open(&text), Some(of(TokenKind::CallerFork(fork))));
            assert!(seen.insert(text));
        }
        assert_eq!(key.open(&key.seal(of(TokenKind::CallerFork(0)))), None, "the first dialog has the leg's own");
    }

    #[test]
    fn a_state_answers_its_question_and_no_other() {
        let key = ClusterKey::new(&[7; 32], None);
        let text = key.seal_state(NodeId(3), Incarnation(9), 0b101, "z9hG4bKa");
        assert_eq!(text.len(), TOKEN_LEN);
        assert_eq!(key.open_state(&text, "z9hG4bKa"), Some((NodeId(3), Incarnation(9), 0b101)));
        assert_eq!(key.open_state(&text, "z9hG4bKb"), None, "an answer that was seen before");
        assert_eq!(key.open(&text), None, "no owner token");
        assert_eq!(key.open_state(&key.seal(token(5)), "z9hG4bKa"), None);
        assert_eq!(ClusterKey::new(&[8; 32], None).open_state(&text, "z9hG4bKa"), None);
        let exchanged = ClusterKey::ring(&[8; 32], [&[7; 32]], Some(&[7; 32]));
        assert_eq!(exchanged.open_state(&text, "z9hG4bKa"), Some((NodeId(3), Incarnation(9), 0b101)));
    }

    #[test]
    fn every_mangled_character_is_noticed() {
        let key = ClusterKey::new(&[7; 32], None);
        let text = key.seal(token(5));
        for i in 0..TOKEN_LEN {
            for c in b"abcdefghijklmnopqrstuvwxyz234567" {
                let mut t = text.clone().into_bytes();
                if t[i] == *c {
                    continue;
                }
                t[i] = *c;
                assert_eq!(key.open(std::str::from_utf8(&t).unwrap()), None, "position {i}");
            }
        }
        assert_eq!(key.open(&text[1..]), None);
        assert_eq!(key.open(&format!("{}-", &text[1..])), None);
    }

    /// Node by node: first the new key is known to all, then minted with, then the old one forgotten. At no moment do two nodes differ
    /// in what they derive, or fail to read each other.
    #[test]
    fn keys_are_exchanged_node_by_node() {
        let (k1, k2, identity) = ([1; 32], [2; 32], Some(&[9; 32]));
        let steps = [
            ClusterKey::ring(&k1, [], identity),
            ClusterKey::ring(&k1, [&k2], identity),
            ClusterKey::ring(&k2, [&k1], identity),
            ClusterKey::ring(&k2, [], identity),
        ];
        for pair in steps.windows(2) {
            for (minted, read) in [(0, 1), (1, 0)] {
                assert_eq!(pair[read].open(&pair[minted].seal(token(5))), Some(token(5)));
            }
            let claims = [&pair[0], &pair[1]].map(|key| key.claim_key("a@b", "tag", 1));
            assert_eq!(claims[0], claims[1]);
            let called = [&pair[0], &pair[1]].map(|key| key.callee_identity(claims[0], 1, 7));
            assert_eq!(called[0], called[1]);
        }
        assert_ne!(
            ClusterKey::ring(&k1, [], identity).claim_key("a@b", "tag", 1),
            ClusterKey::new(&k1, None).claim_key("a@b", "tag", 1)
        );
    }

    #[test]
    fn rotation_keeps_the_previous_key() {
        let old = ClusterKey::new(&[1; 32], None);
        let new = ClusterKey::new(&[2; 32], Some(&[1; 32]));
        let text = old.seal(token(5));
        assert_eq!(new.open(&text), Some(token(5)));
        assert_eq!(ClusterKey::new(&[2; 32], None).open(&text), None);
    }

    #[test]
    fn identity_is_the_same_on_every_node_and_differs_by_call_epoch_and_target() {
        let a = ClusterKey::new(&[7; 32], None);
        let b = ClusterKey::new(&[7; 32], None);
        let k = a.claim_key("x@y", "tag", 1);
        assert_eq!(k, b.claim_key("x@y", "tag", 1));
        assert_eq!(a.callee_identity(k, 1, 0), b.callee_identity(k, 1, 0));
        assert_ne!(a.callee_identity(k, 1, 0), a.callee_identity(k, 2, 0));
        assert_ne!(a.callee_identity(k, 1, 0).call_id, a.callee_identity(k, 1, 1).call_id);
        assert_ne!(k, a.claim_key("x@y", "tag", 2));
        assert_ne!(a.claim_key("ab", "c", 1), a.claim_key("a", "bc", 1));
    }
}
