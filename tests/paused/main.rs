//! Tests in paused time, with an in-process source.

mod bad_input;
mod events;
mod handout;
mod life_of_a_token;
mod metrics;
mod outages;
mod refresh;
mod rejected_tokens;
mod simulation;
mod waiting;
