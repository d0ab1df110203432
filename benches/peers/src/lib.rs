//! What `osdatahub-auth` and other token managers cost and do, side by side. The README says how, and how fairly.

pub mod endpoint;
pub mod life;
pub mod peers;
pub mod price;
pub mod report;
