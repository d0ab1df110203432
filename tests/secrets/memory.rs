//! Wiped memory: key, secret and their base-64 are nowhere in the process once everything that held them is dropped.
//! Linux only, because the test reads `/proc/self/mem`.
//!
//! The test must not hold what it looks for, so it keeps each needle masked and compares byte by byte. It never sends a
//! request: the copies in the buffers of the HTTP library are not ours to wipe.

use std::{
    fs::{self, File},
    iter::repeat_with,
    net::TcpListener,
    os::unix::fs::FileExt,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use osdatahub_auth::{CredentialsProvider, ErrorKind, FileCredentials, ProjectCredentials, TokenEndpoint, TokenSource};
use secrecy::zeroize::Zeroizing;
use tokio::runtime::Builder;

const MASK: u8 = 0xA5;
/// An allocator writes into the beginning of what it frees, so a needle is a part from further on.
const NEEDLE: std::ops::Range<usize> = 32..56;
const LENGTH: usize = 64;

/// A text that is in memory only with each byte masked.
struct Masked(Vec<u8>);

impl Masked {
    fn random() -> Self {
        let masked = || fastrand::alphanumeric() as u8 ^ MASK;
        Self(repeat_with(masked).take(LENGTH).collect())
    }

    /// The base-64 of the two joined by a colon, as HTTP Basic has it. Encodes three bytes at a time.
    fn basic(key: &Self, secret: &Self) -> Self {
        let pair = [&key.0[..], &[b':' ^ MASK], &secret.0].concat();
        let encoded = pair.chunks(3).flat_map(|chunk| {
            let plain: Vec<u8> = chunk.iter().map(|byte| byte ^ MASK).collect();
            STANDARD.encode(plain).into_bytes().into_iter().map(|byte| byte ^ MASK)
        });
        Self(encoded.collect())
    }

    fn plain(&self) -> String {
        let plain = self.0.iter().map(|byte| byte ^ MASK).collect();
        String::from_utf8(plain).unwrap()
    }

    fn is_at(&self, memory: &[u8]) -> bool {
        let needle = &self.0[NEEDLE];
        memory.len() >= needle.len() && memory.iter().zip(needle).all(|(byte, masked)| byte ^ MASK == *masked)
    }

    /// How often the needle is in this process's memory.
    fn count(&self) -> usize {
        let memory = File::open("/proc/self/mem").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut buffer = vec![0; 1024 * 1024];
        let mut count = 0;
        for region in maps.lines().filter(|line| line.contains(" rw") && !line.contains("[v")) {
            let (start, end) = region.split_once(' ').unwrap().0.split_once('-').unwrap();
            let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
            let own = buffer.as_ptr() as u64;
            let mut at = start;
            while at < end {
                let wanted = buffer.len().min(usize::try_from(end - at).unwrap());
                let Ok(read) = memory.read_at(&mut buffer[..wanted], at) else {
                    break;
                };
                let found = (0..read).filter(|offset| {
                    let address = at + *offset as u64;
                    // What the buffer holds of a page read before is not another copy.
                    !(own..own + buffer.len() as u64).contains(&address) && self.is_at(&buffer[*offset..read])
                });
                count += found.count();
                let overlap = if read == wanted && at + (read as u64) < end {
                    NEEDLE.len() as u64
                } else {
                    0
                };
                at += (read as u64).saturating_sub(overlap).max(1);
            }
        }
        count
    }
}

#[test]
fn nothing_of_key_secret_and_base64_stays_in_memory_once_all_is_dropped() {
    let (key, secret) = (Masked::random(), Masked::random());
    let basic = Masked::basic(&key, &secret);

    // The scan finds what is there.
    for masked in [&key, &secret, &basic] {
        let held = Zeroizing::new(masked.plain());
        assert_eq!(masked.count(), 1);
        drop(held);
    }

    let folder = std::env::temp_dir().join(format!("osdatahub-auth-memory-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, masked: &Masked| {
        let path = folder.join(name);
        fs::write(&path, &*Zeroizing::new(masked.plain() + "\n")).unwrap();
        path
    };
    let files = FileCredentials::new(write("key", &key), write("secret", &secret));
    let mut with_room = String::with_capacity(4 * LENGTH);
    with_room.push_str(&Zeroizing::new(key.plain()));
    fail_to_fetch(ProjectCredentials::new(with_room, secret.plain()).unwrap());
    fail_to_fetch(files);
    fs::remove_dir_all(&folder).unwrap();
    assert!(ProjectCredentials::new(key.plain(), secret.plain() + "\n").is_err());

    let copies = [&key, &secret, &basic].map(Masked::count);
    assert_eq!(copies, [0, 0, 0], "copies of the key, the secret and their base-64");
}

/// Makes the `Authorization` header of a request that is never written, because nothing listens.
fn fail_to_fetch(credentials: impl CredentialsProvider) {
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let url = format!("http://{closed}/").parse().unwrap();
    let endpoint = TokenEndpoint::builder(credentials).token_url(url).build().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(endpoint.fetch(None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
