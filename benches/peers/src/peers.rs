//! The contestants, each behind one small trait.

mod aliri;
mod azure;
mod by_hand;
mod gears;
mod google;
mod huskarl;
mod middle;
mod ours;

use std::{
    error::Error,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::HeaderMap;

pub use self::{
    aliri::Aliri, azure::Azure, by_hand::ByHand, gears::Gears, google::Google, huskarl::Huskarl, middle::Middle,
    ours::Ours,
};
use crate::endpoint::Endpoint;

/// Whatever went wrong, in anybody's words.
pub type Failure = Box<dyn Error + Send + Sync>;

const KEY: &str = "key";
const SECRET: &str = "secret";

/// A token manager, with its defaults, that gets its tokens from an [`Endpoint`].
pub trait Peer: Sized + Send + Sync + 'static {
    /// As in the lock file, if it is a crate.
    const NAME: &'static str;
    /// When it renews, when it gives up, and where its source says so.
    const RULE: &'static str;
    /// Whether it reads the endpoint's answer itself, and not by code that somebody writes for it.
    const READS: bool = true;

    /// Makes one. Some fetch their first token here, others when it is asked for.
    fn start(endpoint: &Endpoint) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// Puts a token into a request's headers, as its own client or documentation does.
    fn authorize(&self, headers: &mut HeaderMap) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What is timed. Some can only be called through more than is theirs, which is then taken off.
    fn timed(self) -> Timed {
        let mut headers = HeaderMap::new();
        let calls = move |calls| {
            for _ in 0..calls {
                poll_once(self.authorize(&mut headers)).expect("a cached token");
                black_box(&headers);
            }
        };
        Timed {
            calls: Box::new(calls),
            floor: None,
        }
    }
}

/// So many calls, one after another.
pub type Calls = Box<dyn FnMut(u32)>;

/// What is timed of a contestant.
pub struct Timed {
    /// The calls.
    pub calls: Calls,
    /// The same without the contestant, if the calls do more than it does.
    pub floor: Option<Calls>,
}

/// What a future brings that has nothing to wait for.
fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a cached token needs no waiting"),
    }
}

/// The same for each contestant, in the order of the tables.
macro_rules! for_each_peer {
    ($function:ident($($argument:expr),*)) => {{
        use $crate::peers::{Aliri, Azure, ByHand, Gears, Google, Huskarl, Middle, Ours};
        [
            $function::<Ours>($($argument),*),
            $function::<ByHand>($($argument),*),
            $function::<Aliri>($($argument),*),
            $function::<Azure>($($argument),*),
            $function::<Gears>($($argument),*),
            $function::<Google>($($argument),*),
            $function::<Huskarl>($($argument),*),
            $function::<Middle>($($argument),*),
        ]
    }};
}
pub(crate) use for_each_peer;
