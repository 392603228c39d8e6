//! Random operations from a seed: no panic, the limit holds, time never stands still, nothing outlives its timers.

use super::*;
use crate::ids::SendId;
use crate::io::SendFailure;

/// Small, so that it is often reached.
const LIMIT: usize = 12;
const STATUSES: [u16; 10] = [100, 180, 183, 199, 200, 202, 302, 408, 486, 603];

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn transport(&mut self) -> Transport {
        self.pick(&[Transport::Udp, Transport::Udp, Transport::Tcp, Transport::Tls])
    }
}

#[derive(Default)]
struct Seen {
    servers: Vec<ServerTxId>,
    clients: Vec<ClientTxId>,
    sends: Vec<SendId>,
    ended: usize,
}

impl Seen {
    fn drain(&mut self, t: &mut Transactions) {
        while let Some(output) = t.poll_output() {
            match output {
                TxOutput::Transmit(x) => {
                    assert!(!x.payload.is_empty(), "a message that was let go is never sent");
                    self.sends.push(x.id);
                }
                TxOutput::SendFor { transmit, .. } => assert_eq!(transmit.id, SendId(0)),
                TxOutput::Event(TxEvent::ServerTerminated(id)) => {
                    assert_eq!((t.server_back(id), t.server_final(id)), (None, None));
                    self.ended += 1;
                }
                TxOutput::Event(TxEvent::ClientTerminated(id)) => {
                    assert!(t.way(id).is_none());
                    self.ended += 1;
                }
                TxOutput::Event(_) => {}
            }
        }
    }

    fn created(&self) -> usize {
        self.servers.len() + self.clients.len()
    }
}

fn create(t: &mut Transactions, rng: &mut Rng, now: Instant, seen: &mut Seen) {
    let invite = rng.below(2) == 0;
    let branch = format!("z9hG4bK{}", rng.below(40));
    let full = t.is_full();
    if rng.below(2) == 0 {
        let key = key(&branch, if invite { "INVITE" } else { "BYE" });
        let taken = t.find_server(&key).is_some();
        let id = t.create_server(now, ServerUser::Nobody, key.clone(), invite, back(rng.transport()));
        assert_eq!(id.is_none(), full || taken);
        if let Some(id) = id {
            assert!(!seen.servers.contains(&id));
            assert_eq!(t.find_server(&key), Some(id));
            seen.servers.push(id);
        }
    } else {
        let taken = t.find_client(&branch, invite).is_some();
        let to = path(rng.transport(), "127.0.2.1:5060");
        let id = t.send_request(now, new(branch.as_str().into(), invite, to, None, text("request")));
        assert_eq!(id.is_none(), full || taken);
        if let Some(id) = id {
            assert!(!seen.clients.contains(&id));
            assert_eq!(t.find_client(&branch, invite), Some(id));
            seen.clients.push(id);
        }
    }
}

fn step(t: &mut Transactions, rng: &mut Rng, now: &mut Instant, seen: &mut Seen) {
    let status = rng.pick(&STATUSES);
    // Mostly the latest ones: they live.
    let server = seen.servers.iter().rev().nth(rng.below(LIMIT)).copied();
    let client = seen.clients.iter().rev().nth(rng.below(LIMIT)).copied();
    match (rng.below(13), server, client) {
        (0..=2, _, _) => create(t, rng, *now, seen),
        (3..=4, Some(id), _) => t.respond(*now, id, status, text("response")),
        (5, Some(id), _) => {
            let way = if rng.below(2) == 0 { through(2, rng.transport()) } else { back(rng.transport()) };
            t.on_request_retransmission(*now, id, way);
        }
        (6, Some(id), _) => {
            t.on_ack(*now, id);
        }
        (7..=8, _, Some(id)) => {
            if t.on_response(*now, id, status) == ResponseAction::NeedAck && rng.below(8) > 0 {
                t.set_ack(*now, id, text("ack"));
            }
        }
        (9, _, Some(id)) if rng.below(20) == 0 => t.abandon_client(id),
        (9, _, _) if !seen.sends.is_empty() => {
            let send = rng.pick(&seen.sends);
            t.on_send_failed(*now, send, rng.pick(&[SendFailure::Refused, SendFailure::Congested]));
        }
        _ => {
            let micros = rng.pick(&[1, 999, 30_000, 500_000, 4_000_000, 33_000_000, 3_700_000_000]);
            *now = *now + std::time::Duration::from_micros(rng.below(micros) as u64);
            t.handle_timeout(*now, usize::MAX);
            assert!(t.poll_timeout().is_none_or(|at| at > *now));
        }
    }
}

#[test]
fn nothing_outlives_its_timers() {
    for seed in 0..200 {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let mut t = Transactions::new(LIMIT);
        let mut now = ms(123_456);
        let mut seen = Seen::default();
        for _ in 0..1000 {
            step(&mut t, &mut rng, &mut now, &mut seen);
            seen.drain(&mut t);
            assert!(t.len() <= LIMIT);
            assert!(t.held().0 <= 2 * t.len(), "two timers a transaction at most");
            assert!(t.held().0 >= t.len(), "each transaction has a timer that will end it");
            assert_eq!(seen.created() - seen.ended, t.len());
        }
        let end = now + timing::PROCEEDING_LIMIT;
        while let Some(at) = t.poll_timeout() {
            assert!(at >= now && at <= end + std::time::Duration::from_millis(1));
            now = at;
            t.handle_timeout(now, usize::MAX);
            seen.drain(&mut t);
        }
        assert_eq!(seen.ended, seen.created());
        assert_gone(&t);
    }
}
