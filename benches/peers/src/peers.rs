//! The token managers under test, each behind the same small trait.

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

/// Error of any crate.
pub type Failure = Box<dyn Error + Send + Sync>;

const KEY: &str = "key";
const SECRET: &str = "secret";

/// Token manager under test, with its default settings, that fetches its tokens from an [`Endpoint`].
pub trait Peer: Sized + Send + Sync + 'static {
    /// Name of the crate as in the lock file, or a description.
    const NAME: &'static str;
    /// When it refreshes, how it handles failures, and the source files that say so.
    const RULE: &'static str;
    /// Whether its own code parses the endpoint's response. If not, its user writes that code.
    const PARSES_RESPONSE: bool = true;

    /// Builds it. Some fetch their first token here, others on the first call.
    fn start(endpoint: &Endpoint) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// Inserts the token into a request's headers, as its own client or documentation does.
    fn authorize(&self, headers: &mut HeaderMap) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The calls to time. Some managers can only be called through a larger pipeline, which is subtracted as the
    /// floor.
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

/// Makes the given number of calls, one after another.
pub type Calls = Box<dyn FnMut(u32)>;

/// Calls of one contestant, ready to be timed.
pub struct Timed {
    /// The calls.
    pub calls: Calls,
    /// The same calls without the contestant, if they include work that is not its own.
    pub floor: Option<Calls>,
}

/// Output of a future that is ready at its first poll.
fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future is not ready at its first poll"),
    }
}

/// Calls a generic function once per contestant, in the order of the tables.
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
