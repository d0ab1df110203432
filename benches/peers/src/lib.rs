//! Comparison of `osdatahub-auth` with other token managers: cost per call, and behaviour with 299 s tokens.
//!
//! The README explains the method and how fair the comparison is.

pub mod endpoint;
pub mod life;
pub mod peers;
pub mod price;
pub mod report;
